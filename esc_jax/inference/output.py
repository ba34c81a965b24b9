"""Timelines as text tables, JSON and CSV."""

from collections.abc import Collection, Iterable, Mapping, Sequence
import csv
import json
import math
import pathlib
from typing import IO, TYPE_CHECKING, Any

from esc_jax import files
from esc_jax.errors import counted
from esc_jax.evaluation.escaping import escape_cell

if TYPE_CHECKING:  # numpy, which --help does not need
    from datetime import datetime

    from esc_jax.inference.events import Event
    from esc_jax.inference.timeline import Prediction, Timeline

SEGMENTS = ("begin", "middle", "end")
CSV_COLUMNS = ("file", "start_s", "end_s", "class", "probability", "level_db", "silent", "unfamiliar")
SILENCE = "silence"
UNFAMILIAR = "unlike any class"
BOM = "\ufeff"  # at the beginning of a csv file: Excel recognises UTF-8 by it
NO_CLASS = "no class above its threshold"


def cells(prediction: "Prediction | None", k: int, width: int, exclusive: bool) -> str:
    """A prediction as text: silence, the k most probable classes, or the detected classes of a multi-label model.

    Args:
        prediction: None for silence.
        k: classes.
        width: of their names.
        exclusive: whether the task decides for one class.
    """
    if prediction is None:
        return SILENCE
    text = _ranking(prediction, k, width) if exclusive else _detections(prediction, k, width)
    return text + (f"   ({UNFAMILIAR})" if prediction.unfamiliar else "")


def _aligned(classes: Iterable[tuple[str, float]], width: int) -> str:
    return "   ".join(f"{label:<{width}} {100 * share:5.1f} %" for label, share in classes).rstrip()


def _ranking(prediction: "Prediction", k: int, width: int) -> str:
    """The k most probable classes."""
    return _aligned(prediction.top(k), width)


def _detections(prediction: "Prediction", k: int, width: int) -> str:
    """All detected classes, then the most probable others up to k classes in total."""
    if prediction.nearest:
        nearest = ", ".join(f"{label} {100 * share:.1f} %" for label, share in prediction.top(k))
        return f"{NO_CLASS}   (nearest: {nearest})"
    classes = prediction.top(len(prediction.labels))
    detected = [pair for pair in classes if pair[0] in prediction.detected]
    others = [pair for pair in classes if pair[0] not in prediction.detected]
    below = ", ".join(f"{label} {100 * share:.1f} %" for label, share in others[: max(0, k - len(detected))])
    return _aligned(detected, width) + (f"   (below threshold: {below})" if below else "")


def table(name: str, timeline: "Timeline", k: int, segments: Sequence[str] | None = None) -> str:
    """A recording as a table for a terminal, with a row per passage or per segment.

    Args:
        name: of the file.
        timeline: of the recording.
        k: classes per row. All detected classes of a multi-label model are listed, however many they are.
        segments: members of SEGMENTS; None for all passages, with a last row for the whole recording.
    """
    from esc_jax.inference.timeline import span

    if segments:
        windows = [(segment, timeline.window_at(segment)) for segment in segments]
        spans = [(segment, timeline.starts[i], timeline.ends[i], timeline.mean(i, i + 1)) for segment, i in windows]
    else:
        edges = timeline.edges
        spans = [("", edges[a], edges[b], timeline.mean(a, b)) for a, b in timeline.passages()]
        spans.append(("whole", 0.0, timeline.duration_s, timeline.whole()))
    exclusive = timeline.task.exclusive
    shown = [p.labels[:k] if exclusive else p.detected for _, _, _, p in spans if p]
    width = max((len(label) for labels in shown for label in labels), default=0)
    lines = [f"{name}: {timeline.duration_s:.1f} s, {counted(len(timeline.starts), 'window')}"]
    for label, start, end, prediction in spans:
        lines.append(f"  {label:<6} {span(start, end)}   {cells(prediction, k, width, exclusive)}")
    return "\n".join(lines) + "\n"


def top(prediction: "Prediction | None", k: int) -> list[dict[str, Any]]:
    """The k most probable classes as JSON objects, `class` and `probability`; none without a prediction."""
    pairs = prediction.top(k) if prediction else []
    return [{"class": label, "probability": round(share, 6)} for label, share in pairs]


def rows(timeline: "Timeline", k: int) -> list[dict[str, Any]]:
    """The windows of a timeline as JSON objects.

    Returns:
        Objects with `start_s`, `end_s`, `level_db` (None if all samples are zero), `silent`, `unfamiliar` and `top`,
        the k most probable classes; `top` is empty for silent windows. Those of a multi-label model have `detected`
        too, the names of the classes above their thresholds, the most probable first.
    """
    objects = []
    for i, (start, end, level) in enumerate(zip(timeline.starts, timeline.ends, timeline.level_db, strict=True)):
        prediction = timeline.mean(i, i + 1)
        objects.append(
            {
                "start_s": round(float(start), 4),
                "end_s": round(float(end), 4),
                "level_db": round(float(level), 2) if math.isfinite(level) else None,
                "silent": bool(timeline.silent[i]),
                "unfamiliar": bool(timeline.unfamiliar[i]),
                **({} if timeline.task.exclusive else {"detected": list(prediction.detected) if prediction else []}),
                "top": top(prediction, k),
            }
        )
    return objects


