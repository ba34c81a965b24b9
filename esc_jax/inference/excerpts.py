"""Cuts the best events of each class out of recordings, as sound files."""

from collections.abc import Iterable, Iterator, Sequence
import contextlib
import csv
import dataclasses
import heapq
import io
import math
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
_HEADER = ["excerpt", "class", "score", "file", "onset_s", "offset_s"]
_SOFTWARE = "esc_jax"  # in the header of an excerpt
_NAME = re.compile(r"\d{3,}-.+-\d+\.\ds\.wav(\.\d+\.partial)?", re.DOTALL)
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
    table = folder / TABLE
    if not table.is_file():
        return True
    with open(table, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        try:
            return next(csv.reader(file), None) == _HEADER
        except csv.Error:
            return False


def write_excerpts(
    detections: Sequence[Detection],
    root: pathlib.Path,
    folder: pathlib.Path,
    max_s: float,
    problems: list[str],
    bom: bool = False,
) -> tuple[int, int]:
    """Writes FOLDER/CLASS/NUMBER-RECORDING-ONSETs.wav for each event, and a table of them.

    An excerpt has the sample rate of its recording, one channel and 16 bits, and a second more at both ends. Its WAV
    header has the class as its title, and recording, times and score as its comment. Where the names of two classes
    become the same folder name, a number is appended to one of them. Excerpts of an earlier call that are not written
    again are removed; they are recognised by their names and WAV headers.

    Args:
        detections: the events, the best of a class first.
        root: folder that the recordings are in.
        folder: is created.
        max_s: of a longer event, so much around its best window is written.
        problems: a sentence is appended for each recording that cannot be read, or whose excerpts cannot be written.
        bom: begin the table with a byte order mark.

    Returns:
        How many excerpts are written, and how many of an earlier call are removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    numbers: dict[str, int] = {}
    targets: dict[str, list[tuple[Detection, pathlib.Path]]] = {}
    folders = _folder_names({one.event.label for one in detections})
    for one in detections:
        label = one.event.label
        numbers[label] = numbers.get(label, 0) + 1
        stem = _file_name(pathlib.PurePosixPath(one.file).stem)
        name = f"{numbers[label]:03d}-{stem}-{one.event.onset_s:.1f}s.wav"
        targets.setdefault(one.file, []).append((one, folder / folders[label] / name))
    written: list[tuple[Detection, pathlib.Path]] = []
    for name, parts in targets.items():
        with collect_errors(problems, root / name):
            written.extend(_cut(root / name, parts, max_s))  # those before an error are kept
    with files.write_output(folder / TABLE, "w", newline="", errors="surrogateescape") as file:
        file.write(output.BOM if bom else "")
        writer = csv.writer(file)
        writer.writerow(_HEADER)
        for one, path in sorted(written, key=lambda pair: pair[1]):
            event = one.event
            cells = [path.relative_to(folder).as_posix(), event.label, f"{event.score:.6f}", one.file]
            writer.writerow([*map(escape_cell, cells), f"{event.onset_s:.3f}", f"{event.offset_s:.3f}"])
    return len(written), _remove_earlier(folder, [path for parts in targets.values() for _, path in parts])


def _remove_earlier(folder: pathlib.Path, current: Iterable[pathlib.Path]) -> int:
    """Removes the excerpts in a folder that are not current, and what killed calls left. Returns how many excerpts."""
    kept = {(status.st_dev, status.st_ino) for path in current if path.exists() for status in [path.stat()]}
    count = 0
    for path in sorted(folder.glob("*/*")):
        if not _NAME.fullmatch(path.name) or path.is_symlink() or not path.is_file():
            continue
        partial, status = path.name.endswith(".partial"), path.stat()
        if (status.st_dev, status.st_ino) in kept or not (partial or _is_excerpt(path)):
            continue
        path.unlink()
        count += not partial
        with contextlib.suppress(OSError):  # other files are in it
            path.parent.rmdir()
    return count


def _is_excerpt(path: pathlib.Path) -> bool:
    """Whether a file is as `_encode` has made it, and in the folder of its class, where no user has sorted it."""
    try:
        with soundfile.SoundFile(path) as file:  # another program that saves a sound writes its own name, or none
            software, label = file.software, file.title
    except (OSError, soundfile.LibsndfileError):
        return False
    folder = re.escape(_file_name(label)) + r"(-\d+)?"
    return software.startswith(_SOFTWARE) and re.fullmatch(folder, path.parent.name) is not None


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


def _span(event: Event, max_s: float) -> tuple[float, float]:
    """The part of an event, of at most `max_s`, that is written: around its best window, seconds."""
    start = event.onset_s
    if event.peak_s is not None:
        start = max(start, min(event.peak_s - max_s / 2, event.offset_s - max_s))
    return start, min(event.offset_s, start + max_s)


def _cut(
    path: pathlib.Path, parts: Sequence[tuple[Detection, pathlib.Path]], max_s: float
) -> Iterator[tuple[Detection, pathlib.Path]]:
    """Reads a recording once, writes its excerpts, and yields each that is written."""
    probe = AudioStream(path, 16_000)
    rate = round(probe.rate)
    probe.close()
    spans = []
    for one, _ in parts:
        start, end = _span(one.event, max_s)
        spans.append((max(0, round((start - _MARGIN_S) * rate)), round((end + _MARGIN_S) * rate)))
    for (one, target), samples in zip(parts, cut(AudioStream(path, rate), spans), strict=True):
        target.parent.mkdir(parents=True, exist_ok=True)
        content = _encode(one, samples, rate, target)
        with files.write_output(target) as file:
            file.write(content)
        yield one, target


def _encode(detection: Detection, samples: np.ndarray, rate: int, target: pathlib.Path) -> bytes:
    """An excerpt as a WAV file. It is made in memory, since libsndfile does not say why a file cannot be written."""
    event, content = detection.event, io.BytesIO()
    times = f"{event.onset_s:.1f} to {event.offset_s:.1f} s, score {event.score:.3f}"
    try:
        with soundfile.SoundFile(content, "w", rate, 1, "PCM_16", format="WAV") as file:
            file.title = event.label
            file.comment = f"{detection.file}, {times}"
            file.software = _SOFTWARE
            file.write(samples)
    except soundfile.LibsndfileError as error:
        raise ExcerptError(f"{target}: cannot be written ({first_line(error)})") from None
    return content.getvalue()
