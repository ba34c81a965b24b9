"""Classifies recordings of any length: which classes are heard in them, and when.

    esc-jax predict --model=runs/resnet34 storm.ogg
    esc-jax predict --model=mn04_as storm.ogg
    esc-jax predict --model=runs/resnet34 --segments=begin,middle,end storm.ogg
    esc-jax predict --model=runs/resnet34 --csv=OUT.csv --plot=OUT.png recordings/ "more/**/*.mp3"
    esc-jax predict --model=mn04_as --out=RESULTS --formats=events,audacity recordings/

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

With --out, each recording gets result files of its own, in a folder with the same tree as the recordings. They are
written when the recording is finished. If the command is stopped (exit status 75), the same command continues. Several
processes can share a folder.
"""

import argparse
from collections.abc import Callable
import dataclasses
import os
import pathlib
import sys
from typing import TYPE_CHECKING, Any

from esc_jax import files
from esc_jax.cli import parser as arguments
from esc_jax.cli.command import command, discard_native_output, initialize_device
from esc_jax.errors import EX_TEMPFAIL, MultipleErrors, UserError, collect_errors
from esc_jax.inference import output, recordings, result_files

if TYPE_CHECKING:  # numpy and JAX, which --help does not need
    from datetime import datetime

    import numpy as np

    from esc_jax.data.stream import AudioStream
    from esc_jax.inference.archive import Archive
    from esc_jax.inference.classifier import SoundClassifier
    from esc_jax.inference.timeline import Timeline
    from esc_jax.report.timeline_plot import Overview

PICTURES = (".png", ".pdf", ".svg")
MAX_CLIP_S = 30.0


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
    add("--names", metavar="NAMES.csv", type=pathlib.Path, help="other names of classes: two columns, class and name")
    _add_archive_options(parser)
    add("files", metavar="FILE", nargs="+", help="recording, folder or quoted pattern")
    return parser


def _add_archive_options(parser: arguments.Parser) -> None:
    group = parser.add_argument_group("a result file for each recording")
    add = group.add_argument
    add("--out", metavar="RESULTS", type=pathlib.Path, help="folder of the results")
    formats = arguments.choices(*result_files.FORMATS)
    text = f"comma-separated: {', '.join(result_files.FORMATS)} (default: csv)"
    add("--formats", metavar="NAMES", type=formats, default=("csv",), help=text)
    share = arguments.number(0.0, 1.0)
    text = "smallest probability of an event (default: the thresholds of the model)"
    add("--min_confidence", metavar="P", type=share, help=text)
    text = "smallest probability of some classes: two columns, class and probability"
    add("--thresholds", metavar="T.csv", type=pathlib.Path, help=text)
    span = arguments.seconds(0.0, 86_400.0)
    add("--min_length_s", metavar="S", type=span, default=0.0, help="drop shorter events (default: 0)")
    add("--max_gap_s", metavar="S", type=span, default=0.0, help="join events with a shorter gap (default: 0)")
    text = "when a recording began: names, to read it in file names, or a time such as 2026-05-11T05:30+02:00"
    add("--start", metavar="TIME", help=text)
    add("--clips", metavar="DIR", type=pathlib.Path, help="folder for the best events of each class, as wav files")
    add("--clips_per_class", metavar="N", type=arguments.integer(1, 10_000), default=10, help="(default: 10)")


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
    paths: list[str],
    options: argparse.Namespace,
    timelines: list[tuple[str, "Timeline"]],
    problems: list[str],
) -> None:
    """Classifies recordings, prints their tables and draws their pictures.

    Args:
        classifier: the model.
        paths: the recordings.
        options: the command line.
        timelines: (file, timeline) of each recording is appended.
        problems: errors are appended, one sentence each.
    """
    pictures: set[pathlib.Path] = set()
    for file in paths:
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
            picture = output.plot_path(options.plot, file, pictures, len(paths) == 1)
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


def _start_of(options: argparse.Namespace) -> "Callable[[str], datetime | None]":
    """The function that gives the time at which a recording began. Raises TimeError."""
    from esc_jax.inference import times

    if options.start is None:
        return lambda file: None
    start = times.parse_start(options.start)
    return times.time_in_name if start is None else lambda file: start


def _check_archive_options(parser: arguments.Parser, options: argparse.Namespace) -> None:
    """Refuses options that do not belong together."""
    needed = ("min_confidence", "thresholds", "min_length_s", "max_gap_s", "start", "clips")
    if not options.out:
        if given := [name for name in needed if getattr(options, name)]:
            parser.error(f"--{given[0]} is for --out=RESULTS")
        return
    if given := [name for name in ("json", "csv", "plot", "segments") if getattr(options, name)]:
        parser.error(f"--{given[0]} is for the output on the terminal; --out writes files, see --formats")


