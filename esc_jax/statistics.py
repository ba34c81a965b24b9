"""What a number of a run is worth: intervals, paired tests and calibration. numpy and scipy, no device.

A clip is right or wrong; clips cut from one source recording are right or wrong together more often than not, so that
the unit that is drawn again in every bootstrap here is the recording.
"""

from collections.abc import Hashable, Sequence
import dataclasses
import math

import numpy as np

DRAWS = 10_000
BINS = 15


@dataclasses.dataclass(frozen=True)
class Interval:
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
) -> Interval:
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
    return Interval(value, float(low), float(high), len(sums))


def difference_interval(
    first: Sequence[float],
    second: Sequence[float],
    recordings: Sequence[Hashable],
    *,
    draws: int = DRAWS,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
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
    return Interval(value, float(low), float(high), len(sums))


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


@dataclasses.dataclass(frozen=True)
class Reliability:
    """A reliability diagram: (bins,) arrays; NaN where a bin is empty.

    Attributes:
        edges: (bins + 1,) of the confidence.
        count: clips in each bin.
        confidence: their mean confidence.
        accuracy: the share of them that is right.
    """

    edges: np.ndarray
    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def ece(self) -> float:
        """Expected calibration error: Σ_b (n_b / N) |accuracy_b − confidence_b|, over bins of equal width.

        Source: Naeini et al. (2015); Guo et al., On calibration of modern neural networks (2017), 15 bins.
        """
        gap = np.abs(self.accuracy - self.confidence)
        return float(np.nansum(gap * self.count) / self.count.sum())


def reliability(confidence: Sequence[float], correct: Sequence[bool], bins: int = BINS) -> Reliability:
    """Sorts clips into bins of equal width ((b − 1)/bins, b/bins] by the probability of the predicted class.

    Args:
        confidence: (N,) in [0, 1]; 0 itself falls into the first bin.
        correct: (N,) whether the prediction is right.
        bins: number of them.
    """
    confidence, correct = np.asarray(confidence, np.float64), np.asarray(correct, np.float64)
    if not confidence.size or confidence.shape != correct.shape:
        raise ValueError(f"{confidence.shape} confidences for {correct.shape} clips")
    edges = np.linspace(0.0, 1.0, bins + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):  # 0 / 0: an empty bin has neither
        return Reliability(
            edges,
            count,
            np.bincount(place, weights=confidence, minlength=bins) / count,
            np.bincount(place, weights=correct, minlength=bins) / count,
        )


def log_probabilities(probabilities: np.ndarray) -> np.ndarray:
    """ln p, of any shape, with p no smaller than float32 can hold: logits, up to a constant in each row."""
    return np.log(np.maximum(np.asarray(probabilities, np.float64), np.finfo(np.float32).tiny))


def tempered(logits: np.ndarray, temperature: float) -> np.ndarray:
    """(N, classes) probabilities softmax(logits / temperature). The ranking in each row stays as it is."""
    scaled = np.asarray(logits, np.float64) / temperature
    scaled = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return scaled / scaled.sum(axis=-1, keepdims=True)


def log_sum_exp(logits: np.ndarray) -> np.ndarray:
    """(…, classes) → (…): ln Σᶜ exp(logitᶜ), in double precision and without overflow."""
    logits = np.asarray(logits, np.float64)
    top = logits.max(axis=-1, keepdims=True)
    return top[..., 0] + np.log(np.exp(logits - top).sum(axis=-1))


def nll(logits: np.ndarray, labels: Sequence[int], temperature: float = 1.0) -> float:
    """Mean −ln softmax(logits / temperature)[label], in nats."""
    scaled = np.asarray(logits, np.float64) / temperature
    return float((log_sum_exp(scaled) - scaled[np.arange(len(scaled)), np.asarray(labels)]).mean())


def fit_temperature(logits: np.ndarray, labels: Sequence[int]) -> float:
    """The temperature T in [0.01, 100] with the smallest `nll` on held-out clips.

    The NLL is convex in 1/T, so that it has one minimum over log T, which is where a bounded scalar search looks.
    Fit it on clips that neither trained the model nor test it. Where every label has the largest logit the NLL falls
    towards T = 0, and a T at which it has vanished is returned.

    Args:
        logits: (N, classes); `log_probabilities` of a softmax serve as well.
        labels: (N,) class indices.

    Source: Guo et al. (2017), section 4.2.
    """
    from scipy import optimize  # half a second, which only this function needs

    logits = np.asarray(logits, np.float64)
    if not logits.size or len(logits) != len(labels):
        raise ValueError(f"{logits.shape} logits for {len(labels)} labels")
    bounds = (math.log(0.01), math.log(100.0))
    found = optimize.minimize_scalar(
        lambda log_t: nll(logits, labels, math.exp(log_t)), bounds=bounds, method="bounded", options={"xatol": 1e-6}
    )
    return float(math.exp(found.x))
