"""Metrics against scikit-style loops and scipy."""

import hypothesis
from hypothesis import strategies as st
import numpy as np
import scipy.stats

from esc_jax.training import metrics


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


@hypothesis.given(total=st.integers(1, 2000), share=st.floats(0, 1))
def test_wilson_equals_scipy(total, share):
    correct = round(share * total)
    expected = scipy.stats.binomtest(correct, total).proportion_ci(0.95, method="wilson")
    np.testing.assert_allclose(metrics.wilson(correct, total), (expected.low, expected.high), atol=1e-6)


def test_over_folds():
    found = metrics.over_folds([8, 6], [10, 10])
    assert found["mean"] == 0.7
    np.testing.assert_allclose(found["std"], np.std([0.8, 0.6], ddof=1))
    assert metrics.over_folds([8], [10])["std"] is None
