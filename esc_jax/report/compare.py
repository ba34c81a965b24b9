"""Paired comparisons of runs on the clips that both were tested on."""

from collections.abc import Sequence
import dataclasses
import math
from typing import Any

import numpy as np

from esc_jax.evaluation import confidence
from esc_jax.report.errors import ReportError
from esc_jax.report.predictions import Predictions
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
        per_clip: whether the metric is a mean over clips.
    """

    better: str
    worse: str
    metric_label: str
    difference: confidence.ConfidenceInterval
    clips: int
    only_better: int | None
    only_worse: int | None
    p: float | None
    per_clip: bool = True

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
        if not self.per_clip:
            return text
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


def _predictions(run: Run) -> Predictions:
    """Raises ReportError where a run has no predictions."""
    if run.predictions is None:
        raise ReportError(run.notes[0] if run.notes else f"{run.name} has no predictions")
    return run.predictions


def _scores(predictions: Predictions, tta: bool) -> np.ndarray:
    return predictions.scores_tta if tta and predictions.scores_tta is not None else predictions.scores


def _by_clip(predictions: Predictions, values: np.ndarray) -> dict[str, _ClipResult]:
    """Clip → its result; `values` are those of the rows."""
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
    predictions = [_predictions(run) for run in (first, second)]
    _check_comparable(first, second)
    clips = sorted(set(predictions[0].clips) & set(predictions[1].clips))
    if not clips:
        tested = f"{first.folds_text}; {second.folds_text}"
        raise ReportError(f"{first.name} and {second.name} cannot be compared: they share no test clip ({tested})")
    values = [first.task.clip_scores(one.labels, _scores(one, tta)) for one in predictions]
    per_clip = [value for value in values if value is not None]
    results = [_by_clip(one, np.zeros(len(one))) for one in predictions]
    if any(results[0][clip].identity != results[1][clip].identity for clip in clips):
        raise ReportError(f"{first.name} and {second.name} cannot be compared: labels or recordings of a clip differ")
    if len(per_clip) < len(values):
        return _compare_scores(first, second, predictions, set(clips), tta)
    results = [_by_clip(one, value) for one, value in zip(predictions, per_clip, strict=True)]
    return _compare_clips(first, second, results, clips)


def _compare_clips(first: Run, second: Run, results: list[dict[str, _ClipResult]], clips: list[str]) -> Comparison:
    """Compares means over clips."""
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


def _compare_scores(
    first: Run, second: Run, predictions: Sequence[Predictions], clips: set[str], tta: bool
) -> Comparison:
    """Compares means over folds and seeds of a metric that is no mean over clips."""
    pairs, recordings = _paired_rows(predictions, clips)
    tests = [
        [(one.labels[rows], _scores(one, tta)[rows]) for rows in of_run]
        for one, of_run in zip(predictions, pairs, strict=True)
    ]
    difference = confidence.score_difference_interval(first.task, tests[0], tests[1], recordings)
    if difference.value < 0:
        first, second = second, first
        difference = dataclasses.replace(
            difference, value=-difference.value, low=-difference.high, high=-difference.low
        )
    return Comparison(
        first.label, second.label, first.task.metric_label, difference, len(clips), None, None, None, per_clip=False
    )


def _paired_rows(predictions: Sequence[Predictions], clips: set[str]) -> tuple[list[list[np.ndarray]], list[list[str]]]:
    """Rows of both runs on the same clips, and their recordings: one entry for each fold and pair of seeds.

    Where the runs have different numbers of seeds, those of a run are repeated in turn, equally often.
    """
    folds: dict[int, set[str]] = {}
    for clip, fold in zip(predictions[0].clips, predictions[0].folds.tolist(), strict=True):
        if clip in clips:
            folds.setdefault(fold, set()).add(clip)
    seeds: list[list[list[dict[str, int]]]] = []  # of each run, fold and seed: clip → row
    for one in predictions:
        by_seed: dict[int, dict[str, int]] = {}
        for row, (clip, seed) in enumerate(zip(one.clips, one.seeds.tolist(), strict=True)):
            by_seed.setdefault(seed, {})[clip] = row
        tables = [by_seed[seed] for seed in sorted(by_seed)]
        seeds.append([[table for table in tables if not members.isdisjoint(table)] for members in folds.values()])
    repeats = math.lcm(*(len(of_fold) for of_run in seeds for of_fold in of_run))
    pairs: list[list[np.ndarray]] = [[], []]
    recordings = []
    for members, *of_fold in zip(folds.values(), *seeds, strict=True):
        for turn in range(repeats):
            rows = [tables[turn % len(tables)] for tables in of_fold]
            order = sorted(members & rows[0].keys() & rows[1].keys())
            for of_run, row in zip(pairs, rows, strict=True):
                of_run.append(np.array([row[clip] for clip in order], np.int64))
            recordings.append([predictions[0].recordings[rows[0][clip]] for clip in order])
    return pairs, recordings


def against_best(runs: Sequence[Run]) -> tuple[list[Comparison], list[str]]:
    """Compares every run with the first run that was tested on some of its clips.

    Args:
        runs: of one task and data set, in the order of `runs.find`.

    Returns:
        The comparisons, and sentences on runs that cannot be compared.
    """
    comparisons, problems = [], []
    previous: list[tuple[Run, set[str]]] = []
    for run in runs:
        if run.predictions is None:
            continue
        clips = set(run.predictions.clips)
        reference = next((first for first, tested in previous if tested & clips), None)
        if reference:
            try:
                comparisons.append(compare(reference, run))
            except ReportError as error:
                problems.append(str(error))
        elif previous:
            problems.append(f"{run.name} shares no test clip with the runs above it ({run.folds_text})")
        previous.append((run, clips))
    return comparisons, problems
