"""Cuts the best events of each class out of recordings, as sound files."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
import contextlib
import csv
import dataclasses
import heapq
import io
import math
import os
import pathlib
import re

import numpy as np
import soundfile

from esc_jax import files
from esc_jax.data.stream import AudioStream, cut
from esc_jax.errors import Failure, collect_errors, first_line
from esc_jax.evaluation.escaping import escape_cell, restore_cell
from esc_jax.inference import output
from esc_jax.inference.events import Event

TABLE = "excerpts.csv"
_HEADER = ["excerpt", "class", "score", "file", "onset_s", "offset_s", "start_s", "end_s"]
_EARLIER_HEADER = _HEADER[:6]
_SOFTWARE = "esc_jax"  # in the header of an excerpt
_PARTIAL = re.compile(r"\d{3,}-.+-\d+\.\ds(-\d+)?\.wav\.\d+\.partial", re.DOTALL)
_COLUMNS = ("file", "onset_s", "offset_s", "class", "score")  # of the format `events`
_MARGIN_S = 1.0  # before and after an event
_REMEDY = "if the file was changed, delete it to have it written again"


class ExcerptError(Failure):
    """Events that cannot be read, or an excerpt that cannot be written. The message is one sentence."""


@dataclasses.dataclass(frozen=True, order=True)
class Detection:
    """An event and the recording that it is in, below a common folder."""

    score: float
    file: str
    event: Event = dataclasses.field(compare=False)


def read_events(path: pathlib.Path) -> list[Detection]:
    """The events in a file of the format `events` (`result_files`).

    Raises:
        ExcerptError: the file is not of this format, for example because another program has changed it.
        OSError: it cannot be read.
    """
    with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        try:
            reader = csv.DictReader(file)
            if missing := [name for name in _COLUMNS if name not in (reader.fieldnames or ())]:
                raise ExcerptError(f"{path} has no column {missing[0]}: {_REMEDY}")
            return [_detection(path, row, reader.line_num) for row in reader]
        except csv.Error as error:
            raise ExcerptError(f"{path} is not a csv file ({error}): {_REMEDY}") from None


def _detection(path: pathlib.Path, row: dict[str, str | None], line: int) -> Detection:
    file, onset, offset, label, score = (row[name] or "" for name in _COLUMNS)
    peak = row.get("peak_s")  # which earlier versions do not have
    try:
        onset_s, offset_s, value = float(onset), float(offset), float(score)
        peak_s = float(peak) if peak else None
    except ValueError:
        onset_s = offset_s = value = math.nan
        peak_s = None
    if not (file and 0 <= onset_s <= offset_s < math.inf and math.isfinite(value) and math.isfinite(peak_s or 0.0)):
        raise ExcerptError(f"{path}, line {line}: not an event: {_REMEDY}")
    return Detection(value, restore_cell(file), Event(onset_s, offset_s, restore_cell(label), value, peak_s))


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


def is_replaceable(folder: pathlib.Path) -> bool:
    """Whether the table in a folder of excerpts is one of `write_excerpts`, or there is none. Raises OSError."""
    return _read_table(folder) is not None


def write_excerpts(
    detections: Sequence[Detection],
    root: pathlib.Path,
    folder: pathlib.Path,
    window_s: float,
    max_s: float,
    problems: list[str],
    *,
    finished: Collection[str],
    bom: bool = False,
) -> tuple[int, int]:
    """Writes FOLDER/CLASS/NUMBER-RECORDING-STARTs.wav for each event, and a table of them.

    An excerpt is the event with a second more at both ends, and the whole of its best window: a sound can be anywhere
    in a window, and an event has the middle of a window only. It has the sample rate of its recording, one channel and
    16 bits. Its WAV header has the class as its title, and recording, times and score as its comment. Where the names
    of two classes become the same folder name, a number is appended to one of them.

    The table says which excerpts earlier calls have written. Those of finished recordings are replaced or removed. All
    other files are kept: a file that has the name of an excerpt and is not in the table, is a link, or was saved by
    another program, is not replaced, and the excerpt gets another name.

    Args:
        detections: the events, the best of a class first.
        root: folder that the recordings are in.
        folder: is created.
        window_s: length of a window.
        max_s: of a longer event, so much around its best window is written.
        problems: a sentence is appended for each recording that cannot be read, or whose excerpts cannot be written.
        finished: the recordings that the detections are of. Excerpts of others are kept.
        bom: begin the table with a byte order mark.

    Returns:
        How many excerpts are written, and how many of an earlier call are removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    earlier = _read_table(folder) or {}
    numbers: dict[str, int] = {}
    targets: dict[str, list[_Excerpt]] = {}
    folders = _folder_names({one.event.label for one in detections})
    for one in detections:
        label = one.event.label
        numbers[label] = numbers.get(label, 0) + 1
        stem = _file_name(pathlib.PurePosixPath(one.file).stem)
        start, end = _span(one.event, window_s, max_s)
        path = folder / folders[label] / f"{numbers[label]:03d}-{stem}-{start:.1f}s.wav"
        path = _free_path(path, folder, earlier, finished)
        targets.setdefault(one.file, []).append(_Excerpt(one, path, start, end))
    planned = [excerpt for parts in targets.values() for excerpt in parts]
    # Before the first excerpt is written, so that a call that is killed leaves none that is not in the table.
    _write_table(folder, planned, earlier, bom)
    written: list[_Excerpt] = []
    for name, parts in targets.items():
        with collect_errors(problems, root / name):
            written.extend(_cut(root / name, parts))  # those before an error are kept
    new = {_relative(excerpt.path, folder) for excerpt in written}
    failed = {excerpt.detection.file for excerpt in planned if _relative(excerpt.path, folder) not in new}
    old = {path: row for path, row in earlier.items() if path not in new and os.path.lexists(folder / path)}
    removable = [path for path, row in old.items() if row[3] in finished and row[3] not in failed]
    removed = [path for path in removable if _is_excerpt(folder / path)]
    _write_table(folder, written, {path: row for path, row in old.items() if path not in removable}, bom)
    for path in [*(folder / path for path in removed), *_partial_files(folder)]:
        path.unlink()
        with contextlib.suppress(OSError):  # other files are in it
            path.parent.rmdir()
    return len(written), len(removed)


