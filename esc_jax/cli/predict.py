"""Classifies recordings of any length: which sounds they contain, and when.

    esc-jax predict storm.ogg
    esc-jax predict --model=runs/resnet34 storm.ogg
    esc-jax predict --model=mn04_as storm.ogg
    esc-jax predict --model=runs/resnet34 --segments=begin,middle,end storm.ogg
    esc-jax predict --model=runs/resnet34 --csv=OUT.csv --plot=OUT.png recordings/ "more/**/*.mp3"
    esc-jax predict --model=mn04_as --out=RESULTS --formats=events,audacity recordings/

A window slides over each recording. Windows start at 0, hop, 2 hop, … as long as they fit. If the last window ends
before the recording does, one more window ends with the recording. A recording shorter than a window, and a window
shorter than a training clip, is padded with zeros at its end, as short clips are in training. The table has a row for
each series of windows with the same class (with the mean over these windows), or a row for each of --segments: the
first window, the one closest to the middle, and the last. With a multi-label model, a row is a series of windows with
the same detected classes: the classes whose probability is at least their threshold. The last row has the largest
probabilities.

FILE is a recording, a folder (searched recursively, by file extension), or a quoted pattern. WAV, FLAC, OGG, MP3 and
other formats are read with libsndfile, and M4A, WebM, WMA and others with ffmpeg, where it is installed. Files that
cannot be read, or that break off, are reported at the end, and the exit status is 1. Memory does not grow with the
length of a recording.

Ctrl-C and SIGTERM end the command with status 130 and 143. --csv and --json then have the recordings that are finished.

With --out, each recording gets result files of its own, in a folder with the same tree as the recordings. The files are
written when the recording is finished. If the command is stopped (exit status 75), the same command continues. Several
processes can share a folder.
"""

import argparse
from collections.abc import Iterator
import os
import pathlib
import signal
import sys
from typing import TYPE_CHECKING

from esc_jax import files
from esc_jax.cli import archives
from esc_jax.cli import parser as arguments
from esc_jax.cli.command import (
    command,
    discard_native_output,
    exit_resumable,
    initialize_device,
    write_at_signal,
)
from esc_jax.errors import MultipleErrors, UserError, collect_errors, counted, printable
from esc_jax.inference import output, recordings, result_files

if TYPE_CHECKING:  # numpy and JAX, which --help does not need
    import numpy as np

    from esc_jax.data.stream import AudioStream
    from esc_jax.inference.archive import Archive, Classify
    from esc_jax.inference.classifier import SoundClassifier
    from esc_jax.inference.timeline import Timeline
    from esc_jax.report.timeline_plot import Overview

PICTURES = (".png", ".pdf", ".svg")
MAX_CLIP_S, CLIPS_PER_CLASS = 30.0, 10


class PredictError(UserError, ValueError):
    """A command line that would overwrite its input. The message is one sentence."""


def _parser() -> arguments.Parser:
    parser = arguments.Parser("predict", __doc__)
    arguments.add_classifier(parser)
    add = parser.add_argument
    segments = arguments.choices(*output.SEGMENTS)
    archives.add_window_options(parser)
    add("--segments", metavar="NAMES", type=segments, help="a table of these windows only: begin,middle,end")
    add("--json", metavar="OUT.json", type=arguments.output(".json"), help="all windows: classes, level, silence")
    add(
        "--csv",
        metavar="OUT.csv",
        type=arguments.output(".csv"),
        help="all windows: classes, level, silent, unfamiliar",
    )
    picture = "write a picture; with several recordings one for each, OUT-NAME.png"
    add("--plot", metavar="OUT.png", type=arguments.output(*PICTURES), help=picture)
    group = parser.add_argument_group("a result file for each recording")
    archives.add_options(group)
    text = "folder for the best events of each class, as wav files"
    group.add_argument("--clips", metavar="DIR", type=arguments.path, help=text)
    number = arguments.integer(1, 10_000)
    text = f"events of each class (default: {CLIPS_PER_CLASS})"
    group.add_argument("--clips_per_class", metavar="N", type=number, help=text)
    add("files", metavar="FILE", nargs="+", type=arguments.text, help="recording, folder or quoted pattern")
    return parser


