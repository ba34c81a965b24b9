"""Files with the result of one recording, in the formats of other programs.

csv       every window: file, start, end, class, probability, level, silence, unfamiliarity
json      every window, as a JSON document
jsonl     every event, a JSON object in each line
events    every event as a csv file: file, onset, offset, class, score, centre of the best window, unfamiliarity
audacity  label track (File, Import, Labels)
raven     selection table of Raven
dcase     event list of sed_eval and of the DCASE challenges
textgrid  Praat TextGrid; needs the package praatio
"""

from collections.abc import Callable, Sequence
import csv
import dataclasses
from datetime import datetime
import io
import json
import pathlib
import tempfile
from typing import TYPE_CHECKING, Any

from esc_jax.errors import Failure
from esc_jax.evaluation.escaping import escape_cell
from esc_jax.inference import output, times

if TYPE_CHECKING:  # numpy, which --help of the command does not need
    from esc_jax.inference.events import Event
    from esc_jax.inference.timeline import Timeline


class FormatError(Failure):
    """A format that cannot be written. The message is one sentence."""


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of a recording.

    Attributes:
        file: path of the recording, as it is written in the files.
        timeline: its windows.
        events: its events.
        start: when it was recorded; None where this is not known.
        sample_rate: of the model, Hz.
        top_k: classes of each window.
        settings: entries at the top of a JSON document.
        timed: whether tables have columns of absolute times, which are empty where `start` is None.
    """

    file: str
    timeline: "Timeline"
    events: "Sequence[Event]"
    start: datetime | None
    sample_rate: int
    top_k: int
    settings: dict[str, Any]
    timed: bool = False

    @property
    def name(self) -> str:
        """Name of the file without its folder."""
        return pathlib.PurePath(self.file).name


def _plain(text: str) -> str:
    """Text for a cell of a table with tabs, which has no quotes."""
    return " ".join(text.split())


def _tabs(rows: Sequence[Sequence[object]]) -> str:
    return "".join("\t".join(map(str, row)) + "\n" for row in rows)


def _csv(result: Result) -> str:
    text = io.StringIO(newline="")
    output.write_windows(text, [(result.file, result.timeline)], result.top_k, [result.start] if result.timed else None)
    return text.getvalue()


def _json(result: Result) -> str:
    entry = output.document_entry(result.file, result.timeline, result.top_k)
    if result.start:
        entry["start"] = result.start.isoformat()
    events = [output.event_entry(event) for event in result.events]
    return json.dumps({**result.settings, **entry, "events": events}, indent=1, allow_nan=False) + "\n"


def _event_times(result: Result, event: "Event") -> dict[str, str]:
    if not result.timed:
        return {}
    seconds = {"onset_time": event.onset_s, "offset_time": event.offset_s}
    return {key: times.at(result.start, value) if result.start else "" for key, value in seconds.items()}


def _jsonl(result: Result) -> str:
    return "".join(
        json.dumps(
            {"file": result.file, **output.event_entry(event), **_event_times(result, event)}, ensure_ascii=False
        )
        + "\n"
        for event in result.events
    )


def _events(result: Result) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    clock = ("onset_time", "offset_time") if result.timed else ()
    writer.writerow(["file", "onset_s", "offset_s", "class", "score", "peak_s", "unfamiliar", *clock])
    for event in result.events:
        cells = escape_cell(result.file), f"{event.onset_s:.3f}", f"{event.offset_s:.3f}", escape_cell(event.label)
        peak = "" if event.peak_s is None else f"{event.peak_s:.3f}"
        marks = peak, output.flag(event.unfamiliar)
        writer.writerow([*cells, f"{event.score:.6f}", *marks, *_event_times(result, event).values()])
    return text.getvalue()


def _label(event: "Event") -> str:
    """Class, score, and a note if the sound is unfamiliar."""
    note = f" ({output.UNFAMILIAR})" if event.unfamiliar else ""
    return f"{_plain(event.label)} {event.score:.3f}{note}"


def _audacity(result: Result) -> str:
    return _tabs([(f"{event.onset_s:.6f}", f"{event.offset_s:.6f}", _label(event)) for event in result.events])


_RAVEN = (
    "Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)", "High Freq (Hz)", "Begin File",
    "Annotation", "Score", "Unfamiliar",
)  # fmt: skip


def _raven(result: Result) -> str:
    top = result.sample_rate / 2  # the model says nothing about frequency: the selection has all that it hears
    return _tabs(
        [_RAVEN]
        + [
            (
                number, "Spectrogram 1", 1, f"{event.onset_s:.6f}", f"{event.offset_s:.6f}", "0.0", f"{top:.1f}",
                _plain(result.name), _plain(event.label), f"{event.score:.4f}", output.flag(event.unfamiliar),
            )
            for number, event in enumerate(result.events, 1)
        ]
    )  # fmt: skip


def _dcase(result: Result) -> str:
    rows = [(_plain(result.name), f"{e.onset_s:.3f}", f"{e.offset_s:.3f}", _plain(e.label)) for e in result.events]
    return _tabs([("filename", "onset", "offset", "event_label"), *rows])


def _textgrid(result: Result) -> str:
    try:
        from praatio import textgrid
    except ImportError:
        raise FormatError('the format textgrid needs praatio: pip install "esc-jax[textgrid]"') from None
    grid = textgrid.Textgrid(0.0, result.timeline.duration_s)
    by_class: dict[str, list[tuple[float, float, str]]] = {}
    for event in result.events:
        label = _plain(event.label)
        by_class.setdefault(label, []).append((event.onset_s, event.offset_s, _label(event)))
    for label, entries in by_class.items() or {"events": []}.items():
        grid.addTier(textgrid.IntervalTier(label, entries, 0.0, result.timeline.duration_s))
    return _save_grid(grid)


def _save_grid(grid: Any) -> str:
    """The text of a TextGrid, which praatio writes to files only."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "events.TextGrid"
        grid.save(str(path), format="long_textgrid", includeBlankSpaces=True)
        return path.read_text(encoding="utf-8")


# Name → (what is appended to the name of the recording, its content).
FORMATS: dict[str, tuple[str, Callable[[Result], str]]] = {
    "csv": (".csv", _csv),
    "json": (".json", _json),
    "jsonl": (".events.jsonl", _jsonl),
    "events": (".events.csv", _events),
    "audacity": (".labels.txt", _audacity),
    "raven": (".selections.txt", _raven),
    "dcase": (".events.tsv", _dcase),
    "textgrid": (".TextGrid", _textgrid),
}
