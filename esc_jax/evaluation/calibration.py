"""Calibration: temperature, thresholds and reliability."""

from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from esc_jax.tasks.base import Task

BINS = 15


@dataclasses.dataclass(frozen=True)
class Calibration:
    """How logits become probabilities and decisions.

    Attributes:
        temperature: divisor of the logits; None where no clips were held out to fit it on.
        fitted_on: description of these clips.
        thresholds: (classes,) probabilities, after the temperature, from which a class counts as present; None for
            tasks that decide without.
    """

    temperature: float | None = None
    fitted_on: str = ""
    thresholds: tuple[float, ...] | None = None

    @classmethod
    def held_out(cls, task: Task, logits: np.ndarray, labels: np.ndarray, fitted_on: str) -> "Calibration":
        """From (n, classes) logits of clips that neither train nor test the model."""
        temperature = fit_temperature(task, logits, labels)
        return cls(temperature, fitted_on, _thresholds(task, logits, labels, temperature))

    @classmethod
    def trained(cls, task: Task, logits: np.ndarray, labels: np.ndarray, fitted_on: str) -> "Calibration":
        """From logits of training clips, which cannot be used to fit a temperature."""
        return cls(None, fitted_on, _thresholds(task, logits, labels, 1.0))

    @classmethod
    def read(cls, meta: Mapping[str, Any]) -> "Calibration":
        """The calibration in a checkpoint's `meta`; without one, a calibration that changes nothing."""
        names = {field.name for field in dataclasses.fields(cls)}
        values = {key: value for key, value in meta.get("calibration", {}).items() if key in names}
        if values.get("thresholds") is not None:
            values["thresholds"] = tuple(values["thresholds"])
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)

    def probabilities(self, task: Task, logits: np.ndarray) -> np.ndarray:
        """(n, classes) float32 probabilities of logits / temperature."""
        return task.probabilities(logits, self.temperature or 1.0).astype(np.float32)

    def raw_thresholds(self, task: Task) -> np.ndarray | None:
        """(classes,) `thresholds` as they apply to probabilities without the temperature; None without thresholds."""
        if self.thresholds is None:
            return None
        return task.probabilities(task.logits(np.array(self.thresholds)) * (self.temperature or 1.0))


def _thresholds(task: Task, logits: np.ndarray, labels: np.ndarray, temperature: float) -> tuple[float, ...] | None:
    thresholds = task.thresholds(labels, task.probabilities(logits, temperature))
    return None if thresholds is None else tuple(thresholds.tolist())


def cross_fitted(
    task: Task, predictions: Mapping[int, tuple[np.ndarray, np.ndarray]], fitted_on: str
) -> dict[int, Calibration]:
    """Calibration of each test fold, from the test predictions of the other folds.

    Args:
        task: of the labels.
        predictions: test fold → logits and labels of its clips, of a model that was trained without them.
        fitted_on: description of the clips.

    Returns:
        Test fold → calibration; empty with fewer than two folds.
    """
    if len(predictions) < 2:
        return {}
    calibrations = {}
    for fold in predictions:
        others = [pair for other, pair in predictions.items() if other != fold]
        logits, labels = (np.concatenate(parts) for parts in zip(*others, strict=True))
        calibrations[fold] = Calibration.held_out(task, logits, labels, fitted_on)
    return calibrations


def for_results(calibrations: Mapping[int, Calibration]) -> dict[str, Any]:
    """The entry `calibration` of results.json for {test fold: calibration}; empty where a temperature is missing."""
    if not calibrations or not all(one.temperature for one in calibrations.values()):
        return {}
    first = next(iter(calibrations.values()))
    by_fold = {str(fold): one.temperature for fold, one in calibrations.items()}
    temperature = by_fold if len(calibrations) > 1 else first.temperature
    return {"calibration": {"temperature": temperature, "fitted_on": first.fitted_on}}


@dataclasses.dataclass(frozen=True)
class Reliability:
    """A reliability diagram: (bins,) arrays, NaN for empty bins.

    Attributes:
        edges: (bins + 1,) of the confidence.
        count: predictions in each bin.
        confidence: mean probability of them.
        frequency: share of them that are correct.
    """

    edges: np.ndarray
    count: np.ndarray
    confidence: np.ndarray
    frequency: np.ndarray

    @property
    def ece(self) -> float:
        """Expected calibration error: Σ_b (n_b / N) |frequency_b − confidence_b|, over bins of equal width.

        Source: Naeini et al. (2015); Guo et al., On calibration of modern neural networks (2017), 15 bins.
        """
        gap = np.abs(self.frequency - self.confidence)
        return float(np.nansum(gap * self.count) / self.count.sum())


def reliability(confidence: ArrayLike, correct: ArrayLike, bins: int = BINS) -> Reliability:
    """Predictions in bins ((b − 1)/bins, b/bins] of their probability.

    Args:
        confidence: (N,) probabilities in [0, 1]. Zero belongs to the first bin.
        correct: (N,) whether the predicted event happened.
        bins: number of bins.
    """
    values, hits = np.asarray(confidence, np.float64), np.asarray(correct, np.float64)
    if not values.size or values.shape != hits.shape:
        raise ValueError(f"{values.shape} confidences for {hits.shape} clips")
    edges = np.linspace(0.0, 1.0, bins + 1)
    place = np.clip(np.searchsorted(edges, values, side="left") - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):  # 0 / 0 in an empty bin
        return Reliability(
            edges,
            count,
            np.bincount(place, weights=values, minlength=bins) / count,
            np.bincount(place, weights=hits, minlength=bins) / count,
        )


def fit_temperature(task: Task, logits: np.ndarray, labels: Sequence[int] | np.ndarray) -> float:
    """The temperature T in [0.01, 100] with the smallest negative log-likelihood on held-out clips.

    The negative log-likelihood is convex in 1/T, so a bounded scalar search over log T finds its minimum. Fit on clips
    that neither train nor test the model. Where every label has the largest logit, the minimum is at T = 0; a T at
    which the negative log-likelihood has vanished is returned.

    Args:
        task: of the labels.
        logits: (N, classes).
        labels: (N, …).

    Source: Guo et al. (2017), section 4.2.
    """
    from scipy import optimize  # half a second, which only this function needs

    logits = np.asarray(logits, np.float64)
    if not logits.size or len(logits) != len(labels):
        raise ValueError(f"{logits.shape} logits for {len(labels)} labels")
    bounds = (math.log(0.01), math.log(100.0))
    result = optimize.minimize_scalar(
        lambda log_t: task.nll(logits, labels, math.exp(log_t)),
        bounds=bounds,
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(math.exp(result.x))
