"""Confidence intervals and paired tests of classifiers. numpy only.

Clips cut from one source recording are not independent. Every bootstrap here resamples recordings."""

from collections.abc import Hashable, Sequence
import dataclasses

import numpy as np

DRAWS = 10_000


@dataclasses.dataclass(frozen=True)
class ConfidenceInterval:
    """A share, or a difference of shares, and its percentile interval.

    Attributes:
        value: of the clips at hand.
        low, high: of the interval.
        clusters: recordings that were resampled.
    """

    value: float
    low: float
    high: float
    clusters: int


def _sums(values: np.ndarray, clusters: Sequence[Hashable]) -> tuple[np.ndarray, np.ndarray]:
    """(G,) sums of `values` and (G,) counts, by cluster. ValueError where there is nothing or lengths differ."""
    values = np.asarray(values, np.float64)
    if not values.size or values.shape != (len(clusters),):
        raise ValueError(f"{values.shape} values for {len(clusters)} clips")
    _, group = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    return np.bincount(group, weights=values), np.bincount(group).astype(np.float64)


def _resampled(sums: np.ndarray, counts: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """(draws,) ratios Σ sums / Σ counts, over clusters drawn with replacement.

    Clusters with the same sum and count are interchangeable, and there are few kinds of them (one clip, right; two
    clips, one right; …): how many of each kind a draw holds is multinomial, at a hundredth of the cost.
    """
    kinds, many = np.unique(np.stack([sums, counts], axis=1), axis=0, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(sums), many / len(sums), size=draws)
    return (drawn @ kinds[:, 0]) / (drawn @ kinds[:, 1])


def accuracy_interval(
    correct: Sequence[bool],
    recordings: Sequence[Hashable],
    *,
    draws: int = DRAWS,
    level: float = 0.95,
    seed: int = 0,
) -> ConfidenceInterval:
    """Accuracy with its cluster-bootstrap percentile interval.

    G recordings are drawn with replacement, `draws` times; each draw's accuracy is its right clips over all its clips.
    The interval goes from the (1 − level)/2 to the (1 + level)/2 quantile of these accuracies.

    Where every clip is right, no draw is ever wrong and the percentile interval has no width. It is then replaced by
    the exact binomial one over recordings (Clopper & Pearson 1934), low = ((1 − level)/2)^(1/G); where every clip is
    wrong, by its mirror image. A single recording says nothing about others: its interval is 0 to 1.

    Args:
        correct: (N,) whether each clip is right. Several seeds: a row for each, under the clip's recording.
        recordings: (N,) what each clip was cut from.
        draws: number of them.
        level: of the interval.
        seed: of the draws.

    Source: Field & Welsh, Bootstrapping clustered data (2007); Efron & Tibshirani (1993), percentile interval.
    """
    sums, counts = _sums(correct, recordings)
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
    first: Sequence[float],
    second: Sequence[float],
    recordings: Sequence[Hashable],
    *,
    draws: int = DRAWS,
    level: float = 0.95,
    seed: int = 0,
) -> ConfidenceInterval:
    """Accuracy of one classifier minus that of another on the same clips, with a paired cluster-bootstrap interval.

    As `accuracy_interval`, of the differences clip by clip: a recording is drawn for both classifiers at once, so that
    what makes it hard for both cancels. Where all recordings have the same difference d, as where two are right on the
    same clips, no draw has another; the share of all recordings that have another is then at most
    b = 1 − ((1 − level)/2)^(1/G), and the interval goes from d − b (d + 1) to d + b (1 − d): that share at −1, or at 1.

    Args:
        first, second: (N,) right or wrong, or shares of seeds that are right, of the same clips in the same order.
        recordings: (N,) what each clip was cut from.
        draws, level, seed: as there.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.shape != second.shape:
        raise ValueError(f"{first.shape} and {second.shape} clips cannot be paired")
    sums, counts = _sums(first - second, recordings)
    value, tail = float(sums.sum() / counts.sum()), (1 - level) / 2
    if np.allclose(sums / counts, value):
        others = 1 - tail ** (1 / len(sums)) if len(sums) > 1 else 1.0
        low, high = value - others * (value + 1), value + others * (1 - value)
    else:
        low, high = np.quantile(_resampled(sums, counts, draws, seed), (tail, 1 - tail))
    return ConfidenceInterval(value, float(low), float(high), len(sums))


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided p of McNemar's exact test: are two classifiers right equally often?

    Of the n = only_first + only_second clips on which just one of the two is right, each is as likely the first's as
    the second's under the null hypothesis: p = min(1, 2 P(X ≤ min(only_first, only_second))), X ~ Binomial(n, ½).
    Exact in whole numbers until the last division. Clips count as independent here; `difference_interval` does not
    need that.

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
