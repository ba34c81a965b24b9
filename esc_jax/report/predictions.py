"""Reading predictions.csv."""

from collections.abc import Sequence
import csv
import dataclasses
import pathlib
from typing import Any

import numpy as np

from esc_jax.evaluation.escaping import restore_cell
from esc_jax.report.errors import RunError
from esc_jax.tasks.base import Task

COLUMNS = ("clip", "fold", "source", "seed", "true", "predicted", "predicted_tta")


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The N rows of predictions.csv: one for each test clip, and for each seed where there are several.

    Attributes:
        clips: (N,) file names.
        recordings: (N,) IDs of the source recordings.
        folds: (N,) test folds.
        seeds: (N,) seeds of the models.
        labels: (N, …) labels in the form of the task.
        scores: (N, classes) probabilities of the clips, rounded to nine digits.
        scores_tta: (N, classes) mean probabilities over the views of test-time augmentation; None without.
        thresholds: (N, classes) of the decisions on `scores`, from results.json; None for tasks that decide without.
    """

    clips: tuple[str, ...]
    recordings: tuple[str, ...]
    folds: np.ndarray
    seeds: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    scores_tta: np.ndarray | None
    thresholds: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.clips)


def _read_rows(path: pathlib.Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows, all of the same length. Raises RunError."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            lines = list(csv.reader(file))
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error):
        raise RunError(f"{path} is not a csv file") from None
    header, rows = (list(map(restore_cell, lines[0])), lines[1:]) if lines else ([], [])
    end = header.index("predicted_tta") + 1 if "predicted_tta" in header else len(header)
    if missing := [name for name in COLUMNS if name not in header[:end]]:
        raise RunError(f"{path} has no column {', '.join(missing)}: write it again with --mode=evaluate")
    if not rows:
        raise RunError(f"{path} is incomplete: it has no clips")
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise RunError(f"{path} is incomplete: line {number} has {len(row)} of {len(header)} columns")
    return header, rows


def read_predictions(path: pathlib.Path, task: Task, classes: Sequence[str]) -> Predictions:
    """Reads predictions.csv.

    Columns are identified by position, because a class may have the name of another column.

    Args:
        path: of the file.
        task: what the labels mean.
        classes: class names in the order of results.json.

    Raises:
        RunError: the file is missing, incomplete, or of other classes.
    """
    header, rows = _read_rows(path)
    first = header.index("predicted_tta") + 1
    column = {name: header[:first].index(name) for name in COLUMNS}
    plain = slice(first, first + len(classes))
    averaged = slice(first + len(classes), len(header))
    names = header[averaged]
    if header[plain] != list(classes) or names not in ([], [f"{name}_tta" for name in classes]):
        raise RunError(f"{path} does not have the classes of results.json in the same order")

    def texts(name: str) -> tuple[str, ...]:
        return tuple(restore_cell(row[column[name]]) for row in rows)

    def numbers(part: slice) -> np.ndarray:
        values = np.array([row[part] for row in rows], np.float64)
        if not ((values >= 0) & (values <= 1)).all():
            raise RunError(f"{path} has a probability that is not between 0 and 1")
        return values

    labels: list[Any] = []
    for text in texts("true"):
        try:
            labels.append(task.parse_label(text, classes))
        except ValueError as error:
            raise RunError(f"{path} has a label that results.json does not have: {error}") from None
    try:
        return Predictions(
            clips=texts("clip"),
            recordings=texts("source"),
            folds=np.array(texts("fold"), np.int64),
            seeds=np.array(texts("seed"), np.int64),
            labels=np.array(labels),
            scores=numbers(plain),
            scores_tta=numbers(averaged) if names else None,
        )
    except RunError:
        raise
    except ValueError:
        raise RunError(f"{path} has a fold, a seed or a probability that is not a number") from None
