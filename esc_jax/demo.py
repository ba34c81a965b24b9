"""A web page that listens: upload or record a sound, and read what the model hears in it, and when.

    python -m esc_jax.demo --checkpoint=runs/resnet34
    python -m esc_jax.demo --checkpoint=runs/resnet34 --examples=recordings/ --host=0.0.0.0 --port=8080

The page is for this machine alone unless --host says otherwise. Sounds are worked on one after the other, and deleted
ten minutes after they were uploaded, or with the server. It needs requirements-demo.txt.
"""

import argparse
import os
import pathlib
import sys
from typing import Any, NamedTuple

from esc_jax import files
from esc_jax.errors import Failure, command

TOP = 5
EXAMPLES = 6
_WAITING = 20  # users in the queue; the next is told to come back later
_KEPT_S = 600  # an upload: two who upload the same sound have one file, which nobody may delete as soon as it was heard


class DemoError(Failure, RuntimeError):
    """A page that cannot be served. The message is one sentence for the user."""


class Heard(NamedTuple):
    """What the page shows of a sound.

    Attributes:
        sentence: Markdown.
        top: class → probability of the five likeliest; None where there is nothing to name.
        picture: matplotlib's, spectrogram and timeline; None where the sound cannot be used.
        rows: (from, to, sound, %) of the passages of one likeliest class.
    """

    sentence: str
    top: dict[str, float] | None = None
    picture: Any = None
    rows: list[list[str]] = []


def listen(classifier, path: str, most_s: float, progress=lambda share: None) -> Heard:
    """Classifies an audio file; a problem is a sentence, not an exception.

    Args:
        classifier: `classifier.SoundClassifier`.
        path: the file.
        most_s: longest sound that is taken, s.
        progress: called with the share that is done.
    """
    from esc_jax import plots_timeline
    from esc_jax.classifier import clock
    from esc_jax.data.audio import AudioError

    overview = plots_timeline.Overview(classifier.sample_rate)
    done = 0.0

    def observe(block, stream) -> None:
        nonlocal done
        done += len(block) / stream.sample_rate
        if max(done, stream.announced_s) > most_s:
            raise AudioError(f"the sound is longer than the {clock(most_s)} that this page takes")
        progress(min(1.0, done / max(stream.announced_s, done)))
        overview.add(block)

    try:
        timeline = classifier.timeline(path, observe=observe)
    except AudioError as error:
        sentence = str(error).removeprefix(f"{path}: ")
        return Heard(f"**This can't be used:** {sentence}.")
    picture = plots_timeline.recording(timeline, overview, "")
    average, length = timeline.mean(), clock(timeline.duration_s, True)
    if average is None:
        return Heard(f"**Silence**, {length} of it.", None, picture)
    top = {name.replace("_", " "): share for name, share in average.top(TOP)}
    first = next(iter(top))
    sentence = f"**{first}**, on average over {length}."
    if average.unfamiliar:
        sentence = f"**Unlike anything in training**: the names below are guesses. Closest: {first}."
    if timeline.note:
        sentence += f" The file broke off: {timeline.note.removeprefix(f'{path}: ')}."
    rows, edges = [], timeline.edges
    for begin, stop in timeline.passages():
        part = timeline.mean(begin, stop)
        name, share = part.top(1)[0] if part else ("silence", None)
        name = name.replace("_", " ")
        unsure = " (unlike anything in training)" if part and part.unfamiliar else ""
        times = [clock(edge, True) for edge in (edges[begin], edges[stop])]
        rows.append([*times, name + unsure, "" if share is None else f"{100 * share:.1f}"])
    return Heard(sentence, top, picture, rows)


