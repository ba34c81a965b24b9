"""Labels of passages of recordings: csv files with the columns recording, start_s, end_s and label."""

from collections.abc import Sequence
import csv
import dataclasses
import math
import os
import pathlib

from esc_jax import files
from esc_jax.errors import UserError, counted, printable, shorten
from esc_jax.evaluation.escaping import escape_cell, restore_cell
from esc_jax.inference.index_store import Passage, Store

COLUMNS = ("recording", "start_s", "end_s", "label")


class LabelError(UserError, ValueError):
    """Labels that cannot be used. The message is one sentence."""


@dataclasses.dataclass(frozen=True)
class Label:
    """A part of a recording, seconds, and its class."""

    recording: str
    start_s: float
    end_s: float
    label: str


@dataclasses.dataclass(frozen=True)
class LabelledPassages:
    """n passages of a store with their classes.

    Attributes:
        passages: n passages.
        targets: n indices of classes.
        classes: their names, in alphabetical order.
        problems: a sentence for each kind of label that no passage has.
    """

    passages: list[Passage]
    targets: list[int]
    classes: tuple[str, ...]
    problems: list[str]


def read_labels(path: pathlib.Path) -> list[Label]:
    """Reads a csv file of labels. Rows without a label are skipped.

    Raises:
        LabelError: a column is missing, or a time is no number.
        OSError: the file cannot be read.
    """
    with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        try:
            reader = csv.DictReader(file)
            if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
                raise LabelError(f"{path} has no column {missing[0]}: a label file has {', '.join(COLUMNS)}")
            return [_label(path, row, reader.line_num) for row in reader if (row["label"] or "").strip()]
        except csv.Error as error:
            raise LabelError(f"{path} is not a csv file ({error})") from None


def _label(path: pathlib.Path, row: dict[str, str], line: int) -> Label:
    try:
        start, end = float(row["start_s"]), float(row["end_s"])
    except (TypeError, ValueError):
        start = end = math.nan
    if not 0 <= start < end < math.inf:
        times = f"{shorten(row['start_s'])} to {shorten(row['end_s'])}"
        raise LabelError(f"{path}, line {line}: {times} is not a range of seconds in a recording")
    return Label(restore_cell(row["recording"]), start, end, restore_cell(row["label"].strip()))


def write_labels(path: pathlib.Path, labels: Sequence[Label]) -> None:
    """Writes a csv file of labels."""
    with files.atomic_write(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for one in labels:
            # Names of files are bytes on Linux; what is not UTF-8 cannot be written here.
            recording = os.fsencode(one.recording).decode("utf-8", errors="replace")
            times = f"{one.start_s:.3f}", f"{one.end_s:.3f}"
            writer.writerow([escape_cell(recording), *times, escape_cell(one.label)])


def match_labels(store: Store, labels: Sequence[Label]) -> LabelledPassages:
    """The passages of a store that labels are for.

    A passage has a label if their overlap is at least half of the shorter of the two. Of several labels it has the one
    with the largest overlap; of equal ones, the last.

    Raises:
        LabelError: no passage has a label, or all have the same.
    """
    known = store.files()
    of_recording: dict[int, list[Label]] = {}
    unknown: dict[str, int] = {}
    for one in labels:
        recording = known.get(os.path.abspath(one.recording))
        if recording is None:
            unknown[one.recording] = unknown.get(one.recording, 0) + 1
        else:
            of_recording.setdefault(recording, []).append(one)
    problems = [
        f"{printable(name)}: the store does not have this recording; {counted(count, 'label')} not used"
        for name, count in unknown.items()
    ]
    chosen: list[tuple[Passage, str]] = []
    for recording, group in of_recording.items():
        passages = store.passages_of(recording)
        unused = set(range(len(group)))
        for passage in passages:
            name, used = _label_of(passage, group)
            unused -= used
            if name is not None:
                chosen.append((passage, name))
        for index in sorted(unused):
            one = group[index]
            problems.append(f"{printable(one.recording)}: no passage at {one.start_s:g} to {one.end_s:g} s")
    classes = tuple(sorted({name for _, name in chosen}))
    if len(classes) < 2:
        found = f"only {classes[0]}" if classes else "none"
        raise LabelError(
            f"a classifier needs labels of two classes or more, but the passages of the store have {found}"
        )
    targets = [classes.index(name) for _, name in chosen]
    return LabelledPassages([passage for passage, _ in chosen], targets, classes, problems)


def _label_of(passage: Passage, labels: Sequence[Label]) -> tuple[str | None, set[int]]:
    """The class of a passage, and the indices of all labels that are for it."""
    best: str | None = None
    largest, used = 0.0, set[int]()
    for index, one in enumerate(labels):
        overlap = min(passage.end_s, one.end_s) - max(passage.start_s, one.start_s)
        shorter = min(passage.end_s - passage.start_s, one.end_s - one.start_s)
        if overlap > 0 and overlap >= 0.5 * shorter - 1e-3:
            used.add(index)
            if overlap >= largest - 1e-3:
                best, largest = one.label, max(overlap, largest)
    return best, used
