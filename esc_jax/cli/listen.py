"""Classifies live sound: from the microphone, a pipe, a stream, or a folder that recorders write to.

    esc-jax listen
    esc-jax listen --model=mn04_as
    esc-jax listen --devices
    arecord -q -t raw -f S16_LE -r 48000 -c 1 | esc-jax listen --model=mn04_as --pcm=- --rate=48000
    esc-jax listen --model=mn04_as --json rtsp://camera.local/audio
    esc-jax listen --model=mn04_as --watch=recordings/ --out=RESULTS --formats=csv,events

Without SOURCE, --pcm and --watch, the command listens to the microphone, which needs sounddevice: pip install
"esc-jax[live]". SOURCE is an address (rtsp, http, rtmp, srt, udp and others) or a file, and is read with ffmpeg.

A line is written for each window as soon as its last sample has arrived. It contains the time of the first sample, the
position since the beginning, the classes in the format of predict, the level, and the latency from the arrival of the
last sample to the line. With --json, each line is a JSON object. The windows are those of predict for the same sound.

Positions are numbers of samples, so that they do not drift. Times are taken from the clock of this machine, or begin at
--start. If a stream or the microphone breaks, the command connects again. A line states the gap, and no window contains
it.

With --watch, each recording in FOLDER is classified once, when it has not changed for --settle_s. The results are
written into the folder --out, as by predict --out=RESULTS FOLDER. The command continues after a restart. --smooth_s
needs --watch.

Ctrl-C ends the command with status 130 and SIGTERM with 143; with --watch, both with 75.
"""

import argparse
from collections import deque
from collections.abc import Iterator
import json
import math
import os
import sys
import time
from typing import TYPE_CHECKING, Any, NoReturn

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
from esc_jax.errors import UserError, counted, printable
from esc_jax.inference import output

if TYPE_CHECKING:  # numpy and JAX, which --help does not need
    from esc_jax.data.live import Capture, Connection
    from esc_jax.inference.classifier import SoundClassifier
    from esc_jax.inference.live import ClockChange, Gap, Window
    from esc_jax.inference.parallel import Outcome
    from esc_jax.inference.result_files import Result

_LATENCIES = 10_000  # of the last windows, for the summary


