"""Classifies recordings of any length: what is heard in them, and when.

    python -m esc_jax.predict --checkpoint=runs/resnet34 storm.ogg
    python -m esc_jax.predict --checkpoint=runs/resnet34 --segments=begin,middle,end storm.ogg
    python -m esc_jax.predict --checkpoint=runs/resnet34 --csv=OUT.csv --plot=OUT.png recordings/ "more/**/*.mp3"

A window slides over each recording. Windows start at 0, hop, 2 hop, … as long as they fit; where the last of them ends
before the recording does, one more ends with it. A recording shorter than a window, and a window shorter than a clip of
training, is filled up with zeros at its end, as clips are in training. The table has a row for every passage with one
likeliest class (the mean of its windows), or one for each of --segments: the first window, the one closest to the
middle, the last.

FILE is anything that soundfile reads, a folder (searched through, by file extension), or a quoted pattern. A file that
cannot be read is reported at the end, and the exit status is then 1. Files hold many hours: memory doesn't grow with
their length.
"""

import argparse
from collections.abc import Callable
import difflib
import faulthandler
import math
import os
import pathlib
import sys
from typing import NoReturn

from esc_jax.cli.command import command
from esc_jax.errors import MultipleErrors, collect_errors
from esc_jax.inference.output import SEGMENTS, PredictError, plot_path, table, write_csv, write_json
from esc_jax.inference.recordings import find_recordings

PICTURES = (".png", ".pdf", ".svg")


def _fail(status: int, sentence: object) -> NoReturn:
    sys.stderr.write(f"esc_jax: {sentence}\n")
    sys.exit(status)


class _Parser(argparse.ArgumentParser):
    """argparse, with one sentence for a mistake."""

    def error(self, message: str) -> NoReturn:
        _fail(2, message.removeprefix("argument "))


def _seconds(text: str, least: float = 0.01, most: float = 600.0) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds") from None
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(f"{text}: from {least:g} to {most:g} seconds are possible")
    return value


def _smoothing(text: str) -> float:
    return _seconds(text, 0.0, 86_400.0)


def _decibels(text: str) -> float | None:
    if text == "off":
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not -200 <= value <= 0:
        raise argparse.ArgumentTypeError(f"{text}: a level from -200 to 0 dB below full scale, or off")
    return value


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: a number of classes, 1 or more")
    return int(text)


