"""A web page that classifies uploaded and recorded sounds."""

import argparse
import os
import pathlib
import sys
from typing import Any, NamedTuple

from esc_jax.errors import Failure

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
    from esc_jax.data.audio import AudioError
    from esc_jax.inference.timeline import clock
    from esc_jax.report import timeline_plot as plots_timeline

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
    from esc_jax.data.audio import AudioError
    from esc_jax.data.rows import DataError
    from esc_jax.data.layouts.registry import open_source
    from esc_jax.inference import recordings

    if folder:
        found, problems = recordings.find_recordings([folder])
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


def serve(options: argparse.Namespace, folder: pathlib.Path) -> None:
    """Serves the page until it is interrupted; `folder` is as in `page`."""
    import gradio

    from esc_jax.data import cache
    from esc_jax.inference import classifier
    from esc_jax.runtime import xla
    from esc_jax.training import checkpoint

    xla.initialize(cache.cache_root() / "compiled")
    classifier = classifier.load_classifier(options.checkpoint)
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
