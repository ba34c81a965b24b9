"""Classifies recordings of any length: which classes are heard in them, and when.

    esc-jax predict --model=runs/resnet34 storm.ogg
    esc-jax predict --model=mn04_as storm.ogg
    esc-jax predict --model=runs/resnet34 --segments=begin,middle,end storm.ogg
    esc-jax predict --model=runs/resnet34 --csv=OUT.csv --plot=OUT.png recordings/ "more/**/*.mp3"

A window slides over each recording. Windows start at 0, hop, 2 hop, … as long as they fit. If the last window ends
before the recording does, one more window ends with the recording. A recording shorter than a window, and a window
shorter than a training clip, is padded with zeros at its end, as short clips are in training. The table has a row for
each run of windows with the same class (the mean over these windows), or a row for each of --segments: the first
window, the one closest to the middle, and the last. With a multi-label model, a row is a run of windows with the same
detected classes: those with a probability above their threshold. Its last row has the largest probabilities.

FILE is a recording, a folder (searched recursively, by file extension), or a quoted pattern. WAV, FLAC, OGG, MP3 and
other formats are read with libsndfile, and M4A, WebM, WMA and others with ffmpeg, where it is installed. Files that
cannot be read, or that break off, are reported at the end, and the exit status is 1. Memory does not grow with the
length of a recording.
"""

import argparse
import pathlib
import sys
from typing import TYPE_CHECKING, Any

from esc_jax.cli import parser as arguments
from esc_jax.cli.command import command, discard_native_output, initialize_device
from esc_jax.errors import MultipleErrors, UserError, collect_errors
from esc_jax.inference import output, recordings

if TYPE_CHECKING:  # numpy and JAX, which --help does not need
    import numpy as np

    from esc_jax.data.stream import AudioStream
    from esc_jax.inference.classifier import SoundClassifier
    from esc_jax.inference.timeline import Timeline
    from esc_jax.report.timeline_plot import Overview

PICTURES = (".png", ".pdf", ".svg")


class PredictError(UserError, ValueError):
    """A command line that would overwrite its input. The message is one sentence."""


def _parser() -> arguments.Parser:
    parser = arguments.Parser("predict", __doc__)
    arguments.add_model(
        parser, "workdir of a run; or a published classifier: its name (esc-jax weights list), file, folder or hub id"
    )
    add = parser.add_argument
    seconds, smooth = arguments.seconds(), arguments.seconds(0.0, 86_400.0)
    segments = arguments.choices(*output.SEGMENTS)
    add("--window_s", metavar="S", type=seconds, help="length of a window (default: of the training clips)")
    add("--hop_s", metavar="S", type=seconds, default=1.0, help="between the starts of windows (default: 1)")
    add(
        "--top_k", metavar="K", type=arguments.integer(), default=3, help="classes per row, in all outputs (default: 3)"
    )
    add("--segments", metavar="NAMES", type=segments, help="a table of these windows only: begin,middle,end")
    add("--smooth_s", metavar="S", type=smooth, default=0.0, help="length of a moving average (default: 0, none)")
    silence = "windows with a lower RMS level (dB relative to full scale) are silence (default: -60; or: off)"
    add("--silence_db", metavar="DB", type=arguments.decibels, default=-60.0, help=silence)
    add("--json", metavar="OUT.json", type=arguments.output(".json"), help="every window: classes, level, silence")
    add("--csv", metavar="OUT.csv", type=arguments.output(".csv"), help="file, start_s, end_s, class, probability")
    picture = "a picture; with several recordings one of each, OUT-NAME.png"
    add("--plot", metavar="OUT.png", type=arguments.output(*PICTURES), help=picture)
    add("files", metavar="FILE", nargs="+", help="recording, folder or quoted pattern")
    return parser


def _timeline(
    classifier: "SoundClassifier", file: str, options: argparse.Namespace, overview: "Overview | None"
) -> "Timeline":
    """The timeline of a file, with a progress bar. Adds the samples to the overview. Raises AudioError."""
    import tqdm

    bar_format = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s [{elapsed}<{remaining}]"
    name = pathlib.Path(file).name
    with tqdm.tqdm(desc=name, total=1.0, bar_format=bar_format, leave=False, disable=None) as bar:

        def observe(block: "np.ndarray", stream: "AudioStream") -> None:
            bar.total = max(stream.announced_s, bar.n, 0.01)
            bar.update(min(len(block) / stream.sample_rate, bar.total - bar.n))
            if overview:
                overview.add(block)

        return classifier.timeline(
            file,
            options.window_s,
            options.hop_s,
            smooth_s=options.smooth_s,
            silence_db=options.silence_db,
            observe=observe,
        )


def _classify(
    classifier: "SoundClassifier",
    files: list[str],
    options: argparse.Namespace,
    timelines: list[tuple[str, "Timeline"]],
    problems: list[str],
) -> None:
    """Classifies the files, prints their tables and draws their pictures.

    Args:
        classifier: the model.
        files: the recordings.
        options: the command line.
        timelines: (file, timeline) of each recording is appended.
        problems: errors are appended, one sentence each.
    """
    pictures: set[pathlib.Path] = set()
    for file in files:
        overview, timeline = None, None
        if options.plot:
            from esc_jax.report import timeline_plot  # imports matplotlib

            overview = timeline_plot.Overview(classifier.sample_rate)
        with collect_errors(problems, file):
            timeline = _timeline(classifier, file, options, overview)
        if timeline is None:
            continue
        if timeline.incomplete:
            problems.append(timeline.note)
        elif timeline.note:
            sys.stderr.write(f"esc_jax: {timeline.note}\n")
        timelines.append((file, timeline))
        sys.stdout.write(output.table(file, timeline, options.top_k, options.segments))
        sys.stdout.flush()
        if overview:
            picture = output.plot_path(options.plot, file, pictures, len(files) == 1)
            pictures.add(picture)
            with collect_errors(problems, picture):
                timeline_plot.recording(timeline, overview, pathlib.Path(file).name, picture)


def _settings(classifier: "SoundClassifier", options: argparse.Namespace) -> dict[str, Any]:
    """The entries at the top of the JSON document."""
    return {
        "model": options.model,
        "task": classifier.task.name,
        "classes": list(classifier.classes),
        "sample_rate": classifier.sample_rate,
        "window_s": options.window_s or classifier.window_s,
        "hop_s": options.hop_s,
        "smooth_s": options.smooth_s,
        "silence_db": options.silence_db,
    }


@command
def main(argv: list[str] | None = None) -> None:
    """The command."""
    options = _parser().parse(argv)
    discard_native_output()
    files, problems = recordings.find_recordings(options.files)
    written = {path.resolve() for path in (options.json, options.csv, options.plot) if path}
    for file in files:
        if pathlib.Path(file).resolve() in written:
            raise PredictError(f"{file} is both read and written: give another name for the results")
    from esc_jax.inference import classifier as classifiers

    initialize_device()
    classifier = classifiers.load_classifier(options.model)
    timelines: list[tuple[str, Timeline]] = []
    try:
        _classify(classifier, files, options, timelines, problems)
    except KeyboardInterrupt:
        problems.append(f"interrupted after {len(timelines)} of {len(files)} files")
    finally:  # whatever happened, the finished files are written
        if options.csv:
            with collect_errors(problems, options.csv):
                output.write_csv(options.csv, timelines, options.top_k)
        if options.json:
            with collect_errors(problems, options.json):
                settings = _settings(classifier, options)
                output.write_json(options.json, timelines, options.top_k, settings=settings, problems=problems)
    if problems:
        raise MultipleErrors(problems)
