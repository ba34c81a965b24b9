"""Cuts the best events of each class out of recordings, as sound files."""

from collections.abc import Iterable, Sequence
import csv
import dataclasses
import heapq
import pathlib
import re

import soundfile

from esc_jax.data.stream import AudioStream, cut
from esc_jax.errors import collect_errors
from esc_jax.evaluation.escaping import escape_cell, restore_cell
from esc_jax.inference.events import Event

TABLE = "excerpts.csv"
_MARGIN_S = 1.0  # before and after an event


@dataclasses.dataclass(frozen=True, order=True)
class Detection:
    """An event and the recording that it is in, below a common folder."""

    score: float
    file: str
    event: Event = dataclasses.field(compare=False)


def read_events(path: pathlib.Path) -> list[Detection]:
    """The events in a file of the format `events` (`result_files`)."""
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        return [Detection(float(row["score"]), restore_cell(row["file"]), _event(row)) for row in csv.DictReader(file)]


def _event(row: dict[str, str]) -> Event:
    label = restore_cell(row["class"])
    peak = float(row["peak_s"]) if row.get("peak_s") else None
    return Event(float(row["onset_s"]), float(row["offset_s"]), label, float(row["score"]), peak)


def best_events(events: Iterable[Detection], per_class: int) -> list[Detection]:
    """The events with the highest scores of each class, in the order of class and score."""
    heaps: dict[str, list[Detection]] = {}
    for detection in events:
        heap = heaps.setdefault(detection.event.label, [])
        if len(heap) < per_class:
            heapq.heappush(heap, detection)
        else:
            heapq.heappushpop(heap, detection)
    return [detection for label in sorted(heaps) for detection in sorted(heaps[label], reverse=True)]


def write_excerpts(
    detections: Sequence[Detection], root: pathlib.Path, folder: pathlib.Path, max_s: float, problems: list[str]
) -> int:
    """Writes FOLDER/CLASS/NUMBER-RECORDING-ONSETs.wav for each event, and a table of them.

    An excerpt has the sample rate of its recording, one channel and 16 bits, and a second more at both ends. Its WAV
    header has the class as its title, and recording, times and score as its comment.

    Args:
        detections: the events, the best of a class first.
        root: folder that the recordings are in.
        folder: is created.
        max_s: of a longer event, so much around its best window is written.
        problems: a sentence is appended for each recording that cannot be read.

    Returns:
        The number of excerpts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    numbers: dict[str, int] = {}
    targets: dict[str, list[tuple[Detection, pathlib.Path]]] = {}
    for one in detections:
        label = one.event.label
        numbers[label] = numbers.get(label, 0) + 1
        stem = _file_name(pathlib.PurePosixPath(one.file).stem)
        name = f"{numbers[label]:03d}-{stem}-{one.event.onset_s:.1f}s.wav"
        targets.setdefault(one.file, []).append((one, folder / _file_name(label) / name))
    written: list[tuple[Detection, pathlib.Path]] = []
    for name, parts in targets.items():
        with collect_errors(problems, root / name):
            written += _cut(root / name, parts, max_s)
    with open(folder / TABLE, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(["excerpt", "class", "score", "file", "onset_s", "offset_s"])
        for one, path in sorted(written, key=lambda pair: pair[1]):
            event = one.event
            cells = [path.relative_to(folder).as_posix(), event.label, f"{event.score:.6f}", one.file]
            writer.writerow([*map(escape_cell, cells), f"{event.onset_s:.3f}", f"{event.offset_s:.3f}"])
    return len(written)


def _file_name(text: str) -> str:
    """Text as a part of a file name: without separators and characters that some systems do not allow."""
    return re.sub(r'[\x00-\x1f<>:"/\\|?*]+', "_", text).strip(" .")[:80] or "_"


def _span(event: Event, max_s: float) -> tuple[float, float]:
    """The part of an event, of at most `max_s`, that is written: around its best window, seconds."""
    start = event.onset_s
    if event.peak_s is not None:
        start = max(start, min(event.peak_s - max_s / 2, event.offset_s - max_s))
    return start, min(event.offset_s, start + max_s)


def _cut(
    path: pathlib.Path, parts: Sequence[tuple[Detection, pathlib.Path]], max_s: float
) -> list[tuple[Detection, pathlib.Path]]:
    """Reads a recording once, and writes its excerpts."""
    probe = AudioStream(path, 16_000)
    rate = round(probe.rate)
    probe.close()
    spans = []
    for one, _ in parts:
        start, end = _span(one.event, max_s)
        spans.append((max(0, round((start - _MARGIN_S) * rate)), round((end + _MARGIN_S) * rate)))
    for (one, target), samples in zip(parts, cut(AudioStream(path, rate), spans), strict=True):
        target.parent.mkdir(parents=True, exist_ok=True)
        event = one.event
        with soundfile.SoundFile(target, "w", rate, 1, "PCM_16") as file:
            file.title = event.label
            file.comment = f"{one.file}, {event.onset_s:.1f} to {event.offset_s:.1f} s, score {event.score:.3f}"
            file.software = "esc_jax"
            file.write(samples)
    return list(parts)
