"""Clips that a run predicts incorrectly, grouped by the kind of the error."""

import dataclasses
import math
from typing import Any

from esc_jax.report.predictions import Predictions
from esc_jax.report.runs import Run


@dataclasses.dataclass(frozen=True)
class Mistake:
    """A clip with an incorrect prediction.

    Attributes:
        clip: file name.
        recording: ID of the source recording.
        fold: test fold.
        true, predicted: class names, separated by commas; "no class" for none.
        confidence: probability of the prediction.
        likelihood: probability of the true label.
    """

    clip: str
    recording: str
    fold: int
    true: str
    predicted: str
    confidence: float
    likelihood: float


@dataclasses.dataclass(frozen=True)
class MistakeGroup:
    """Mistakes of the same kind (`tasks.base.ErrorGroup`), the most confident first. A group lists a clip once."""

    description: str
    mistakes: tuple[Mistake, ...]


def mistake_groups(run: Run, predictions: Predictions) -> list[MistakeGroup]:
    """The mistakes of a run, the most frequent kind first.

    With several seeds, the description counts a clip once for each model that is wrong on it.

    Args:
        run: with predictions.
        predictions: of the run.
    """
    task, labels, scores, thresholds = run.task, predictions.labels, predictions.scores, predictions.thresholds
    decisions, confidence = task.decide(scores, thresholds), task.confidence(scores, thresholds)
    logits = task.logits(scores)

    def names(label: Any) -> str:
        return ", ".join(task.label_names(label, run.classes)) or "no class"

    def mistake(row: int) -> Mistake:
        return Mistake(
            clip=predictions.clips[row],
            recording=predictions.recordings[row],
            fold=int(predictions.folds[row]),
            true=names(labels[row]),
            predicted=names(decisions[row]),
            confidence=float(confidence[row]),
            likelihood=math.exp(-task.nll(logits[row : row + 1], labels[row : row + 1])),
        )

    groups = []
    for group in task.error_groups(labels, scores, run.classes, thresholds):
        first_rows: dict[str, int] = {}
        for row in group.rows:
            first_rows.setdefault(predictions.clips[row], row)
        groups.append(MistakeGroup(group.description, tuple(map(mistake, first_rows.values()))))
    return groups
