"""Folders with result files of each recording, for predict and listen --watch: their options, and opening them."""

import argparse
from collections.abc import Callable, Sequence
import dataclasses
import sys
from typing import TYPE_CHECKING, Any

from esc_jax.cli import parser as arguments
from esc_jax.cli.command import exit_when_interrupted
from esc_jax.errors import counted, printable
from esc_jax.inference import output, result_files

if TYPE_CHECKING:  # numpy and JAX, which --help does not need
    from datetime import datetime

    from esc_jax.inference.archive import Archive, Classify
    from esc_jax.inference.classifier import SoundClassifier

# Options that have no use without a folder.
NEEDED = ("formats", "min_confidence", "thresholds", "min_length_s", "max_gap_s", "drop_unfamiliar")


def add_window_options(parser: arguments.Parser) -> None:
    """Adds the options of windows: --window_s, --hop_s, --top_k, --smooth_s, --silence_db, --names."""
    add = parser.add_argument
    seconds, smooth = arguments.seconds(), arguments.seconds(0.0, 86_400.0)
    add("--window_s", metavar="S", type=seconds, help="length of a window (default: that of the training clips)")
    add("--hop_s", metavar="S", type=seconds, default=1.0, help="time between the starts of windows (default: 1)")
    add(
        "--top_k", metavar="K", type=arguments.integer(), default=3, help="classes per row, in all outputs (default: 3)"
    )
    add("--smooth_s", metavar="S", type=smooth, default=0.0, help="length of a moving average (default: 0, none)")
    silence = "windows with a lower RMS level (dB relative to full scale) are silence (default: -60; or: off)"
    add("--silence_db", metavar="DB", type=arguments.decibels, default=-60.0, help=silence)
    names = "other names of classes: two columns, class and name; a header is optional"
    add("--names", metavar="NAMES.csv", type=arguments.path, help=names)


def add_options(group: argparse._ArgumentGroup) -> None:
    """Adds the options of a folder: --out, --formats, those of events, and --start."""
    add = group.add_argument
    add("--out", metavar="RESULTS", type=arguments.path, help="folder of the results")
    formats = arguments.choices(*result_files.FORMATS)
    text = f"comma-separated: {', '.join(result_files.FORMATS)} (default: csv)"
    add("--formats", metavar="NAMES", type=formats, help=text)
    share = arguments.number(0.0, 1.0)
    text = "smallest probability of an event (default: the thresholds of the model)"
    add("--min_confidence", metavar="P", type=share, help=text)
    text = "smallest probabilities of single classes: two columns, class and probability; a header is optional"
    add("--thresholds", metavar="T.csv", type=arguments.path, help=text)
    span = arguments.seconds(0.0, 86_400.0)
    add("--min_length_s", metavar="S", type=span, help="drop shorter events (default: 0)")
    add("--max_gap_s", metavar="S", type=span, help="join events with a shorter gap (default: 0)")
    add("--drop_unfamiliar", action="store_true", default=None, help="no events where a sound is unlike any class")
    text = "csv files begin with a byte order mark, by which Excel recognises UTF-8"
    add("--csv_bom", action="store_true", default=None, help=text)
    text = "start of a recording: names, to read it from file names; their format, such as %%y%%m%%d_%%H%%M%%S;"
    text += " or a time such as 2026-05-11T05:30+02:00"
    add("--start", metavar="TIME", help=text)


def load(options: argparse.Namespace) -> "SoundClassifier":
    """The classifier of --model, with the class names of --names."""
    with exit_when_interrupted():
        from esc_jax.inference import class_table
        from esc_jax.inference import classifier as classifiers

        classifier = classifiers.load_classifier(options.model)
    if options.names:
        names = class_table.read_names(options.names, classifier.classes)
        classifier.classes = class_table.renamed(classifier.classes, names)
    return classifier


def settings(classifier: "SoundClassifier", options: argparse.Namespace) -> dict[str, Any]:
    """The entries at the top of a JSON document of results."""
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
    return times.reader(options.start) or (lambda file: start)


def report_times(options: argparse.Namespace, paths: Sequence[str]) -> None:
    """Prints how many recordings have no time in their names, where --start=names."""
    from esc_jax.inference import times

    if options.start is None or (read := times.reader(options.start)) is None:
        return
    if missing := [path for path in paths if read(path) is None]:
        verb = "has" if len(missing) == 1 else "have"
        sentence = f"{counted(len(missing), 'recording')} of {len(paths)} {verb} no time in the name ({missing[0]}"
        sys.stderr.write(f"esc_jax: {printable(sentence + (' …)' if len(missing) > 1 else ')'))}\n")


def open_archive(
    classifier: "SoundClassifier",
    options: argparse.Namespace,
    sources: Sequence[str],
    extra_formats: Sequence[str] = (),
    show: Callable[[result_files.Result], None] = lambda result: None,
) -> "tuple[Archive, Classify]":
    """Opens the folder --out.

    Args:
        classifier: the model.
        options: of the command line.
        sources: files, folders and patterns of the recordings.
        extra_formats: beside --formats.
        show: is called with each result, in the thread that classifies.

    Returns:
        The folder, and the function that classifies a recording.

    Raises:
        ArchiveError, EventError, TimeError: the folder has other results, or options cannot be used.
    """
    from esc_jax.inference import archive, class_table, events, times

    classes = classifier.classes
    thresholds = {}
    if options.thresholds:
        own = dict(zip(classifier.model.classes, classes, strict=True))  # by their names in the model, as with --names
        numbers = class_table.read_numbers(options.thresholds, {*own, *classes})
        thresholds = {name if name in classes else own.get(name, name): value for name, value in numbers.items()}
    length, gap = options.min_length_s or 0.0, options.max_gap_s or 0.0
    drop = bool(options.drop_unfamiliar)
    chosen = events.EventOptions(options.min_confidence, thresholds, length, gap, drop)
    events.check_thresholds(chosen, classes)
    start_of, entries = _start_of(options), settings(classifier, options)
    formats = list(dict.fromkeys([*(options.formats or ("csv",)), *extra_formats]))
    recorded = {
        "weights": archive.weights_checksum(classifier.model.variables),
        "formats": formats,
        "top_k": options.top_k,
        "start": options.start,
        "events": dataclasses.asdict(chosen),
    }
    if options.csv_bom:
        recorded["csv_bom"] = True
    writers = [result_files.FORMATS[name] for name in formats]
    root = archive.common_folder(sources)
    suffixes = [suffix for suffix, _ in writers]
    store = archive.Archive(options.out, root, entries | recorded, suffixes, bom=bool(options.csv_bom))

    def classify(file: str) -> tuple[float, str, list[str]]:
        timeline = classifier.timeline(
            file, options.window_s, options.hop_s, smooth_s=options.smooth_s, silence_db=options.silence_db
        )
        start = start_of(file)
        if start:
            times.check_end(file, start, timeline.duration_s)
        found = events.find_events(timeline, chosen)
        result = result_files.Result(
            store.name(file),
            timeline,
            found,
            start,
            classifier.sample_rate,
            options.top_k,
            entries,
            bool(options.start),
        )
        contents = [
            (output.BOM if options.csv_bom and suffix.endswith(".csv") else "") + write(result)
            for suffix, write in writers
        ]
        show(result)
        return timeline.duration_s, timeline.note, contents

    return store, classify
