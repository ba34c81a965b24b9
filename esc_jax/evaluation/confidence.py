"""Confidence intervals and paired tests of classifiers.

Clips of one source recording are not independent. Every interval here counts recordings, not clips.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from esc_jax.tasks.base import Task

DRAWS = 10_000
SCORE_DRAWS = 1000  # of metrics that have to be computed for each draw


@dataclasses.dataclass(frozen=True)
class ConfidenceInterval:
    """An estimate with its confidence interval.

    Attributes:
        value: estimate on the given clips.
        low, high: bounds of the interval.
        clusters: number of recordings that were resampled.
    """

    value: float
    low: float
    high: float
    clusters: int


def _sums(values: ArrayLike, clusters: ArrayLike, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(G,) weighted sums of `values` and (G,) sums of the weights, by cluster; without weights, all are 1.

    Raises ValueError for empty input and different lengths.
    """
    numbers, names = np.asarray(values, np.float64), np.asarray(clusters, dtype=str)
    if not numbers.size or numbers.shape != names.shape or numbers.ndim != 1:
        raise ValueError(f"{numbers.shape} values for {names.shape} clips")
    _, group = np.unique(names, return_inverse=True)
    weights = np.ones(len(numbers)) if weights is None else weights
    return np.bincount(group, weights=weights * numbers), np.bincount(group, weights=weights)


