"""A web page that classifies uploaded and recorded sounds."""

from collections.abc import Callable, Mapping
import os
import pathlib
from typing import TYPE_CHECKING, Any, NamedTuple

from esc_jax import files
from esc_jax.data.audio import AudioError
from esc_jax.data.layouts.registry import open_source
from esc_jax.data.rows import DataError
from esc_jax.evaluation.escaping import escape_markdown
from esc_jax.inference import recordings
from esc_jax.inference.classifier import SoundClassifier, load_classifier
from esc_jax.inference.output import NO_CLASS, SILENCE, UNFAMILIAR
from esc_jax.inference.timeline import Prediction, Timeline, clock
from esc_jax.report import timeline_plot
from esc_jax.runtime import memory
from esc_jax.serving import uploads
from esc_jax.serving.uploads import AddressError
from esc_jax.tasks.base import Task

if TYPE_CHECKING:
    import gradio


MAX_EXAMPLES = 6
# Equal uploads share one file, which therefore cannot be deleted as soon as one of them is classified.
_DELETE_AFTER_S = 600


class PageResult(NamedTuple):
    """What the page shows for a sound.

    Attributes:
        sentence: Markdown.
        top: class → probability of the most probable classes, or of the detected classes of a multi-label model; None
            for silence, where no class is detected, and for files that cannot be used.
        picture: spectrogram and timeline, a matplotlib figure; None for files that cannot be used.
        rows: (from, to, class, percent) of each passage of the timeline.
    """

    sentence: str
    top: dict[str, float] | None = None
    picture: Any = None
    rows: list[list[str]] = []


def _display_name(label: str) -> str:
    return label.replace("_", " ")


def _passages(timeline: Timeline) -> list[list[str]]:
    """(from, to, class, percent) of each passage."""
    rows, edges = [], timeline.edges
    for first, stop in timeline.passages():
        times = [clock(edge, True) for edge in (edges[first], edges[stop])]
        prediction = timeline.mean(first, stop)
        if prediction is None:
            rows.append([*times, SILENCE, ""])
            continue
        shares = dict(prediction.top(len(prediction.labels)))
        names = ", ".join(map(_display_name, prediction.detected)) or NO_CLASS
        suffix = f" ({UNFAMILIAR})" if prediction.unfamiliar else ""
        rows.append([*times, names + suffix, ", ".join(f"{100 * shares[name]:.1f}" for name in prediction.detected)])
    return rows


def _sentence(prediction: Prediction, task: Task, length: str) -> str:
    """The result for a whole sound as Markdown; `length` is its duration as text."""
    names = closest = ", ".join(escape_markdown(_display_name(name)) for name in prediction.detected)
    if prediction.nearest:
        name, share, threshold = prediction.nearest
        closest = f"{escape_markdown(_display_name(name))} ({100 * share:.0f} %, threshold {100 * threshold:.0f} %)"
    if prediction.unfamiliar:
        return f"**{UNFAMILIAR.capitalize()}**: the names below are guesses. Closest: {closest}."
    if task.exclusive:
        return f"**{names}**, on average over {length}."
    if not names:
        return f"**{NO_CLASS.capitalize()}** in {length}. Closest: {closest}."
    return f"**{names}**, detected in {length}."


