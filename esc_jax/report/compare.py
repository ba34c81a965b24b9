"""Paired comparisons of runs on the clips that both were tested on."""

from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from esc_jax.evaluation import confidence
from esc_jax.report.errors import ReportError
from esc_jax.report.runs import Run


def points(value: float) -> str:
    """A difference of shares in percentage points, with a minus sign (U+2212)."""
    return f"{100 * value:.1f}".replace("-", "−").replace("−0.0", "0.0")


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two runs on the clips that both were tested on.

    Attributes:
        better, worse: labels of the runs, in any order if their scores are equal.
        metric_label: of the task.
        difference: score of the better run minus that of the worse, with its 95 % interval.
        clips: number of clips.
        only_better, only_worse: clips that only this run predicts correctly; None where `p` is None.
        p: p-value of McNemar's exact test; None unless each run has one correct or incorrect prediction per clip.
    """

    better: str
    worse: str
    metric_label: str
    difference: confidence.ConfidenceInterval
    clips: int
    only_better: int | None
    only_worse: int | None
    p: float | None

    @property
    def sentence(self) -> str:
        """The difference, its interval and whether it is significant."""
        value = points(self.difference.value)
        interval = f"95 % CI {points(self.difference.low)} to {points(self.difference.high)}"
        if self.difference.value == 0:
            text = f"{self.better} and {self.worse} have the same {self.metric_label} ({interval})"
        elif self.difference.low > 0:
            text = f"{self.better} outperforms {self.worse} by {value} points of {self.metric_label} ({interval})"
        else:
            text = (
                f"{self.better} is {value} points of {self.metric_label} above {self.worse}"
                f" ({interval}: not significant)"
            )
        if self.p is not None:
            p = "p<0.001" if self.p < 0.001 else f"p={self.p:.3f}" if self.p < 0.1 else f"p={self.p:.2f}"
            text += f", McNemar {p}"
        return text

    @property
    def basis(self) -> str:
        """The clips that the comparison is based on."""
        text = f"{self.clips:,} clips of {self.difference.clusters:,} recordings"
        if self.p is None:
            return text + "; no McNemar test, which needs one prediction per clip"
        return f"{text}; {self.only_better} correct only with {self.better}, {self.only_worse} only with {self.worse}"


@dataclasses.dataclass(frozen=True)
class _ClipResult:
    """A clip in the predictions of a run.

    Attributes:
        identity: label and recording, equal in all runs on the same data.
        values: contribution to the metric, one for each seed.
    """

    identity: tuple[Any, str]
    values: list[float]


def _by_clip(run: Run, tta: bool) -> dict[str, _ClipResult]:
    """Clip → its result. Raises ReportError."""
    predictions = run.predictions
    if predictions is None:
        raise ReportError(run.notes[0] if run.notes else f"{run.name} has no predictions")
    scores = predictions.scores_tta if tta and predictions.scores_tta is not None else predictions.scores
    values = run.task.clip_scores(predictions.labels, scores)
    if values is None:
        raise ReportError(f"runs of the task {run.task.name} cannot be compared: its metric is not a mean over clips")
    results: dict[str, _ClipResult] = {}
    rows = zip(predictions.clips, predictions.labels.tolist(), predictions.recordings, values.tolist(), strict=True)
    for clip, label, recording, value in rows:
        results.setdefault(clip, _ClipResult((label, recording), [])).values.append(value)
    return results


def _check_comparable(first: Run, second: Run) -> None:
    """Raises ReportError unless both runs have the same task, data and classes."""
    prefix = f"{first.name} and {second.name} cannot be compared:"
    if first.task.name != second.task.name:
        raise ReportError(f"{prefix} they are of different tasks ({first.task.name}; {second.task.name})")
    if first.fingerprint != second.fingerprint:
        raise ReportError(f"{prefix} they are of different data ({first.data_label}; {second.data_label})")
    if first.classes != second.classes:
        pairs = enumerate(zip(first.classes, second.classes, strict=False))
        shortest = min(len(first.classes), len(second.classes))
        index = next((i for i, (a, b) in pairs if a != b), shortest)
        names = [run.classes[index] if index < len(run.classes) else "missing" for run in (first, second)]
        raise ReportError(f"{prefix} their classes differ in number or order (class {index} is {names[0]}; {names[1]})")


def compare(first: Run, second: Run, *, tta: bool = False) -> Comparison:
    """Compares two runs on the clips that both were tested on.

    Args:
        first, second: runs with predictions.
        tta: whether to compare predictions with test-time augmentation.

    Raises:
        ReportError: the runs have different tasks, data or classes, no clip in common, or no predictions.
    """
    results = [_by_clip(run, tta) for run in (first, second)]
    _check_comparable(first, second)
    clips = sorted(results[0].keys() & results[1].keys())
    if not clips:
        tested = f"{first.folds_text}; {second.folds_text}"
        raise ReportError(f"{first.name} and {second.name} cannot be compared: they share no test clip ({tested})")
    if any(results[0][clip].identity != results[1][clip].identity for clip in clips):
        raise ReportError(f"{first.name} and {second.name} cannot be compared: labels or recordings of a clip differ")
    values = [np.array([np.mean(one[clip].values) for clip in clips]) for one in results]
    if values[1].mean() > values[0].mean():
        first, second = second, first
        values.reverse()
    only_better = only_worse = p = None
    if all(one[clip].values in ([0.0], [1.0]) for one in results for clip in clips):
        only_better, only_worse = int((values[0] > values[1]).sum()), int((values[0] < values[1]).sum())
        p = confidence.mcnemar(only_better, only_worse)
    recordings = [results[0][clip].identity[1] for clip in clips]
    return Comparison(
        better=first.label,
        worse=second.label,
        metric_label=first.task.metric_label,
        difference=confidence.difference_interval(values[0], values[1], recordings),
        clips=len(clips),
        only_better=only_better,
        only_worse=only_worse,
        p=p,
    )


def against_best(runs: Sequence[Run]) -> tuple[list[Comparison], list[str]]:
    """Compares every run with the best run that was tested on some of its clips.

    Args:
        runs: of one task and data set, the best first.

    Returns:
        The comparisons, and sentences on runs that cannot be compared.
    """
    comparisons, problems = [], []
    previous: list[tuple[Run, set[str]]] = []
    for run in runs:
        if run.predictions is None:
            continue
        clips = set(run.predictions.clips)
        reference = next((better for better, tested in previous if tested & clips), None)
        if reference:
            try:
                comparisons.append(compare(reference, run))
            except ReportError as error:
                problems.append(str(error))
        elif previous:
            problems.append(f"{run.name} shares no test clip with a better run ({run.folds_text})")
        previous.append((run, clips))
    return comparisons, problems