def _relative(path: pathlib.Path, folder: pathlib.Path) -> str:
    return path.relative_to(folder).as_posix()


def _read_table(folder: pathlib.Path) -> dict[str, list[str]] | None:
    """Path of each excerpt of earlier calls → its row; None where the table is not one of `write_excerpts`."""
    path = folder / TABLE
    if not path.is_file():
        return {}
    with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        try:
            header, *rows = csv.reader(file)
        except (csv.Error, ValueError):  # the latter for an empty file
            return None
    if header not in (_HEADER, _EARLIER_HEADER):
        return None
    filled = [
        list(map(restore_cell, row)) + [""] * (len(_HEADER) - len(row))
        for row in rows
        if len(row) >= len(_EARLIER_HEADER)
    ]
    return {row[0]: row for row in filled}


def _write_table(
    folder: pathlib.Path, excerpts: Sequence["_Excerpt"], others: Mapping[str, Sequence[str]], bom: bool
) -> None:
    """Writes the table with rows of some excerpts, and the rows of others."""
    rows = {path: list(row) for path, row in others.items()}
    for excerpt in excerpts:
        event, path = excerpt.detection.event, _relative(excerpt.path, folder)
        times = event.onset_s, event.offset_s, excerpt.start_s, excerpt.end_s
        cells = [path, event.label, f"{event.score:.6f}", excerpt.detection.file]
        rows[path] = [*cells, *(f"{time:.3f}" for time in times)]
    with files.write_output(folder / TABLE, "w", newline="", errors="surrogateescape") as file:
        file.write(output.BOM if bom else "")
        csv.writer(file).writerows([_HEADER, *([escape_cell(cell) for cell in rows[path]] for path in sorted(rows))])


def _free_path(
    path: pathlib.Path, folder: pathlib.Path, earlier: Mapping[str, Sequence[str]], finished: Collection[str]
) -> pathlib.Path:
    """The path, or one with a number where a file that may not be replaced has it."""
    chosen, number = path, 1
    while os.path.lexists(chosen):
        row = earlier.get(_relative(chosen, folder))
        if row and row[3] in finished and _is_excerpt(chosen):
            break
        number += 1
        chosen = path.with_stem(f"{path.stem}-{number}")
    return chosen


