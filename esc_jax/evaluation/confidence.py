"""Confidence intervals and paired tests of classifiers.

Clips of one source recording are not independent. Every bootstrap here resamples recordings, not clips.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

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


def _sums(values: ArrayLike, clusters: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """(G,) sums of `values` and (G,) counts, by cluster. Raises ValueError for empty input and different lengths."""
    numbers, names = np.asarray(values, np.float64), np.asarray(clusters, dtype=str)
    if not numbers.size or numbers.shape != names.shape or numbers.ndim != 1:
        raise ValueError(f"{numbers.shape} values for {names.shape} clips")
    _, group = np.unique(names, return_inverse=True)
    return np.bincount(group, weights=numbers), np.bincount(group).astype(np.float64)


def _resampled(sums: np.ndarray, counts: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """(draws,) ratios Σ sums / Σ counts, over clusters drawn with replacement.

    Clusters with equal sum and count are interchangeable, and there are few different kinds. The number of clusters of
    each kind in a draw is multinomial, which is a hundred times faster to draw.
    """
    kinds, many = np.unique(np.stack([sums, counts], axis=1), axis=0, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(sums), many / len(sums), size=draws)
    return (drawn @ kinds[:, 0]) / (drawn @ kinds[:, 1])


def mean_interval(
    values: ArrayLike,
    recordings: ArrayLike,
    *,
    draws: int = DRAWS,
    level: float = 0.95,
    seed: int = 0,
) -> ConfidenceInterval:
    """Mean of values in [0, 1] with its cluster-bootstrap percentile interval.

    G recordings are drawn with replacement, `draws` times. The mean of a draw is that over all of its clips. The
    interval is from the (1 − level)/2 to the (1 + level)/2 quantile of these means.

    Where every value is 1, the percentile interval has no width. It is replaced by the exact binomial interval over
    recordings (Clopper & Pearson 1934), low = ((1 − level)/2)^(1/G), and where every value is 0 by its mirror image.
    The interval of a single recording is 0 to 1.

    Args:
        values: (N,) of the clips, for example 1 where the prediction is correct. With several seeds, each seed has its
            own values, under the same recordings.
        recordings: (N,) source recording of each clip.
        draws: number of them.
        level: of the interval.
        seed: of the random draws.

    Source: Field & Welsh, Bootstrapping clustered data (2007); Efron & Tibshirani (1993), percentile interval.
    """
    sums, counts = _sums(values, recordings)
    value, tail = float(sums.sum() / counts.sum()), (1 - level) / 2
    if len(sums) == 1:
        low, high = 0.0, 1.0
    elif value == 1.0:
        low, high = tail ** (1 / len(sums)), 1.0
    elif value == 0.0:
        low, high = 0.0, 1 - tail ** (1 / len(sums))
    else:
        low, high = np.quantile(_resampled(sums, counts, draws, seed), (tail, 1 - tail))
    return ConfidenceInterval(value, float(low), float(high), len(sums))


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

    As `mean_interval`, for the differences of each clip. A recording is drawn for both classifiers at once, so its
    difficulty cancels. Where all recordings have the same difference d, no draw has another one. The share of other
    recordings in the population is then at most b = 1 − ((1 − level)/2)^(1/G), and the interval is from d − b (d + 1)
    to d + b (1 − d): this share at −1, or at 1.

    Args:
        first, second: (N,) values in [0, 1] of the same clips in the same order.
        recordings: (N,) source recording of each clip.
        draws, level, seed: as in `mean_interval`.
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
    level: float = 0.95,
    seed: int = 0,
) -> ConfidenceInterval:
    """Mean over runs of a metric that is no mean over clips, with its cluster-bootstrap interval.

    As `mean_interval`; in each draw, the metric of each run is computed on the drawn recordings. The distribution of
    the draws is shifted so that its mean is the metric on all recordings. Without the shift, it is too high for metrics
    of rankings: a draw has copies of its positives and leaves out a third of the negatives. With one positive of each
    class, the percentile interval does not even contain the metric.

    Args:
        task: whose primary metric is computed.
        runs: of each run (a fold, with a seed), labels (n, …) and scores (n, classes).
        recordings: of each run, (n,) source recordings of its clips. A recording in several runs is drawn in all of
            them.
        draws, level, seed: as in `mean_interval`.
    """
    values = _score_draws(task, runs, recordings, draws, seed)
    value = float(np.mean([task.score(labels, scores) for labels, scores in runs]))
    low, high = np.clip(_shifted_quantiles(values, value, level), 0.0, 1.0)
    return ConfidenceInterval(value, float(low), float(high), len(_names(recordings)))


def score_difference_interval(
    task: Task,
    first: Sequence[tuple[np.ndarray, np.ndarray]],
    second: Sequence[tuple[np.ndarray, np.ndarray]],
    recordings: Sequence[Sequence[Any]],
    *,
    draws: int = SCORE_DRAWS,
    level: float = 0.95,
    seed: int = 0,
) -> ConfidenceInterval:
    """One classifier's score minus another's on the same clips, with a paired interval; arguments as `score_interval`.

    A recording is drawn for both classifiers at once.
    """
    one, other = (_score_draws(task, runs, recordings, draws, seed) for runs in (first, second))
    means = [np.mean([task.score(labels, scores) for labels, scores in runs]) for runs in (first, second)]
    value = float(means[0] - means[1])
    low, high = np.clip(_shifted_quantiles(one - other, value, level), -1.0, 1.0)
    return ConfidenceInterval(value, float(low), float(high), len(_names(recordings)))


def _shifted_quantiles(values: np.ndarray, mean: float, level: float) -> np.ndarray:
    """Lower and upper quantile of draws that are shifted to a mean; undefined draws do not count."""
    return np.nanquantile(values, ((1 - level) / 2, (1 + level) / 2)) + (mean - np.nanmean(values))


def _names(recordings: Sequence[Sequence[Any]]) -> np.ndarray:
    return np.unique(np.concatenate([np.asarray(of_run, dtype=str) for of_run in recordings]))


def _score_draws(
    task: Task,
    runs: Sequence[tuple[np.ndarray, np.ndarray]],
    recordings: Sequence[Sequence[Any]],
    draws: int,
    seed: int,
) -> np.ndarray:
    """(draws,) means over runs of the task's metric on drawn recordings."""
    names = _names(recordings)
    counts = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    scores = []
    for (labels, of_run), clusters in zip(runs, recordings, strict=True):
        place = np.searchsorted(names, np.asarray(clusters, dtype=str))
        scores.append(task.weighted_scores(labels, of_run, counts[:, place].astype(np.float64)))
    return np.mean(scores, axis=0)