def _archive(classifier: "SoundClassifier", paths: list[str], options: argparse.Namespace, problems: list[str]) -> None:
    """Classifies recordings into the folder --out. Errors are appended to `problems`."""
    from esc_jax.inference import archive, class_table, events

    thresholds = class_table.read_numbers(options.thresholds) if options.thresholds else {}
    chosen = events.EventOptions(options.min_confidence, thresholds, options.min_length_s, options.max_gap_s)
    events.check_thresholds(chosen, classifier.classes)
    start_of, settings = _start_of(options), _settings(classifier, options)
    formats = list(dict.fromkeys([*options.formats, *(["events"] if options.clips else [])]))
    recorded = {
        "weights": archive.weights_checksum(classifier.model.variables),
        "formats": formats,
        "top_k": options.top_k,
        "start": options.start,
        "events": dataclasses.asdict(chosen),
    }
    writers = [result_files.FORMATS[name] for name in formats]
    root = archive.common_folder(options.files)
    store = archive.Archive(options.out, root, settings | recorded, [suffix for suffix, _ in writers])

    def classify(file: str) -> tuple[float, str, list[str]]:
        timeline = classifier.timeline(
            file, options.window_s, options.hop_s, smooth_s=options.smooth_s, silence_db=options.silence_db
        )
        found = events.find_events(timeline, chosen)
        result = result_files.Result(
            store.name(file), timeline, found, start_of(file), classifier.sample_rate, options.top_k, settings
        )
        return timeline.duration_s, timeline.note, [write(result) for _, write in writers]

    _process(store, paths, classify, problems)
    if options.clips:
        _write_excerpts(store, paths, options, problems)


def _process(
    store: "Archive",
    paths: list[str],
    classify: "Callable[[str], tuple[float, str, list[str]]]",
    problems: list[str],
) -> None:
    """Classifies recordings into an archive under a progress bar, and prints how many; see `archive.process`."""
    import tqdm

    from esc_jax.inference import archive
    from esc_jax.inference.timeline import clock

    counts = dict.fromkeys(("done", "skipped", "locked", "failed"), 0)
    seconds = 0.0

    def summary() -> str:
        parts = [f"{counts['done']} recordings of {clock(seconds)} classified"]
        parts += [f"{counts['skipped']} finished before"] if counts["skipped"] else []
        parts += [f"{counts['locked']} in work by other processes"] if counts["locked"] else []
        parts += [f"{counts['failed']} failed"] if counts["failed"] else []
        return f"{store.folder}: {', '.join(parts)}"

    def stop(number: int) -> int:  # what is finished is on the disk, and the locks end with the process
        sentence = f"\nesc_jax: stopped: {summary()}; run the same command again to continue\n"
        os.write(sys.stderr.fileno(), sentence.encode())
        return EX_TEMPFAIL

    with (
        files.exit_on_signal(stop, interrupt=True),
        tqdm.tqdm(desc=str(store.folder), total=len(paths), unit="file", disable=None) as bar,
    ):
        for outcome in archive.process(store, paths, classify):
            counts[outcome.status] += 1
            seconds += outcome.duration_s
            if outcome.status == "failed" or outcome.note:
                problems.append(outcome.note)
            bar.update()
    sys.stdout.write(summary() + "\n")


def _write_excerpts(store: "Archive", paths: list[str], options: argparse.Namespace, problems: list[str]) -> None:
    """Writes the best events of all recordings that are finished, whichever call finished them."""
    from esc_jax.inference import excerpts

    suffix, _ = result_files.FORMATS["events"]
    tables = [store.folder / f"{store.name(path)}{suffix}" for path in paths if store.is_finished(path)]
    best = excerpts.best_events(
        (detection for table in tables for detection in excerpts.read_events(table)), options.clips_per_class
    )
    written = excerpts.write_excerpts(best, store.root, options.clips, MAX_CLIP_S, problems)
    sys.stdout.write(f"{options.clips}: {written} excerpts\n")


@command
def main(argv: list[str] | None = None) -> None:
    """The command."""
    parser = _parser()
    options = parser.parse(argv)
    _check_archive_options(parser, options)
    discard_native_output()
    paths, problems = recordings.find_recordings(options.files)
    written = {path.resolve() for path in (options.json, options.csv, options.plot) if path}
    for file in paths:
        if pathlib.Path(file).resolve() in written:
            raise PredictError(f"{file} is both read and written: give another name for the results")
    from esc_jax.inference import classifier as classifiers

    initialize_device()
    classifier = classifiers.load_classifier(options.model)
    if options.names:
        from esc_jax.inference import class_table

        classifier.classes = class_table.renamed(classifier.classes, class_table.read_names(options.names))
    if options.out:
        _archive(classifier, paths, options, problems)
        if problems:
            raise MultipleErrors(problems)
        return
    timelines: list[tuple[str, Timeline]] = []
    try:
        _classify(classifier, paths, options, timelines, problems)
    except KeyboardInterrupt:
        problems.append(f"interrupted after {len(timelines)} of {len(paths)} files")
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