def _resampled(sums: np.ndarray, counts: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """(draws,) ratios Σ sums / Σ counts, over clusters drawn with replacement.

    Clusters with equal sum and count are interchangeable, and there are few different kinds. The number of clusters of
    each kind in a draw is multinomial, which is a hundred times faster to draw.
    """
    kinds, many = np.unique(np.stack([sums, counts], axis=1), axis=0, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(sums), many / len(sums), size=draws)
    return (drawn @ kinds[:, 0]) / (drawn @ kinds[:, 1])


def mean_interval(
    values: ArrayLike, recordings: ArrayLike, *, weights: np.ndarray | None = None, level: float = 0.95
) -> ConfidenceInterval:
    """Mean p of values in [0, 1] with a Wilson interval for clustered observations.

    Clips of one recording are not independent. The N clips of G recordings, n_g clips each, with the sums s_g, count as

        n = p (1 − p) / v  independent clips,   v = G / (G − 1) Σ_g (s_g − p n_g)² / N²,

    where v is the variance of p between recordings. n is at least N² / Σ_g n_g², as if the clips of a recording were
    copies of one another, and at most N. Where v is 0, it is the former. The interval is Wilson's for n clips, with the
    quantile t of Student's distribution with G − 1 degrees of freedom:

        (p + t² / 2n ± t √(p (1 − p) / n + t² / 4n²)) / (1 + t² / n)

    Unlike a bootstrap, it has a width where every value is 1. The interval of a single recording is 0 to 1.
    `benchmarks/intervals.py` measures the coverage of the true mean.

    Args:
        values: (N,) of the clips, for example 1 where the prediction is correct. With several seeds, each seed has its
            own values, under the same recordings.
        recordings: (N,) source recording of each clip.
        weights: (N,) of the clips, for a weighted mean. Sums, n_g and N are then those of the weights, and n is at most
            (Σ w)² / Σ w². None weights all clips alike.
        level: of the interval.

    Source: Wilson (1927); Korn & Graubard, "Confidence intervals for proportions with small expected number of positive
    counts estimated from survey data" (1998), for the number of independent clips.
    """
    sums, counts = _sums(values, recordings, weights)
    groups, total = len(sums), counts.sum()
    most = total if weights is None else total**2 / np.square(weights).sum()
    mean = float(sums.sum() / total)
    if groups == 1:
        return ConfidenceInterval(mean, 0.0, 1.0, 1)
    variance = groups / (groups - 1) * np.square(sums - mean * counts).sum() / total**2
    fewest = total**2 / np.square(counts).sum()
    number = float(np.clip(mean * (1 - mean) / variance, fewest, most)) if variance > 0 else fewest
    t = float(special.stdtrit(groups - 1, (1 + level) / 2))
    middle = mean + t**2 / (2 * number)
    half = t * np.sqrt(mean * (1 - mean) / number + t**2 / (4 * number**2))
    low, high = ((middle + sign * half) / (1 + t**2 / number) for sign in (-1, 1))
    return ConfidenceInterval(mean, max(float(low), 0.0), min(float(high), 1.0), groups)


def difference_interval(
    first: ArrayLike,
    second: ArrayLike,
    recordings: ArrayLike,
    *,
    draws: int = DRAWS,
    level: float = 0.95,
    seed: int = 0,
) -> ConfidenceInterval:
    """Mean of one classifier's values minus another's on the same clips, with a paired cluster-bootstrap interval.

    G recordings are drawn with replacement, `draws` times. The mean of a draw is that over all of its clips, and the
    interval is from the (1 − level)/2 to the (1 + level)/2 quantile of these means. A recording is drawn for both
    classifiers at once, so its difficulty cancels.

    Where all recordings have the same difference d, no draw has another one. The share of other recordings in the
    population is then at most b = 1 − ((1 − level)/2)^(1/G), and the interval is from d − b (d + 1) to d + b (1 − d):
    this share at −1, or at 1.

    Args:
        first, second: (N,) values in [0, 1] of the same clips in the same order.
        recordings: (N,) source recording of each clip.
        draws: number of them.
        level: of the interval.
        seed: of the random draws.

    Source: Field & Welsh, Bootstrapping clustered data (2007); Efron & Tibshirani (1993), percentile interval.
    """
    one, other = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if one.shape != other.shape:
        raise ValueError(f"{one.shape} and {other.shape} clips cannot be paired")
    sums, counts = _sums(one - other, recordings)
    value, tail = float(sums.sum() / counts.sum()), (1 - level) / 2
    if np.allclose(sums / counts, value):
        others = 1 - tail ** (1 / len(sums)) if len(sums) > 1 else 1.0
        low, high = value - others * (value + 1), value + others * (1 - value)
    else:
        low, high = np.quantile(_resampled(sums, counts, draws, seed), (tail, 1 - tail))
    return ConfidenceInterval(value, float(low), float(high), len(sums))


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided p-value of McNemar's exact test of equal accuracy.

        p = min(1, 2 P(X ≤ min(only_first, only_second))),  X ~ Binomial(only_first + only_second, ½)

    It is computed in integers up to the last division. The test assumes independent clips; `difference_interval` does
    not.

    Args:
        only_first, only_second: clips that only the first, or only the second, classifier predicts correctly.

    Source: McNemar (1947); Dietterich, Approximate statistical tests (1998).
    """
    n, fewer = only_first + only_second, min(only_first, only_second)
    if fewer < 0:
        raise ValueError("counts cannot be negative")
    term, total = 1, 1  # C(n, 0)
    for k in range(fewer):
        term = term * (n - k) // (k + 1)
        total += term
    return min(1.0, 2 * total / 2**n)


def score_interval(
    task: Task,
    runs: Sequence[tuple[np.ndarray, np.ndarray]],
    recordings: Sequence[Sequence[Any]],
    *,
    draws: int = SCORE_DRAWS,
) -> ConfidenceInterval:
    """Mean over runs of a metric that is no mean over clips, with its 95 % cluster-bootstrap interval.

    G recordings are drawn with replacement, `draws` times; in each draw, the metric of each run is computed on the
    drawn recordings. Metrics of rankings are larger on drawn clips, of which some are equal, than on different ones.
    The quantiles of the draws are therefore shifted by the difference between the estimate and the mean of the draws.

    Args:
        task: whose primary metric is computed.
        runs: of each run (a fold, with a seed), labels (n, …) and scores (n, classes).
        recordings: of each run, (n,) source recordings of its clips. A recording in several runs is drawn in all of
            them.
        draws: number of them.
    """
    values = _score_draws(task, runs, recordings, draws)
    value = float(np.mean([task.score(labels, scores) for labels, scores in runs]))
    if len(_names(recordings)) == 1:
        return ConfidenceInterval(value, 0.0, 1.0, 1)
    low, high = _shifted_quantiles(values, value)
    return ConfidenceInterval(value, max(low, 0.0), min(high, 1.0), len(_names(recordings)))


def score_difference_interval(
    task: Task,
    first: Sequence[tuple[np.ndarray, np.ndarray]],
    second: Sequence[tuple[np.ndarray, np.ndarray]],
    recordings: Sequence[Sequence[Any]],
    *,
    draws: int = SCORE_DRAWS,
) -> ConfidenceInterval:
    """One classifier's score minus another's on the same clips, with a paired interval; arguments as `score_interval`.

    A recording is drawn for both classifiers at once.
    """
    one, other = (_score_draws(task, runs, recordings, draws) for runs in (first, second))
    means = [np.mean([task.score(labels, scores) for labels, scores in runs]) for runs in (first, second)]
    value = float(means[0] - means[1])
    low, high = _shifted_quantiles(one - other, value)
    return ConfidenceInterval(value, max(low, -1.0), min(high, 1.0), len(_names(recordings)))


def _shifted_quantiles(draws: np.ndarray, estimate: float) -> tuple[float, float]:
    """The 2.5 % and 97.5 % quantiles of the draws, moved so that the mean of the draws is the estimate."""
    low, high = np.nanquantile(draws, (0.025, 0.975)) - np.nanmean(draws) + estimate
    return float(low), float(high)


def _names(recordings: Sequence[Sequence[Any]]) -> np.ndarray:
    return np.unique(np.concatenate([np.asarray(of_run, dtype=str) for of_run in recordings]))


def _score_draws(
    task: Task,
    runs: Sequence[tuple[np.ndarray, np.ndarray]],
    recordings: Sequence[Sequence[Any]],
    draws: int,
) -> np.ndarray:
    """(draws,) means over runs of the task's metric on drawn recordings."""
    names = _names(recordings)
    counts = np.random.default_rng(0).multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    scores = []
    for (labels, of_run), clusters in zip(runs, recordings, strict=True):
        place = np.searchsorted(names, np.asarray(clusters, dtype=str))
        scores.append(task.weighted_scores(labels, of_run, counts[:, place].astype(np.float64)))
    return np.mean(scores, axis=0)