def classify_upload(
    classifier: SoundClassifier, path: str, max_s: float, progress: Callable[[float], object] = lambda fraction: None
) -> PageResult:
    """Classifies an audio file. A file that cannot be used gives a sentence, not an exception.

    Args:
        classifier: the model.
        path: the file.
        max_s: maximum length of the sound, s.
        progress: called with the fraction that is done.
    """
    overview = timeline_plot.Overview(classifier.sample_rate)
    try:
        timeline = uploads.classify(classifier, path, max_s, progress=progress, observe=overview.add)
    except AudioError as error:
        return PageResult(f"**This can't be used:** {escape_markdown(str(error))}.")
    picture = timeline_plot.recording(timeline, overview, "")
    whole, length = timeline.whole(), clock(timeline.duration_s, True)
    if whole is None:
        return PageResult(f"**Silence**, {length} of it.", None, picture)
    shares = dict(whole.top(len(whole.labels)))
    shown = whole.labels[: uploads.TOP_K] if classifier.task.exclusive else whole.detected[: uploads.TOP_K]
    top = {_display_name(label): shares[label] for label in shown} or None
    sentence = _sentence(whole, classifier.task, length)
    if timeline.note:
        sentence += f" Note: {escape_markdown(timeline.note)}."
    return PageResult(sentence, top, picture, _passages(timeline))


def classify_document(classifier: SoundClassifier, path: str | None, max_s: float) -> dict[str, Any]:
    """The result for programs: that of `uploads.document`, or `error`, a sentence, for a file that cannot be used."""
    if path is None:
        return {"error": "no sound was given"}
    try:
        return uploads.document(uploads.classify(classifier, path, max_s), uploads.TOP_K)
    except AudioError as error:
        return {"error": str(error)}


class Example(NamedTuple):
    """A sound to choose.

    Attributes:
        name: of the file.
        content: of the file.
        label: what the button says.
    """

    name: str
    content: bytes
    label: str