def examples(classifier, data: dict[str, Any], folder: str | None) -> list[tuple[str, bytes]]:
    """Sounds to offer, name and bytes: of a folder; else test clips of different classes, if the data set is there.

    Args:
        classifier: `classifier.SoundClassifier`.
        data: of the run's config.
        folder: of --examples, or None.

    Raises:
        AudioError: the folder holds no recordings.
    """
    from esc_jax import predict
    from esc_jax.data.audio import AudioError
    from esc_jax.data.source import DataError, open_source

    if folder:
        found, problems = predict.find([folder])
        if problems or not all(map(os.path.isfile, found)):
            raise AudioError(f"--examples={folder}: {'no such folder' if not problems else 'holds no recordings'}")
        return [(pathlib.Path(path).name, pathlib.Path(path).read_bytes()) for path in found[:EXAMPLES]]
    if not data["dir"]:
        return []
    try:
        source = open_source(data["dir"])
    except DataError:  # the run comes from elsewhere
        return []
    tested = [row for row in reversed(source.rows) if row.fold == data["test_fold"]]
    by_class = {row.category: row for row in tested if row.category in classifier.classes}
    chosen = [by_class[name] for name in sorted(by_class)]
    chosen = chosen[:: max(1, len(chosen) // EXAMPLES)][:EXAMPLES]
    return [(pathlib.Path(row.filename).name, source.read(row)) for row in chosen]


def page(classifier, offered: list[tuple[str, bytes]], most_s: float, folder: pathlib.Path):
    """The page: a `gradio.Blocks`, not launched.

    Args:
        classifier: `classifier.SoundClassifier`.
        offered: `examples`.
        most_s: longest sound that is taken, s.
        folder: of Gradio's temporary files.
    """
    import gradio

    def hear(path: str | None, progress=gradio.Progress()):
        if path is None:
            return "", None, None, gradio.update(value=[], visible=False)
        found = listen(classifier, path, most_s, progress)
        table = gradio.update(value=found.rows, visible=len(found.rows) > 1)
        return found.sentence, found.top, found.picture, table

    own = []  # copies: the folders that the examples come from are not served
    for number, (name, content) in enumerate(offered):
        own.append(folder / "examples" / str(number) / name)
        own[-1].parent.mkdir(parents=True)
        own[-1].write_bytes(content)
    with gradio.Blocks(title="esc_jax", analytics_enabled=False, delete_cache=(60, _KEPT_S)) as made:
        gradio.Markdown(
            f"# What do you hear?\nUpload or record a sound. The model knows {len(classifier.classes)} classes and"
            f" listens to {classifier.window_s:g} seconds at a time. Sounds of up to {most_s / 60:g} minutes are taken,"
            f" and deleted {_KEPT_S // 60} minutes later."
        )
        with gradio.Row():
            with gradio.Column():
                sound = gradio.Audio(
                    type="filepath", sources=["upload", "microphone"], label="Sound", editable=False, buttons=[]
                )
                if offered:
                    gradio.Examples([[path] for path in own], sound, label="Examples", cache_examples=False)
            with gradio.Column():
                sentence = gradio.Markdown(elem_id="sentence")
                top = gradio.Label(label="Most likely", num_top_classes=TOP)
        picture = gradio.Plot(label="Over time")
        table = gradio.Dataframe(headers=["from", "to", "sound", "%"], visible=False, interactive=False)
        # A change is an upload, the end of a recording, an example, or that the sound was taken away.
        sound.change(hear, sound, [sentence, top, picture, table], api_name="hear")
        gradio.Markdown(f"Classes: {', '.join(name.replace('_', ' ') for name in classifier.classes)}.")
    return made.queue(default_concurrency_limit=1, max_size=_WAITING)


@command
def main(argv: list[str] | None = None) -> None:
    """The command line: serves the page until it is interrupted."""
    parser = argparse.ArgumentParser(
        "python -m esc_jax.demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--checkpoint", metavar="DIR", required=True, help="workdir of a finished run")
    add("--examples", metavar="DIR", help="sounds to offer (default: clips of the data set, where data.dir has them)")
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine alone)")
    add("--port", type=int, default=7860, help="(default: %(default)s)")
    add("--max_minutes", type=float, default=10.0, help="longest sound that is taken (default: %(default)g)")
    add("--max_mb", type=int, default=100, help="largest file that is taken (default: %(default)d)")
    options = parser.parse_args(argv)
    if options.max_minutes <= 0 or options.max_mb <= 0 or not 0 < options.port < 65536:
        parser.error("--max_minutes and --max_mb must be above 0, --port from 1 to 65535")
    with files.temporary_folder("esc_jax_demo_") as folder:
        os.environ["GRADIO_TEMP_DIR"] = str(folder)
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        for name in ("no_proxy", "NO_PROXY"):  # Gradio asks its own page whether it is there
            os.environ[name] = ",".join([*filter(None, [os.environ.get(name)]), "localhost", "127.0.0.1", options.host])
        try:
            import gradio  # noqa: F401
        except ImportError:
            parser.exit(2, "esc_jax: the demo needs Gradio: pip install -r requirements-demo.txt\n")
        _serve(options, folder)


def _serve(options: argparse.Namespace, folder: pathlib.Path) -> None:
    """Serves the page until it is interrupted; `folder` is as in `page`."""
    import gradio

    from esc_jax import classifier as classifiers
    from esc_jax.data import prepare
    from esc_jax.training import checkpoint, parallel

    parallel.initialize(prepare.cache_root() / "compiled")
    classifier = classifiers.load_classifier(options.checkpoint)
    data = checkpoint.read_meta(*checkpoint.find(options.checkpoint))["config"]["data"]
    offered = examples(classifier, data, options.examples)
    made = page(classifier, offered, 60 * options.max_minutes, folder.resolve())
    fonts = ["system-ui", "sans-serif"]  # no font is fetched from elsewhere
    try:
        _, address, _ = made.launch(
            quiet=True,
            prevent_thread_lock=True,
            server_name=options.host,
            server_port=options.port,
            max_file_size=options.max_mb << 20,
            share=False,
            footer_links=[],
            theme=gradio.themes.Base(font=fonts, font_mono=["ui-monospace", "monospace"]),
        )
    except OSError as error:
        if error.errno is not None:
            raise
        raise DemoError(
            f"{options.host}:{options.port} is not free, or not of this machine: choose another --port or --host"
        ) from None
    sys.stdout.write(f"listening on {address}; Ctrl-C ends it\n")
    sys.stdout.flush()
    made.block_thread()


if __name__ == "__main__":
    sys.exit(main())