def event_entry(event: "Event") -> dict[str, Any]:
    """An event as a JSON object: `onset_s`, `offset_s`, `label`, `score`, `peak_s` and `unfamiliar`."""
    return {
        "onset_s": round(event.onset_s, 4),
        "offset_s": round(event.offset_s, 4),
        "label": event.label,
        "score": round(event.score, 6),
        "peak_s": None if event.peak_s is None else round(event.peak_s, 4),
        "unfamiliar": event.unfamiliar,
    }


def write_csv(
    path: pathlib.Path,
    timelines: Sequence[tuple[str, "Timeline"]],
    k: int,
    bom: bool = False,
) -> None:
    """Writes `write_windows` to a file, after BOM with `bom`. If that fails, an older file is unchanged."""
    # File names are bytes on Linux and need not be valid UTF-8.
    with files.write_output(path, "w", newline="", errors="surrogateescape") as file:
        file.write(BOM if bom else "")
        write_windows(file, timelines, k)


def write_windows(
    file: IO[str],
    timelines: Sequence[tuple[str, "Timeline"]],
    k: int,
    starts: "Sequence[datetime | None] | None" = None,
) -> None:
    """Writes the k most probable classes of every window as rows of a table.

    The columns are CSV_COLUMNS; `detected` if the model is multi-label: whether the class is above its threshold; and
    `time` with `starts`: the start of the window in ISO 8601. A silent window is one row of
    class "silence" without a probability. Digital silence has no level. Names of files and classes are written with
    `escaping.escape_cell`.

    Args:
        file: is written to.
        timelines: (file name, timeline) of each recording, all of one model.
        k: classes per window.
        starts: when each recording began; None for one of which this is not known.
    """
    from esc_jax.inference import times

    exclusive = all(timeline.task.exclusive for _, timeline in timelines)
    timed, starts = starts is not None, starts or [None] * len(timelines)
    writer = csv.writer(file)
    writer.writerow([*CSV_COLUMNS, *([] if exclusive else ["detected"]), *(["time"] if timed else [])])
    for (name, timeline), begin in zip(timelines, starts, strict=True):
        for row in rows(timeline, k):
            level = "" if row["level_db"] is None else row["level_db"]
            marks = level, flag(row["silent"]), flag(row["unfamiliar"])
            time = [times.at(begin, row["start_s"]) if begin else ""] if timed else []
            top = [(one["class"], one["probability"]) for one in row["top"]]
            for label, probability in top or [(SILENCE, "")]:
                detected = [] if exclusive else [flag(label in row["detected"])]
                first = escape_cell(name), row["start_s"], row["end_s"], escape_cell(label), probability
                writer.writerow([*first, *marks, *detected, *time])


def flag(value: bool) -> str:
    return "true" if value else "false"


def write_json(
    path: pathlib.Path,
    timelines: Sequence[tuple[str, "Timeline"]],
    k: int,
    *,
    settings: Mapping[str, Any],
    problems: Sequence[str],
) -> None:
    """Writes every window of every recording, with the k most probable classes.

    If that fails, an older file is unchanged.

    Args:
        path: the file to write.
        timelines: (file name, timeline) of each recording.
        k: classes per window.
        settings: entries at the top of the document.
        problems: sentences about files that could not be used.
    """
    document = {
        **settings,
        "files": [document_entry(name, timeline, k) for name, timeline in timelines],
        "problems": list(problems),
    }
    with files.write_output(path, "w") as file:
        file.write(json.dumps(document, indent=1, allow_nan=False) + "\n")


def document_entry(name: str, timeline: "Timeline", k: int) -> dict[str, Any]:
    """A recording as a JSON object: `file`, `duration_s`, `note` and `windows` (`rows`)."""
    duration = round(timeline.duration_s, 4)
    return {"file": name, "duration_s": duration, "note": timeline.note, "windows": rows(timeline, k)}


def plot_path(out: pathlib.Path, file: str, taken: Collection[str], single: bool) -> pathlib.Path:
    """The path of a recording's picture: OUT.png, or OUT-STEM.png with several recordings.

    Args:
        out: value of --plot.
        file: the recording.
        taken: names in use, casefolded: a file system can ignore case. A number is appended to a stem that is taken.
        single: whether it is the only recording.
    """
    if single:
        return out
    path, number = out.with_name(f"{out.stem}-{pathlib.Path(file).stem}{out.suffix}"), 1
    while path.name.casefold() in taken:
        number += 1
        path = out.with_name(f"{out.stem}-{pathlib.Path(file).stem}-{number}{out.suffix}")
    return path
