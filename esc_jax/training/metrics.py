"""Numbers of an evaluation, from counts; plain numpy."""

from collections.abc import Sequence

import numpy as np


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """(classes, classes) counts: rows are true classes, columns predictions."""
    table = np.zeros((classes, classes), np.int64)
    np.add.at(table, (labels, predicted), 1)
    return table


def per_class(table: np.ndarray, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Accuracy, correct and total of each class of a confusion matrix; accuracy is None for a class without clips."""
    totals, correct = table.sum(axis=1), table.diagonal()
    return {
        name: {"accuracy": float(c / t) if t else None, "correct": int(c), "total": int(t)}
        for name, c, t in zip(names, correct, totals, strict=True)
    }
