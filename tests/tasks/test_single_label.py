"""Metrics against scikit-style loops and scipy."""

import hypothesis
from hypothesis import strategies as st
import numpy as np

from esc_jax.evaluation import metrics, results


@hypothesis.given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60))
def test_confusion_and_per_class_equal_a_loop(pairs):
    labels, predicted = np.array(pairs).T
    table = metrics.confusion(labels, predicted, 5)
    for t in range(5):
        for p in range(5):
            assert table[t, p] == sum(pair == (t, p) for pair in pairs)
    found = metrics.per_class(table, "abcde")
    for i, name in enumerate("abcde"):
        total = sum(t == i for t, _ in pairs)
        assert found[name]["total"] == total
        assert found[name]["accuracy"] == (sum(pair == (i, i) for pair in pairs) / total if total else None)


def test_over_folds_counts_recordings_and_not_clips():
    one, two = np.array([True, True, True, False]), np.array([True, False])
    found = results.over_folds([one, two], [["a", "a", "b", "c"], ["d", "e"]])
    assert found["mean"] == (0.75 + 0.5) / 2
    np.testing.assert_allclose(found["std"], np.std([0.75, 0.5], ddof=1))
    low, high = found["ci95"]
    assert low <= 4 / 6 <= high
    assert results.over_folds([one], [list("abcd")])["std"] is None
    # Ten clips of each of four recordings say hardly more than four clips.
    many, few = np.repeat(one, 10), results.over_folds([one], [list("abcd")])["ci95"]
    np.testing.assert_allclose(results.over_folds([many], [np.repeat(list("abcd"), 10)])["ci95"], few)
