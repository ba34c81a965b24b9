"""Metrics of rankings against scikit-learn, and thresholds against a search over all of them."""

import warnings

import hypothesis
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import numpy as np
import pytest
from sklearn import metrics

from esc_jax.tasks import ranking

CLIPS, CLASSES = 12, 4
# Few different scores: most of them are tied.
tied_scores = hnp.arrays(np.float64, (CLIPS, CLASSES), elements=st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0]))
scores_arrays = st.one_of(tied_scores, hnp.arrays(np.float64, (CLIPS, CLASSES), elements=st.floats(0, 1)))
label_arrays = hnp.arrays(bool, (CLIPS, CLASSES), elements=st.booleans())
# Scores that are equal for scikit-learn are equal here too: it does not tell differences of 1e-10 apart.
separated = scores_arrays.map(lambda scores: np.round(scores, 6))


@hypothesis.given(label_arrays, separated)
def test_average_precision_equals_scikit_learn(labels, scores):
    values = ranking.average_precision(labels, scores)
    for index, value in enumerate(values):
        if labels[:, index].any():
            expected = metrics.average_precision_score(labels[:, index], scores[:, index])
            assert value == pytest.approx(expected, rel=1e-12)
        else:
            assert np.isnan(value)


@hypothesis.given(label_arrays, separated)
def test_roc_auc_equals_scikit_learn(labels, scores):
    values = ranking.roc_auc(labels, scores)
    for index, value in enumerate(values):
        if 0 < labels[:, index].sum() < CLIPS:
            assert value == pytest.approx(metrics.roc_auc_score(labels[:, index], scores[:, index]), rel=1e-12)
        else:
            assert np.isnan(value)


@hypothesis.given(label_arrays, separated)
def test_lwlrap_equals_scikit_learn(labels, scores):
    """As DCASE computes it: scikit-learn's metric of the clips with a class, weighted by their number of classes."""
    rows = labels.any(axis=1)
    if not rows.any():
        assert np.isnan(ranking.lwlrap(labels, scores))
        return
    expected = metrics.label_ranking_average_precision_score(
        labels[rows], scores[rows], sample_weight=labels[rows].sum(axis=1)
    )
    assert ranking.lwlrap(labels, scores) == pytest.approx(expected, rel=1e-12)


@hypothesis.given(label_arrays, separated, hnp.arrays(np.int64, (3, CLIPS), elements=st.integers(0, 3)))
def test_weights_are_repetitions_of_clips(labels, scores, counts):
    values = ranking.weighted_average_precision(labels, scores, counts.astype(np.float64))
    for row, repeats in zip(values, counts, strict=True):
        again = ranking.average_precision(np.repeat(labels, repeats, axis=0), np.repeat(scores, repeats, axis=0))
        np.testing.assert_allclose(row, again, rtol=1e-12)


@hypothesis.given(label_arrays, separated, hnp.arrays(np.float64, CLIPS, elements=st.floats(0.125, 8)))
def test_fractional_weights_equal_scikit_learn(labels, scores, weights):
    (values,) = ranking.weighted_average_precision(labels, scores, weights[None])
    for index in np.flatnonzero(labels.any(axis=0)):
        expected = metrics.average_precision_score(labels[:, index], scores[:, index], sample_weight=weights)
        assert values[index] == pytest.approx(expected, rel=1e-9)


def test_draws_are_computed_in_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    labels, scores = rng.random((30, 5)) < 0.3, rng.random((30, 5))
    weights = rng.integers(0, 3, (17, 30)).astype(np.float64)
    whole = ranking.weighted_average_precision(labels, scores, weights)
    monkeypatch.setattr(ranking, "_BLOCK_BYTES", 8 * 30 * 4)  # four draws at a time
    np.testing.assert_allclose(ranking.weighted_average_precision(labels, scores, weights), whole, rtol=1e-12)


@hypothesis.given(label_arrays, scores_arrays)
def test_thresholds_have_the_best_f1(labels, scores):
    thresholds = ranking.best_f1_thresholds(labels, scores, 0.5)
    for index, threshold in enumerate(thresholds):
        truth, values = labels[:, index], scores[:, index]
        if not truth.any():
            assert threshold == 0.5
            continue
        best = max(metrics.f1_score(truth, values >= candidate) for candidate in values)
        assert metrics.f1_score(truth, values >= threshold) == pytest.approx(best, rel=1e-12)
        larger = np.unique(values[values >= threshold])[1:]  # of equal F1, the largest threshold
        assert all(metrics.f1_score(truth, values >= candidate) < best for candidate in larger)


def test_a_threshold_is_half_way_between_probabilities():
    labels = np.array([[1, 1], [1, 0], [0, 1], [0, 0]], bool)
    scores = np.array([[0.9, 0.9], [0.7, 0.7], [0.3, 0.5], [0.1, 0.1]])
    np.testing.assert_allclose(ranking.best_f1_thresholds(labels, scores, 0.5), [0.5, 0.3])
    # The smallest probability where every clip is included; a number that is between no others stays what it is.
    close = np.array([[np.nextafter(0.5, 1)], [0.5]])
    assert ranking.best_f1_thresholds(np.array([[1], [0]], bool), close, 0.5) == np.nextafter(0.5, 1)
    assert ranking.best_f1_thresholds(np.array([[0], [1]], bool), np.array([[0.8], [0.2]]), 0.5) == 0.2


def test_a_ranking_without_clips_is_not_defined():
    empty = np.zeros((0, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(ranking.average_precision(empty.astype(bool), empty)).all()
        assert np.isnan(ranking.roc_auc(empty.astype(bool), empty)).all()