def _segments(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if name not in SEGMENTS:
            near = difflib.get_close_matches(name, SEGMENTS, 1)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise argparse.ArgumentTypeError(f"there is no segment {name!r}: choose of {', '.join(SEGMENTS)}{meant}")
    return names


def _output(*suffixes: str) -> Callable[[str], pathlib.Path]:
    """What reads the name of a file to write. One that ends in nothing of `suffixes` is a forgotten value, above all:
    the recording that comes next."""

    def read(text: str) -> pathlib.Path:
        path = pathlib.Path(text).expanduser()
        if path.is_dir() or not path.parent.is_dir():
            wrong = "is a folder" if path.is_dir() else "its folder does not exist"
            raise argparse.ArgumentTypeError(f"{text}: {wrong}")
        if path.suffix.lower() not in suffixes:
            raise argparse.ArgumentTypeError(f"{text}: the name must end in {', '.join(suffixes)}")
        return path

    return read


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; ends the process with status 2 and a sentence for a wrong one."""
    parser = _Parser(
        "python -m esc_jax.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--checkpoint", metavar="DIR", required=True, help="workdir of a finished run")
    add("--window_s", metavar="S", type=_seconds, help="length of a window (default: of the clips in training)")
    add("--hop_s", metavar="S", type=_seconds, default=1.0, help="between the starts of windows (default: 1)")
    add("--top_k", metavar="K", type=_count, default=3, help="classes per row, in all outputs (default: 3)")
    add("--segments", type=_segments, help="table of these windows alone: begin,middle,end")
    add("--smooth_s", metavar="S", type=_smoothing, default=0.0, help="moving average over this time (default: 0)")
    silence = "mark windows of a lower RMS (dB, full scale is 0) silence instead of guessing (default: -60; or: off)"
    add("--silence_db", metavar="DB", type=_decibels, default=-60.0, help=silence)
    add("--json", metavar="OUT.json", type=_output(".json"), help="every window with its classes, level and silence")
    add("--csv", metavar="OUT.csv", type=_output(".csv"), help="rows of file, start_s, end_s, class, probability")
    add("--plot", metavar="OUT.png", type=_output(*PICTURES), help="a picture; of several files one each, OUT-NAME.png")
    add("files", metavar="FILE", nargs="+", help="recording, folder or quoted pattern")
    options, unknown = parser.parse_known_intermixed_args(argv)
    if unknown:
        name = unknown[0].split("=")[0]
        known = [o for action in parser._actions for o in action.option_strings]
        near = difflib.get_close_matches(name, known, 1)
        parser.error(f"there is no {name}" + (f"; did you mean {near[0]}?" if near else "; see --help"))
    return options


def _listen(classifier, file: str, options: argparse.Namespace, overview):
    """The timeline of a file, under a progress bar; fills the overview of its picture, if any. Raises AudioError."""
    import tqdm

    shape = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s [{elapsed}<{remaining}]"
    with tqdm.tqdm(desc=pathlib.Path(file).name, total=1.0, bar_format=shape, leave=False, disable=None) as bar:

        def observe(block, stream) -> None:
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


def run(options: argparse.Namespace) -> list[str]:
    """Does what the command line asks, prints the tables; returns what went wrong, a sentence each."""
    from esc_jax.data import cache
    from esc_jax.inference import classifier
    from esc_jax.runtime import xla

    files, problems = find_recordings(options.files)
    written = {path.resolve() for path in (options.json, options.csv, options.plot) if path}
    for file in files:
        if pathlib.Path(file).resolve() in written:
            raise PredictError(f"{file} would be read and written over: name another file for the results")
    if options.plot:
        from esc_jax.report import timeline_plot as plots_timeline
    xla.initialize(cache.cache_root() / "compiled")
    classifier = classifier.load_classifier(options.checkpoint)
    done, taken = [], set()
    try:
        for file in files:
            overview = plots_timeline.Overview(classifier.sample_rate) if options.plot else None
            timeline = None
            with collect_errors(problems, file):
                timeline = _listen(classifier, file, options, overview)
            if timeline is None:
                continue
            problems += [timeline.note] if timeline.note else []
            done.append((file, timeline))
            sys.stdout.write(table(file, timeline, options.top_k, options.segments))
            sys.stdout.flush()
            if overview:
                picture = plot_path(options.plot, file, taken, len(files) == 1)
                with collect_errors(problems, picture):
                    plots_timeline.recording(timeline, overview, pathlib.Path(file).name, picture)
    except KeyboardInterrupt:
        problems.append(f"interrupted after {len(done)} of {len(files)} files")
    finally:  # whatever happened, what was done is kept
        if options.csv:
            with collect_errors(problems, options.csv):
                write_csv(options.csv, done, options.top_k)
        if options.json:
            with collect_errors(problems, options.json):
                write_json(options.json, done, problems, options, classifier)
    return problems


@command
def main(argv: list[str] | None = None) -> None:
    """The command line."""
    if problems := run(parse(argv)):
        raise MultipleErrors(problems)


def cli() -> None:
    """Entry point of `python -m esc_jax.predict`."""
    # Decoders in C write to the terminal about broken files, in between the tables. Python keeps the terminal, and
    # they get nothing. Names of files are bytes, and may be no text: hence "replace".
    for name, number in (("stdout", 1), ("stderr", 2)):
        old = getattr(sys, name)
        setattr(sys, name, open(os.dup(number), "w", buffering=1, encoding=old.encoding, errors="replace"))
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    faulthandler.enable(sys.stderr)  # a crash in C still says where
    sys.exit(main())