def _device(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


class _Devices(argparse.Action):
    """Lists the audio devices and ends the command, as --help does."""

    def __call__(self, *_: object) -> NoReturn:
        from esc_jax.data import live

        sys.stdout.write(live.list_devices())
        sys.exit(0)


def _parser() -> arguments.Parser:
    parser = arguments.Parser("listen", __doc__)
    arguments.add_classifier(parser)
    archives.add_window_options(parser)
    add = parser.add_argument
    add("--json", action="store_true", help="write each line as a JSON object")
    group = parser.add_argument_group("source")
    group.add_argument("source", metavar="SOURCE", nargs="?", help="address of a stream, or a file")
    add = group.add_argument
    add("--pcm", metavar="PIPE", type=os.path.expanduser, help="raw samples from a named pipe, or from stdin: -")
    formats = arguments.choice("s16le", "f32le")
    add("--format", type=formats, default="s16le", help="format of raw samples: s16le or f32le (default: s16le)")
    rate = arguments.integer(1_000, 1_000_000)
    add("--rate", metavar="HZ", type=rate, help="sample rate; required with --pcm (default: that of the microphone)")
    channels = arguments.integer(1, 64)
    add("--channels", metavar="N", type=channels, default=1, help="number of channels of the source (default: 1)")
    text = "the channel to use (default: the mean of all channels, which delays results by up to a second)"
    add("--channel", metavar="N", type=channels, help=text)
    add("--device", type=_device, help="number of the microphone, or a part of its name (default: that of the system)")
    add("--devices", action=_Devices, nargs=0, help="list the audio devices of this machine")
    span = arguments.seconds(0.0, 1e9)
    text = "end with status 1 if a broken stream does not come back for this long (default: never)"
    add("--give_up_s", metavar="S", type=span, help=text)
    add(
        "--watch",
        metavar="FOLDER",
        type=os.path.expanduser,
        help="classify the recordings that appear in a folder; needs --out",
    )
    text = "time without a change after which a recording is finished (default: 2)"
    add("--settle_s", metavar="S", type=arguments.seconds(0.0, 86_400.0), default=2.0, help=text)
    archives.add_options(parser.add_argument_group("results of --watch, and --start"))
    return parser


def _check(parser: arguments.Parser, options: argparse.Namespace) -> None:
    """Refuses options that do not belong together."""
    sources = [name for name in ("source", "pcm", "watch") if getattr(options, name)]
    if len(sources) > 1:
        parser.error(f"give one of SOURCE, --pcm and --watch, not {' and '.join(sources)}")
    if options.pcm and not options.rate:
        parser.error("--pcm needs --rate: raw samples do not state it")
    if options.channel and options.channel > options.channels and not options.source:
        parser.error(f"--channel={options.channel} is more than --channels={options.channels}")
    if options.watch:
        if not options.out:
            parser.error("--watch needs --out=RESULTS")
        if not os.path.isdir(options.watch):
            parser.error(f"--watch={options.watch}: no such folder")
        return
    given = [name for name in ("out", "csv_bom", *archives.NEEDED) if getattr(options, name) is not None]
    if given := given + ["smooth_s"] * bool(options.smooth_s):
        parser.error(f"--{given[0]} needs --watch=FOLDER")


def _capture(options: argparse.Namespace) -> "Capture":
    """The source of the sound. It is opened when it is read."""
    from esc_jax.data import live
    from esc_jax.data.ffmpeg import is_stream, without_credentials

    name = "the microphone"
    if options.pcm:
        name = "stdin" if options.pcm == "-" else options.pcm
    elif options.source:
        name = without_credentials(options.source)
        if "://" in options.source and not is_stream(options.source):
            raise UserError(f"{name}: not an address that ffmpeg reads as a stream, such as rtsp:// or http://")

    def connect() -> "Connection":
        if options.pcm:
            return live.PcmPipe(options.pcm, options.rate, options.channels, options.format)
        if options.source:
            return live.FfmpegStream(options.source)
        return live.Microphone(options.device, options.rate, options.channels)

    return live.Capture(name, connect, lambda sentence: _log(printable(sentence)), options.give_up_s)


def _log(sentence: str) -> None:
    sys.stderr.write(f"esc_jax: {sentence}\n")
    sys.stderr.flush()


class _Lines:
    """Writes a line for each window and gap, and counts them.

    Args:
        classifier: the model.
        options: the command line.
    """

    def __init__(self, classifier: "SoundClassifier", options: argparse.Namespace):
        self._exclusive, self._top_k, self._json = classifier.task.exclusive, options.top_k, options.json
        self._windows = self._gaps = 0
        self._end_s = 0.0
        self._latencies: deque[float] = deque(maxlen=_LATENCIES)

    def write(self, item: "Window | Gap | ClockChange") -> None:
        """Writes a line in one call, which a signal cannot divide."""
        from esc_jax.inference.live import Window

        line = self._window(item) if isinstance(item, Window) else self._other(item)
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    def _window(self, window: "Window") -> str:
        from esc_jax.inference.timeline import clock

        self._windows, self._end_s = self._windows + 1, window.end_s
        latency = time.time() - window.arrived
        self._latencies.append(latency)
        moment = window.time.isoformat(timespec="milliseconds")
        if self._json:
            (row,) = output.rows(window.timeline, self._top_k)
            row |= {"start_s": round(window.start_s, 4), "end_s": round(window.end_s, 4)}
            entry = {"type": "window", "time": moment, **row, "latency_s": round(latency, 4)}
            return json.dumps(entry, ensure_ascii=False, allow_nan=False)
        cells = output.cells(window.timeline.mean(), self._top_k, 0, self._exclusive)
        level = float(window.timeline.level_db[0])
        level_text = f"{level:.1f} dB" if math.isfinite(level) else "no signal"
        return f"{moment} {clock(window.start_s, True):>9}   {cells}   [{level_text}, {1000 * latency:.0f} ms]"

    def _other(self, item: "Gap | ClockChange") -> str:
        from esc_jax.inference import live
        from esc_jax.inference.timeline import clock

        self._gaps += isinstance(item, live.Gap)
        if self._json:
            return json.dumps(live.to_json(item), ensure_ascii=False)
        moment = item.time.isoformat(timespec="milliseconds")
        if isinstance(item, live.Gap):
            text = f"gap of {item.end_s - item.start_s:.1f} s: {printable(item.reason)}"
            return f"{moment} {clock(item.start_s, True):>9}   {text}"
        return f"{moment} {clock(item.position_s, True):>9}   times are corrected by {item.seconds:+.2f} s"

    def summary(self) -> str:
        """Windows, gaps and latency."""
        from esc_jax.inference.timeline import clock

        parts = [f"{counted(self._windows, 'window')} up to {clock(self._end_s)}"]
        parts += [counted(self._gaps, "gap")] if self._gaps else []
        if values := sorted(self._latencies):
            middle, late = values[len(values) // 2], values[int(0.99 * len(values))]
            parts.append(f"latency {1000 * middle:.0f} ms (median), {1000 * late:.0f} ms (99 %)")
        return ", ".join(parts)


def _listen(classifier: "SoundClassifier", options: argparse.Namespace) -> None:
    """Writes a line for each window until the sound or the process ends."""
    from esc_jax.inference import live, times

    start = times.parse_start(options.start) if options.start else None
    if options.start and start is None:
        raise times.TimeError(f"--start={options.start} is for --watch=FOLDER: live sound has no file names")
    lines = _Lines(classifier, options)
    with _capture(options) as capture:

        def stop(number: int) -> int:
            capture.close()
            write_at_signal(f"stopped: {lines.summary()}")
            return 128 + number

        window_s = options.window_s or classifier.window_s
        _log(f"{capture.name}: windows of {window_s:g} s, one each {options.hop_s:g} s; press Ctrl-C to stop")
        with files.exit_on_signal(stop, interrupt=True):
            for item in live.listen(
                classifier,
                capture,
                options.window_s,
                options.hop_s,
                silence_db=options.silence_db,
                channel=None if options.channel is None else options.channel - 1,
                start=start.astimezone() if start else None,
                follow_clock=start is None and (options.source is None or "://" in options.source),
            ):
                lines.write(item)
    _log(lines.summary())


def _finished(options: argparse.Namespace) -> Iterator[list[str]]:
    """Recordings that are finished, whenever there are some. Searching takes a tenth of the time at most."""
    from esc_jax.inference.watch import Watch

    watch = Watch(options.watch, options.settle_s)
    while True:
        begin = time.monotonic()
        if found := watch.finished():
            yield found
        time.sleep(max(min(0.5, options.settle_s / 2), 0.05, 10 * (time.monotonic() - begin)))


def _watch(classifier: "SoundClassifier", options: argparse.Namespace) -> None:
    """Classifies recordings into --out until the process ends. Failures are reported, and end nothing."""
    from esc_jax.inference import archive

    results: dict[str, Any] = {}

    def show(result: "Result") -> None:
        results[result.file] = result

    store, classify = archives.open_archive(classifier, options, [options.watch], show=show)
    counts = dict.fromkeys(("done", "failed"), 0)

    def summary() -> str:
        return f"stopped: {counted(counts['done'], 'recording')} classified, {counts['failed']} failed"

    _log(f"{options.watch}: classifying new recordings into {options.out}; press Ctrl-C to stop")
    with exit_resumable(summary):  # what is finished is on the disk, and the locks end with the process
        for paths in _finished(options):
            for outcome in archive.process(store, paths, classify):
                result = results.pop(outcome.file, None)
                if outcome.status in counts:
                    counts[outcome.status] += 1
                    sys.stdout.write(_file_line(outcome, result, options, classifier.task.exclusive) + "\n")
                    sys.stdout.flush()


def _file_line(outcome: "Outcome", result: "Result | None", options: argparse.Namespace, exclusive: bool) -> str:
    """The outcome of a recording, with the classes of the whole of it."""
    from esc_jax.inference.timeline import clock

    whole = result.timeline.whole() if result else None
    if options.json:
        entry: dict[str, Any] = {"type": "file", "file": outcome.file, "status": outcome.status, "note": outcome.note}
        if result:
            entry |= {
                "duration_s": round(outcome.duration_s, 4),
                "seconds": round(outcome.seconds, 4),
                "events": len(result.events),
                "top": output.top(whole, options.top_k),
            }
        return json.dumps(entry)
    if result is None:
        return printable(f"{outcome.file}: failed: {outcome.note}")
    note = f"   (note: {outcome.note})" if outcome.note else ""
    cells = output.cells(whole, options.top_k, 0, exclusive)
    return printable(f"{outcome.file}: {clock(outcome.duration_s, True)}   {cells}{note}")


@command
def main(argv: list[str] | None = None) -> None:
    """The command."""
    parser = _parser()
    options = parser.parse(argv)
    _check(parser, options)
    discard_native_output()
    initialize_device()
    classifier = archives.load(options)
    if options.watch:
        _watch(classifier, options)
    else:
        _listen(classifier, options)
