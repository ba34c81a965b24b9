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


def wilson(correct: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95 % interval of a share: clips counted as independent (Wilson 1927)."""
    if not total:
        return (0.0, 1.0)
    share = correct / total
    middle = share + z**2 / (2 * total)
    spread = z * np.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    scale = 1 + z**2 / total
    return (float((middle - spread) / scale), float((middle + spread) / scale))


def over_folds(correct: Sequence[int], total: Sequence[int]) -> dict[str, object]:
    """`mean` and `std` (n − 1) of the accuracy over folds, and the 95 % interval of all clips together.

    std is None for one fold: nothing varies there.
    """
    shares = np.array(correct) / np.array(total)
    std = float(shares.std(ddof=1)) if len(shares) > 1 else None
    return {"mean": float(shares.mean()), "std": std, "ci95": list(wilson(sum(correct), sum(total)))}
