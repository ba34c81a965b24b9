"""Metrics of rankings, and thresholds: of (n, classes) labels and scores. Ties are treated as in scikit-learn.

`labels` are bool: row i, column c says whether clip i has class c. `scores` are larger where a class is more likely.
"""

import numpy as np

# Size of a block of weights of `weighted_average_precision`, bytes. Three of them are in memory at once.
_BLOCK_BYTES = 24 << 20


def _tie_bounds(ranked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and last position (n, k) of the run of equal values that each value of (n, k) sorted columns is in."""
    count = len(ranked)
    position = np.arange(count)[:, None]
    changes = ranked[1:] != ranked[:-1]
    edge = np.ones((1, ranked.shape[1]), bool)
    first = np.maximum.accumulate(np.where(np.concatenate([edge, changes]), position, 0), axis=0)
    last = np.where(np.concatenate([changes, edge]), position, count - 1)
    return first, np.minimum.accumulate(last[::-1], axis=0)[::-1]


def _ranked(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels and scores with every column in the order of its scores, the largest first."""
    order = np.argsort(-np.asarray(scores), axis=0, kind="stable")
    return np.take_along_axis(np.asarray(labels, bool), order, 0), np.take_along_axis(np.asarray(scores), order, 0)


def _mean_precision(positive: np.ndarray, ranked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(k,) sums over positives of the precision at their score, and (k,) numbers of positives, of ranked columns."""
    _, last = _tie_bounds(ranked)
    precision = np.take_along_axis(positive.cumsum(axis=0), last, 0) / (last + 1)
    return (precision * positive).sum(axis=0), positive.sum(axis=0)


def average_precision(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(classes,) Σ_k (R_k − R_{k−1}) P_k over the distinct scores of a class; NaN without positives.

    R and P are recall and precision where every clip with at least the k-th largest score counts as positive. As
    `sklearn.metrics.average_precision_score`: without interpolation.
    """
    sums, counts = _mean_precision(*_ranked(labels, scores))
    return np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)


def lwlrap(labels: np.ndarray, scores: np.ndarray) -> float:
    """Label-weighted label-ranking average precision; NaN without positives.

    Mean over all pairs of a clip and one of its classes of the precision, among the classes of the clip ranked by
    score, at that class. Source: DCASE 2019, task 2 (E. Fonseca et al., "Audio tagging with noisy labels and minimal
    supervision").
    """
    sums, counts = _mean_precision(*_ranked(np.asarray(labels).T, np.asarray(scores).T))
    return float(sums.sum() / counts.sum()) if counts.sum() else float("nan")


def roc_auc(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(classes,) area under the ROC curve; NaN for classes without positives or without negatives.

    The share of pairs of a positive and a negative in which the positive has the larger score; equal scores count ½.
    """
    positive, ranked = _ranked(labels, scores)
    first, last = _tie_bounds(ranked)
    above = np.pad((~positive).cumsum(axis=0), ((1, 0), (0, 0)))  # negatives before each position
    negatives, positives = above[-1], positive.sum(axis=0)
    behind = (np.take_along_axis(above, first, 0) + np.take_along_axis(above, last + 1, 0)) / 2
    wins = ((negatives[None] - behind) * positive).sum(axis=0)
    pairs = positives * negatives
    return np.divide(wins, pairs, out=np.full(len(wins), np.nan), where=pairs > 0)


def weighted_average_precision(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(draws, classes) average precision where clip i counts weights[d, i] times; NaN without positives.

    Args:
        labels: (n, classes).
        scores: (n, classes).
        weights: (draws, n), 0 or more.
    """
    draws, count = weights.shape
    rows = max(1, _BLOCK_BYTES // (8 * max(count, 1)))
    result = np.full((draws, labels.shape[1]), np.nan)
    for start in range(0, draws, rows):
        block = np.ascontiguousarray(weights[start : start + rows].T, np.float64)
        for index in np.flatnonzero(np.any(labels, axis=0)):
            result[start : start + rows, index] = _weighted(labels[:, index], scores[:, index], block)
    return result


def _weighted(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(draws,) average precision of one class with positives; `weights` are (n, draws)."""
    order = np.argsort(-scores, kind="stable")
    positive = np.asarray(labels, bool)[order]
    run = np.concatenate([[0], np.cumsum(np.diff(scores[order]) != 0)])  # number of the run of equal scores
    of_positives = run[positive]
    ends = np.searchsorted(run, np.unique(of_positives), side="right")  # runs without positives change no precision
    starts = np.concatenate([[0], ends[:-1]])
    counts = np.cumsum(np.add.reduceat(weights[order[: ends[-1]]], starts, axis=0), axis=0)
    first = np.flatnonzero(np.diff(of_positives, prepend=-1))
    hits = np.add.reduceat(weights[order[positive]], first, axis=0)
    true_positives = np.cumsum(hits, axis=0)
    precision = np.divide(true_positives, counts, out=np.zeros_like(true_positives), where=counts > 0)
    total = true_positives[-1]
    return np.divide((hits * precision).sum(axis=0), total, out=np.full(len(total), np.nan), where=total > 0)


def best_f1_thresholds(labels: np.ndarray, probabilities: np.ndarray, default: float) -> np.ndarray:
    """(classes,) thresholds t for which "probability ≥ t" has the largest F1 = 2 TP / (2 TP + FP + FN).

    A threshold is half way between the smallest probability that it includes and the next smaller one, or the smallest
    probability of all. Of equal F1, the largest threshold.

    Args:
        labels: (n, classes).
        probabilities: (n, classes).
        default: threshold of classes without positives.
    """
    labels, probabilities = np.asarray(labels, bool), np.asarray(probabilities, np.float64)
    thresholds = np.full(labels.shape[1], default)
    for index in np.flatnonzero(labels.any(axis=0)):
        order = np.argsort(-probabilities[:, index], kind="stable")
        ranked, hits = probabilities[order, index], labels[order, index].cumsum()
        ends = np.flatnonzero(np.append(np.diff(ranked) != 0, True))
        best = ends[(2 * hits[ends] / (ends + 1 + hits[-1])).argmax()]
        upper, lower = ranked[best], ranked[min(best + 1, len(ranked) - 1)]
        middle = (upper + lower) / 2
        thresholds[index] = middle if lower < middle else upper  # two neighbouring numbers have no middle
    return thresholds