def _timeline(
    classifier: "SoundClassifier", file: str, options: argparse.Namespace, overview: "Overview | None"
) -> "Timeline":
    """The timeline of a file, with a progress bar. Adds the samples to the overview. Raises AudioError."""
    import tqdm

    bar_format = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s [{elapsed}<{remaining}]"
    name = printable(pathlib.Path(file).name)
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
    pictures: set[str] = set()
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
            sys.stderr.write(f"esc_jax: {printable(timeline.note)}\n")
        timelines.append((file, timeline))
        sys.stdout.write(output.table(printable(file), timeline, options.top_k, options.segments))
        sys.stdout.flush()
        if overview:
            picture = output.plot_path(options.plot, file, pictures, len(paths) == 1)
            pictures.add(picture.name.casefold())
            with collect_errors(problems, picture):
                timeline_plot.recording(timeline, overview, pathlib.Path(file).name, picture)


def _write_tables(
    classifier: "SoundClassifier",
    options: argparse.Namespace,
    timelines: list[tuple[str, "Timeline"]],
    problems: list[str],
) -> None:
    """Writes --csv and --json. Errors are appended to `problems`."""
    if options.csv:
        with collect_errors(problems, options.csv):
            output.write_csv(options.csv, timelines, options.top_k, bool(options.csv_bom))
    if options.json:
        with collect_errors(problems, options.json):
            settings = archives.settings(classifier, options)
            output.write_json(options.json, timelines, options.top_k, settings=settings, problems=problems)


def _check_archive_options(parser: arguments.Parser, options: argparse.Namespace) -> None:
    """Refuses options that do not belong together."""

    def given(*names: str) -> list[str]:
        return [name for name in names if getattr(options, name) is not None]

    if options.csv_bom and not (options.out or options.csv):
        parser.error("--csv_bom needs --csv=OUT.csv or --out=RESULTS")
    if options.out is None:
        if names := given(*archives.NEEDED, "start", "clips", "clips_per_class"):
            parser.error(f"--{names[0]} needs --out=RESULTS")
        return
    if names := given("json", "csv", "plot", "segments"):
        parser.error(f"--{names[0]} is for the output on the terminal; --out writes files, see --formats")
    if options.clips is None and given("clips_per_class"):
        parser.error("--clips_per_class needs --clips=DIR")


def _check_written(options: argparse.Namespace, paths: list[str]) -> None:
    """Raises PredictError where a recording or a table of classes would be overwritten."""
    written = {files.resolve(path) for path in (options.json, options.csv, options.plot) if path}
    if options.clips:
        from esc_jax.inference import excerpts

        written.add(files.resolve(options.clips / excerpts.TABLE))
    for file in (*paths, *(path for path in (options.names, options.thresholds) if path)):
        if files.resolve(file) in written:
            raise PredictError(f"{file} is both read and written: give another name for the results")
    if options.clips:
        _check_clips(options, paths)


def _check_clips(options: argparse.Namespace, paths: list[str]) -> None:
    """Raises PredictError where excerpts would replace a table, or be found as recordings by the next call."""
    from esc_jax.inference import excerpts

    if not excerpts.is_replaceable(options.clips):
        table = options.clips / excerpts.TABLE
        raise PredictError(f"{table} is not as predict has written it: rename it, or give another --clips folder")
    folder = files.resolve(options.clips)
    for argument in options.files:
        if os.path.isdir(place := files.resolve(argument)) and folder.is_relative_to(place):
            raise PredictError(
                f"--clips={options.clips} is in the folder of the recordings, {argument}: give another folder"
            )
    for path in paths:
        if files.resolve(path).is_relative_to(folder):
            raise PredictError(f"{path} is in --clips={options.clips}: give another folder for the excerpts")