def find_examples(classifier: SoundClassifier, data: Mapping[str, Any], folder: str | None = None) -> list[Example]:
    """Example sounds. The label of a test clip is its class, that of a file in a folder its name.

    Args:
        classifier: the model.
        data: the `data` section of the run's config.
        folder: recordings to use. None for test clips of different classes, if the data set is in `data["dir"]`.

    Raises:
        AudioError: the folder contains no recordings.
    """
    if folder:
        paths, problems = recordings.find_recordings([folder])
        if not paths or not all(map(os.path.isfile, paths)):
            raise AudioError(f"--examples={folder}: {'contains no recordings' if problems else 'no such folder'}")
        chosen = map(pathlib.Path, paths[:MAX_EXAMPLES])
        return [Example(path.name, path.read_bytes(), _display_name(path.stem)) for path in chosen]
    if not data["dir"]:
        return []
    try:
        source = open_source(data["dir"], data)
    except DataError:  # the run was trained on another machine
        return []
    tested = [row for row in reversed(source.rows) if row.fold == data["test_fold"]]
    by_class = {source.categories[row.targets[0]]: row for row in tested if len(row.targets) == 1}
    by_class = {name: row for name, row in by_class.items() if name in classifier.classes}
    names = sorted(by_class)
    names = names[:: max(1, len(names) // MAX_EXAMPLES)][:MAX_EXAMPLES]
    rows = [(name, by_class[name]) for name in names]
    return [Example(pathlib.Path(row.filename).name, source.read(row), _display_name(name)) for name, row in rows]


def build_page(
    classifier: SoundClassifier, examples: list[Example], max_s: float, folder: pathlib.Path
) -> "gradio.Blocks":
    """Builds the page without serving it.

    Args:
        classifier: the model.
        examples: of `find_examples`.
        max_s: maximum length of a sound, s.
        folder: for copies of the examples; Gradio serves files of its own temporary folder only.
    """
    import gradio

    def classify(path: str | None, progress: Any = gradio.Progress()) -> tuple[Any, ...]:
        if path is None:
            return "", None, None, gradio.update(value=[], visible=False)
        result = classify_upload(classifier, path, max_s, progress)
        table = gradio.update(value=result.rows, visible=len(result.rows) > 1)
        return result.sentence, result.top, result.picture, table

    copies = []
    for number, example in enumerate(examples):
        copies.append(folder / "examples" / str(number) / example.name)
        copies[-1].parent.mkdir(parents=True)
        copies[-1].write_bytes(example.content)
    with gradio.Blocks(title="esc_jax", analytics_enabled=False, delete_cache=(60, _DELETE_AFTER_S)) as blocks:
        gradio.Markdown(
            f"# What do you hear?\nUpload or record a sound. The model knows {len(classifier.classes)} classes and"
            f" listens to {classifier.window_s:g} seconds at a time. Sounds of up to {max_s / 60:g} minutes are taken,"
            f" and deleted {_DELETE_AFTER_S // 60} minutes later."
        )
        with gradio.Row():
            with gradio.Column():
                sound = gradio.Audio(
                    type="filepath", sources=["upload", "microphone"], label="Sound", editable=False, buttons=[]
                )
                if copies:
                    labels = [example.label for example in examples]
                    gradio.Examples(
                        [[path] for path in copies],
                        sound,
                        label="Examples",
                        example_labels=labels,
                        cache_examples=False,
                    )
            with gradio.Column():
                sentence = gradio.Markdown(elem_id="sentence")
                top = gradio.Label(label=classifier.task.decision_label.capitalize(), num_top_classes=uploads.TOP_K)
        picture = gradio.Plot(label="Over time", show_label=False)  # the label would cover the axis
        table = gradio.Dataframe(headers=["from", "to", "sound", "%"], visible=False, interactive=False)
        # A change is an upload, the end of a recording, the choice of an example, or the removal of the sound.
        shown = [sentence, top, picture, table]
        sound.change(classify, sound, shown, api_name="show", api_visibility="private", concurrency_id="classify")
        # What programs call: named numbers in the place of what the page shows.
        result = gradio.JSON(label="result", visible=False)
        gradio.Button(visible=False).click(
            lambda sound: classify_document(classifier, sound, max_s),
            sound,
            result,
            api_name="classify",
            concurrency_id="classify",
        )
        names = ", ".join(escape_markdown(_display_name(name)) for name in classifier.classes)
        gradio.Markdown(f"Classes: {names}.")
    return blocks.queue(default_concurrency_limit=1, max_size=uploads.MAX_QUEUE)


def _configure_gradio(host: str, folder: pathlib.Path) -> None:
    """Sets the environment that Gradio reads when it is imported."""
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    for name in ("no_proxy", "NO_PROXY"):  # Gradio requests its own page once it is served
        os.environ[name] = ",".join([*filter(None, [os.environ.get(name)]), "localhost", "127.0.0.1", host])


def serve(
    model: str,
    *,
    host: str,
    port: int,
    examples_folder: str | None,
    max_s: float,
    max_mb: int,
    announce: Callable[[str], None],
) -> None:
    """Serves the page until the process is interrupted.

    Args:
        model: workdir of a run.
        host, port: address to listen on.
        examples_folder: as in `find_examples`.
        max_s: maximum length of a sound, s.
        max_mb: maximum size of an upload, MiB.
        announce: called with the address when the page is served.

    Raises:
        AddressError: the address cannot be used.
        CheckpointError, ModelPathError, AudioError: as in the functions above.
    """
    with files.temporary_folder("esc_jax_demo_") as folder:
        _configure_gradio(host, folder)
        memory.share_heap()  # Gradio has forty threads, whose heaps would grow for minutes
        import gradio

        classifier = load_classifier(model)
        examples = find_examples(classifier, classifier.config.data, examples_folder)
        page = build_page(classifier, examples, max_s, folder.resolve())
        fonts = ["system-ui", "sans-serif"]  # no fonts from other servers
        try:
            _, address, _ = page.launch(
                quiet=True,
                prevent_thread_lock=True,
                server_name=host,
                server_port=port,
                max_file_size=max_mb << 20,
                share=False,
                footer_links=[],
                theme=gradio.themes.Base(font=fonts, font_mono=["ui-monospace", "monospace"]),
            )
        except OSError as error:
            if error.errno is not None:  # Gradio's own error for a port in use has none
                raise
            raise AddressError(host, port) from None
        announce(address)
        page.block_thread()