def _partial_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """What killed calls left."""
    return [path for path in sorted(folder.glob("*/*.partial")) if _PARTIAL.fullmatch(path.name)]


def _is_excerpt(path: pathlib.Path) -> bool:
    """Whether a file is as `_encode` has made it. Another program that saves a sound writes its own name, or none."""
    try:
        with soundfile.SoundFile(path) as file:
            return not path.is_symlink() and file.software.startswith(_SOFTWARE)
    except (OSError, soundfile.LibsndfileError):
        return False


def _file_name(text: str) -> str:
    """Text as a part of a file name: without separators and characters that some systems do not allow."""
    name = re.sub(r'[\x00-\x1f<>:"/\\|?*]+', "_", text).strip(" .")[:80]
    return name.encode("utf-8", errors="surrogateescape")[:160].decode("utf-8", errors="ignore").strip(" .") or "_"


def _folder_names(labels: Iterable[str]) -> dict[str, str]:
    """Class → its folder; all are different, also where a file system ignores case."""
    taken, folders = {TABLE}, {}
    for label in sorted(labels, key=lambda label: (_file_name(label) != label, label)):  # unchanged names come first
        name, number = _file_name(label), 1
        while name.casefold() in taken:
            number += 1
            name = f"{_file_name(label)}-{number}"
        taken.add(name.casefold())
        folders[label] = name
    return folders


@dataclasses.dataclass(frozen=True)
class _Excerpt:
    """An event, its file, and the part of the recording that is written to it, seconds."""

    detection: Detection
    path: pathlib.Path
    start_s: float
    end_s: float


def _span(event: Event, window_s: float, max_s: float) -> tuple[float, float]:
    """The part of a recording that is written for an event, seconds; it may end after the recording."""
    start, peak = event.onset_s, event.peak_s
    if peak is not None:
        start = max(start, min(peak - max_s / 2, event.offset_s - max_s))
    end = min(event.offset_s, start + max_s)
    first, last = start - _MARGIN_S, end + _MARGIN_S
    if peak is not None:
        first, last = min(first, peak - window_s / 2), max(last, peak + window_s / 2)
    return max(0.0, first), last


def _cut(path: pathlib.Path, parts: Sequence[_Excerpt]) -> Iterator[_Excerpt]:
    """Reads a recording once, writes its excerpts, and yields each that is written, with the time at which it ends."""
    probe = AudioStream(path, 16_000)
    rate = round(probe.rate)
    probe.close()
    spans = [(round(one.start_s * rate), round(one.end_s * rate)) for one in parts]
    for one, (first, _), samples in zip(parts, spans, cut(AudioStream(path, rate), spans), strict=True):
        one.path.parent.mkdir(parents=True, exist_ok=True)
        content = _encode(one.detection, samples, rate, one.path)
        with files.write_output(one.path) as file:
            file.write(content)
        yield dataclasses.replace(one, end_s=(first + len(samples)) / rate)


def _utf8(text: str) -> str:
    """Text in which bytes of a file name that are not UTF-8 are replaced: libsndfile takes UTF-8 only."""
    return text.encode("utf-8", errors="surrogateescape").decode("utf-8", errors="replace")


def _encode(detection: Detection, samples: np.ndarray, rate: int, target: pathlib.Path) -> bytes:
    """An excerpt as a WAV file. It is made in memory, since libsndfile does not say why a file cannot be written."""
    event, content = detection.event, io.BytesIO()
    times = f"{event.onset_s:.1f} to {event.offset_s:.1f} s, score {event.score:.3f}"
    try:
        with soundfile.SoundFile(content, "w", rate, 1, "PCM_16", format="WAV") as file:
            file.title = _utf8(event.label)
            file.comment = _utf8(f"{detection.file}, {times}")
            file.software = _SOFTWARE
            file.write(samples)
    except soundfile.LibsndfileError as error:
        raise ExcerptError(f"{target}: cannot be written ({first_line(error)})") from None
    return content.getvalue()
