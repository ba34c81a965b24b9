"""Calibration of the predictions of a run."""

import dataclasses

import numpy as np

from esc_jax.evaluation.calibration import BINS, Reliability, reliability
from esc_jax.report.predictions import Predictions
from esc_jax.report.runs import Run

NOTE = (
    "ECE: expected calibration error, the mean distance between predicted probability and observed frequency over"
    f" {BINS} bins of equal width, weighted by the number of predictions: one for each clip, or one for each class of"
    " each clip in multi-label runs. NLL: mean negative log-likelihood of the labels of a clip, in nats. The"
    " temperature of a fold is fitted without its clips."
)


@dataclasses.dataclass(frozen=True)
class RunCalibration:
    """Calibration of a run before and after temperature scaling.

    Attributes:
        run: with predictions.
        before, after: reliability diagrams; `after` is None where the run has no temperature.
        nll_before, nll_after: mean negative log-likelihood of the labels, nats.
    """

    run: Run
    before: Reliability
    after: Reliability | None
    nll_before: float
    nll_after: float | None


def run_calibration(run: Run, predictions: Predictions) -> RunCalibration:
    """The calibration of a run, with the temperatures that it fitted without its test clips.

    Args:
        run: with predictions.
        predictions: of the run.
    """
    task, labels = run.task, predictions.labels
    logits = task.logits(predictions.scores)
    before = reliability(*task.calibration_pairs(labels, predictions.scores))
    nll_before = task.nll(logits, labels)
    folds = predictions.folds.tolist()
    if not run.temperatures or not set(folds) <= set(run.temperatures):
        return RunCalibration(run, before, None, nll_before, None)
    scaled = logits / np.array([run.temperatures[fold] for fold in folds])[:, None]
    after = reliability(*task.calibration_pairs(labels, task.probabilities(scaled)))
    return RunCalibration(run, before, after, nll_before, task.nll(scaled, labels))