def _archive(classifier: "SoundClassifier", paths: list[str], options: argparse.Namespace, problems: list[str]) -> None:
    """Classifies recordings into the folder --out. Errors are appended to `problems`."""
    extra = ["events"] if options.clips else []
    store, classify = archives.open_archive(classifier, options, options.files, extra)
    archives.report_times(options, paths)
    _process(store, paths, classify, problems)
    if options.clips:
        window_s = options.window_s or classifier.window_s
        with exit_resumable(lambda: "stopped while excerpts were written"):
            _write_excerpts(store, paths, window_s, options, problems)


def _process(store: "Archive", paths: list[str], classify: "Classify", problems: list[str]) -> None:
    """Classifies recordings into an archive under a progress bar, and prints how many; see `archive.process`."""
    import tqdm

    from esc_jax.inference import archive
    from esc_jax.inference.timeline import clock

    counts = dict.fromkeys(("done", "skipped", "locked", "failed"), 0)
    seconds = 0.0

    def summary() -> str:
        parts = [f"{counted(counts['done'], 'recording')} of {clock(seconds)} classified"]
        parts += [f"{counts['skipped']} finished before"] if counts["skipped"] else []
        parts += [f"{counts['locked']} in work by other processes"] if counts["locked"] else []
        parts += [f"{counts['failed']} failed"] if counts["failed"] else []
        return f"{store.folder}: {', '.join(parts)}"

    with (
        # What is finished is on the disk, and the locks end with the process.
        exit_resumable(lambda: f"stopped: {summary()}"),
        tqdm.tqdm(desc=str(store.folder), total=len(paths), unit="file", disable=None) as bar,
    ):
        for outcome in archive.process(store, paths, classify):
            counts[outcome.status] += 1
            seconds += outcome.duration_s
            if outcome.status == "failed" or outcome.note:
                problems.append(outcome.note)
            bar.update()
    sys.stdout.write(summary() + "\n")


def _write_excerpts(
    store: "Archive", paths: list[str], window_s: float, options: argparse.Namespace, problems: list[str]
) -> None:
    """Writes the best events of all recordings that are finished, whichever call finished them."""
    from esc_jax.inference import archive, excerpts

    suffix, _ = result_files.FORMATS["events"]
    # One process at a time, since what the others have written is removed. The last one finds all that is finished.
    with collect_errors(problems, options.clips), files.file_lock(store.folder / archive.LOCKS / "excerpts"):
        finished = {
            store.name(path): store.folder / f"{store.name(path)}{suffix}" for path in paths if store.is_finished(path)
        }

        def detections() -> "Iterator[excerpts.Detection]":
            for table in finished.values():
                with collect_errors(problems, table):
                    yield from excerpts.read_events(table)

        best = excerpts.best_events(detections(), options.clips_per_class or CLIPS_PER_CLASS)
        written, removed = excerpts.write_excerpts(
            best,
            store.root,
            options.clips,
            window_s,
            MAX_CLIP_S,
            problems,
            finished=finished,
            bom=bool(options.csv_bom),
        )
        earlier = f", {removed} of an earlier call removed" if removed else ""
        sys.stdout.write(f"{options.clips}: {counted(written, 'excerpt')}{earlier}\n")


@command
def main(argv: list[str] | None = None) -> None:
    """The command."""
    parser = _parser()
    options = parser.parse(argv)
    _check_archive_options(parser, options)
    discard_native_output()
    paths, problems = recordings.find_recordings(options.files)
    _check_written(options, paths)
    initialize_device()
    classifier = archives.load(options)
    if options.out:
        _archive(classifier, paths, options, problems)
        if problems:
            raise MultipleErrors(problems)
        return
    timelines: list[tuple[str, Timeline]] = []

    def stop(number: int) -> int:
        what = "interrupted" if number == signal.SIGINT else "stopped"
        problems.append(f"{what} after {len(timelines)} of {counted(len(paths), 'file')}")
        if timelines:  # otherwise, the results of an earlier call stay as they are
            _write_tables(classifier, options, timelines, problems)
        write_at_signal(str(MultipleErrors(problems)))
        return 128 + number

    with files.exit_on_signal(stop, interrupt=True):
        try:
            _classify(classifier, paths, options, timelines, problems)
        finally:  # whatever happened, the finished files are written
            _write_tables(classifier, options, timelines, problems)
    if problems:
        raise MultipleErrors(problems)
