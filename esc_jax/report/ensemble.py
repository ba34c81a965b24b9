"""Ensembles of finished runs: their predictions of each clip are averaged."""

from collections.abc import Sequence
import dataclasses

import numpy as np

from esc_jax.evaluation import results
from esc_jax.evaluation.confidence import ConfidenceInterval
from esc_jax.report.errors import ReportError
from esc_jax.report.predictions import Predictions
from esc_jax.report.runs import Run, interval
from esc_jax.tasks.base import Task


def choose(runs: Sequence[Run], names: Sequence[str]) -> list[Run]:
    """The runs with these names, which are their paths below the folder of all runs. Raises ReportError."""
    by_name = {run.name: run for run in runs}
    names = list(dict.fromkeys(name.rstrip("/") for name in names))
    if unknown := [name for name in names if name not in by_name]:
        raise ReportError(f"--ensemble: there is no run {unknown[0]}; the runs are {', '.join(by_name)}")
    return [by_name[name] for name in names]


def ensemble(runs: Sequence[Run], average: str = "probabilities") -> Run:
    """The ensemble of runs that were tested on the same clips. The seeds of a run are members like the runs themselves.

    Args:
        runs: one run with several seeds, or several runs.
        average: "probabilities", or "logits" for the normalized geometric mean of the probabilities.

    Raises:
        ReportError: the runs were tested on different data, clips or folds, or have no predictions.
    """
    first, parts = runs[0], []
    for run in runs:
        if run.predictions is None:
            raise ReportError(f"--ensemble: {run.name} has no predictions")
        parts.append(run.predictions)
        if run.data_key != first.data_key or set(_tests(parts[-1])) != set(_tests(parts[0])):
            raise ReportError(f"--ensemble: {run.name} and {first.name} were not tested on the same clips and folds")
    if len({(run.tta_views, run.tta_kind) for run in runs}) > 1:  # their mean would have no name
        parts = [dataclasses.replace(part, scores_tta=None) for part in parts]
    members = sum(run.seeds for run in runs)
    if members < 2:
        raise ReportError(f"--ensemble: {first.name} is one model: name several runs, or a run with several seeds")
    predictions = _averaged(first.task, parts, average)
    score, std = _score(first.task, predictions, predictions.scores)
    views = predictions.scores_tta
    return dataclasses.replace(
        first,
        name=f"ensemble of {members} ({', '.join(run.name for run in runs)}), mean of {average}",
        method="",
        teacher=", ".join(dict.fromkeys(run.teacher for run in runs if run.teacher)),
        seeds=1,
        tested=len(predictions),
        protocol=", ".join(dict.fromkeys(run.protocol for run in runs)),
        test_selected=any(run.test_selected for run in runs),
        score=score,
        score_tta=None if views is None else _score(first.task, predictions, views)[0],
        other_metrics={},
        std=std,
        tta_views=0 if views is None else first.tta_views,
        tta_kind=first.tta_kind,
        parameters=sum(run.parameters * run.seeds for run in runs),
        seconds=sum(run.seconds for run in runs),
        temperatures={},
        fitted_on="",
        predictions=predictions,
        notes=(),
        config={},
    )


def _tests(predictions: Predictions) -> list[tuple[str, int]]:
    """(clip, fold) of each row."""
    return list(zip(predictions.clips, predictions.folds.tolist(), strict=True))


def _averaged(task: Task, parts: Sequence[Predictions], average: str) -> Predictions:
    """One row for each clip and fold, in the order of the first part: the mean over all rows of all parts."""
    first = parts[0]
    leading: dict[tuple[str, int], int] = {}
    for row, test in enumerate(_tests(parts[0])):
        leading.setdefault(test, row)
    position = {test: number for number, test in enumerate(leading)}
    rows = np.array([position[test] for part in parts for test in _tests(part)])
    firsts = np.array(list(leading.values()))

    def mean(values: Sequence[np.ndarray]) -> np.ndarray:
        if average == "logits":
            return task.probabilities(_mean_rows(list(map(task.logits, values)), rows, len(leading)))
        return _mean_rows(values, rows, len(leading))

    views = [part.scores_tta for part in parts if part.scores_tta is not None]
    limits = [part.thresholds for part in parts if part.thresholds is not None]
    return Predictions(
        clips=tuple(clip for clip, _ in leading),
        recordings=tuple(first.recordings[row] for row in firsts),
        folds=first.folds[firsts],
        seeds=np.zeros(len(leading), np.int64),
        labels=first.labels[firsts],
        scores=mean([part.scores for part in parts]),
        scores_tta=mean(views) if len(views) == len(parts) else None,
        thresholds=_mean_rows(limits, rows, len(leading)) if len(limits) == len(parts) else None,
    )


def _mean_rows(values: Sequence[np.ndarray], rows: np.ndarray, count: int) -> np.ndarray:
    sums = np.zeros((count, values[0].shape[1]))
    np.add.at(sums, rows, np.concatenate(values))
    return sums / np.bincount(rows, minlength=count)[:, None]


def _score(task: Task, predictions: Predictions, scores: np.ndarray) -> tuple[ConfidenceInterval, float | None]:
    """Mean over the folds with its interval, and the standard deviation over the folds."""
    folds = [np.flatnonzero(predictions.folds == fold) for fold in sorted(set(predictions.folds.tolist()))]
    recordings = [[predictions.recordings[row] for row in rows] for rows in folds]
    entry = results.over_runs(task, [(predictions.labels[rows], scores[rows]) for rows in folds], recordings)
    return interval(entry, len(set(predictions.recordings))), entry["std"]
