"""Single-label classification against closed forms and loops."""

import math

import hypothesis
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esc_jax.tasks import registry
from esc_jax.tasks.single_label import confusion_matrix, log_sum_exp

TASK = registry.get("single_label")
CLASSES = 5
logits_arrays = hnp.arrays(np.float64, (4, CLASSES), elements=st.floats(-40, 40))
label_arrays = hnp.arrays(np.int64, 4, elements=st.integers(0, CLASSES - 1))
pairs = st.lists(st.tuples(st.integers(0, CLASSES - 1), st.integers(0, CLASSES - 1)), min_size=1, max_size=60)


def softmax(row):
    """Of one row, by definition."""
    powers = [math.exp(x - max(row)) for x in row]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.99])
def test_targets_are_smoothed_one_hot_vectors(smoothing):
    targets = np.asarray(TASK.targets(jnp.array([0, 3, 1, 3]), 4, smoothing))
    assert targets.dtype == np.float32
    for row, label in zip(targets, (0, 3, 1, 3), strict=True):
        expected = [smoothing / 4 + (1 - smoothing) * (c == label) for c in range(4)]
        np.testing.assert_allclose(row, expected, rtol=1e-6)


@hypothesis.given(logits_arrays, label_arrays, st.floats(0, 0.9))
def test_loss_is_the_cross_entropy_of_each_example(logits, labels, smoothing):
    targets = TASK.targets(jnp.asarray(labels), CLASSES, smoothing)
    loss = TASK.loss(jnp.float32(logits), targets)
    for value, row, target in zip(loss, logits, np.asarray(targets, np.float64), strict=True):
        expected = -sum(t * math.log(p) for t, p in zip(target, softmax(row), strict=True) if t)
        assert float(value) == pytest.approx(expected, rel=1e-4, abs=1e-5)


@hypothesis.given(logits_arrays)
def test_activation_is_the_softmax(logits):
    expected = [softmax(row) for row in logits]
    np.testing.assert_allclose(TASK.activation(jnp.float32(logits)), expected, atol=1e-5)
    np.testing.assert_allclose(TASK.probabilities(logits), expected, rtol=1e-9, atol=1e-30)


def test_the_gradient_of_the_loss_is_activation_minus_target():
    """Convex solvers (`linear_probe`) use it."""
    rng = np.random.default_rng(0)
    logits = jnp.float32(rng.standard_normal((6, 4)))
    targets = TASK.targets(jnp.arange(6) % 4, 4, 0.2)
    gradient = jax.grad(lambda x: TASK.loss(x, targets).sum())(logits)
    np.testing.assert_allclose(gradient, TASK.activation(logits) - targets, atol=1e-6)


@hypothesis.given(hnp.arrays(np.float64, 6, elements=st.floats(-20, 20)))
def test_the_hessian_of_the_loss_is_bounded(logits):
    p = np.array(softmax(logits))
    assert np.linalg.eigvalsh(np.diag(p) - np.outer(p, p)).max() <= TASK.hessian_bound + 1e-12


def test_the_bound_of_the_hessian_is_attained():
    p = np.array(softmax([30.0, 30.0, -30.0]))
    assert np.linalg.eigvalsh(np.diag(p) - np.outer(p, p)).max() == pytest.approx(TASK.hessian_bound)


def test_accuracy_of_a_step_is_that_of_the_dominant_class():
    targets = jnp.array([[0.7, 0.3, 0.0], [0.2, 0.2, 0.6], [0.0, 1.0, 0.0]])
    logits = jnp.array([[1.0, 0.0, 0.5], [1.0, 0.0, 0.5], [-1.0, 2.0, 0.0]])
    np.testing.assert_array_equal(TASK.step_metrics(logits, targets)["accuracy"], [1.0, 0.0, 1.0])


@hypothesis.given(logits_arrays, label_arrays, st.floats(0.05, 20))
def test_nll_equals_a_loop(logits, labels, temperature):
    expected = [-math.log(max(softmax(row / temperature)[k], 1e-300)) for row, k in zip(logits, labels, strict=True)]
    hypothesis.assume(max(expected) < 600)
    assert TASK.nll(logits, labels, temperature) == pytest.approx(np.mean(expected), rel=1e-9, abs=1e-9)


@hypothesis.given(logits_arrays, st.floats(0.05, 20))
def test_a_temperature_keeps_the_ranking_and_divides_the_logits(logits, temperature):
    probabilities = TASK.probabilities(logits, temperature)
    np.testing.assert_allclose(probabilities, [softmax(row / temperature) for row in logits], rtol=1e-9, atol=1e-30)
    np.testing.assert_array_equal(np.take_along_axis(probabilities, logits.argmax(-1)[:, None], -1)[:, 0],
                                  probabilities.max(-1))  # fmt: skip


@hypothesis.given(hnp.arrays(np.float64, (4, CLASSES), elements=st.floats(-700, 700)))
def test_log_sum_exp(logits):
    for value, row in zip(log_sum_exp(logits), logits, strict=True):
        expected = max(row) + math.log(math.fsum(math.exp(x - max(row)) for x in row))
        assert value == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert log_sum_exp(np.array([[1e4, -1e4]])) == 1e4  # no overflow
    assert log_sum_exp(logits.reshape(2, 2, CLASSES)).shape == (2, 2)


@hypothesis.given(logits_arrays)
def test_logits_of_probabilities_give_them_again(logits):
    probabilities = TASK.probabilities(logits)
    np.testing.assert_allclose(TASK.probabilities(TASK.logits(probabilities)), probabilities, rtol=1e-9, atol=1e-30)
    assert np.isfinite(TASK.logits(np.array([0.0, 1.0]))).all()


def test_decisions_and_their_confidence():
    scores = np.array([[[0.2, 0.5, 0.3], [0.4, 0.4, 0.2]], [[0.1, 0.1, 0.8], [0.0, 0.0, 1.0]]])
    np.testing.assert_array_equal(TASK.decide(scores), [[1, 0], [2, 2]])  # the first of equal ones
    np.testing.assert_array_equal(TASK.confidence(scores[0]), [0.5, 0.4])
    np.testing.assert_array_equal(TASK.active(scores[0]), [[False, True, False], [True, False, False]])
    assert TASK.score(np.array([1, 2]), scores[0]) == 0.5


@hypothesis.given(hnp.arrays(np.float64, (7, CLASSES), elements=st.floats(0, 1)), st.integers(0, 999))
def test_the_score_is_the_mean_of_the_clip_scores(scores, seed):
    labels = np.random.default_rng(seed).integers(0, CLASSES, 7)
    hits = [int(list(row).index(max(row)) == label) for row, label in zip(scores, labels, strict=True)]
    np.testing.assert_array_equal(TASK.clip_scores(labels, scores), hits)
    assert TASK.score(labels, scores) == pytest.approx(sum(hits) / 7)


@hypothesis.given(pairs)
def test_confusion_and_classes_equal_loops(pairs):
    labels, predicted = np.array(pairs).T
    table = confusion_matrix(labels, predicted, CLASSES)
    for t in range(CLASSES):
        for p in range(CLASSES):
            assert table[t, p] == sum(pair == (t, p) for pair in pairs)
    details = TASK.details(labels, np.eye(CLASSES)[predicted], "abcde")
    assert details["confusion"] == table.tolist()
    np.testing.assert_array_equal(TASK.class_counts(labels, CLASSES), table.sum(1))
    for i, name in enumerate("abcde"):
        total, correct = sum(t == i for t, _ in pairs), sum(pair == (i, i) for pair in pairs)
        expected = {"accuracy": correct / total if total else None, "correct": correct, "total": total}
        assert details["per_class"][name] == expected


def test_metrics_of_a_fold():
    labels, scores = np.array([0, 1, 2, 2]), np.eye(3)[[0, 1, 2, 0]]
    assert TASK.fold_metrics(labels, scores, None) == {
        "accuracy": 0.75, "accuracy_tta": None, "correct": 3, "correct_tta": None, "total": 4
    }  # fmt: skip
    views = np.eye(3)[[0, 0, 0, 0]]
    assert TASK.fold_metrics(labels, scores, views) == {
        "accuracy": 0.75, "accuracy_tta": 0.25, "correct": 3, "correct_tta": 1, "total": 4
    }  # fmt: skip


def test_classes_are_ranked_by_accuracy_then_by_name():
    labels = np.array([0, 0, 1, 2, 3, 3])
    details = TASK.details(labels, np.eye(5)[[0, 1, 1, 2, 0, 0]], ("d", "b", "a", "c", "none"))
    assert TASK.class_ranking(details) == [
        ("a", 1.0, "1/1"), ("b", 1.0, "1/1"), ("d", 0.5, "1/2"), ("c", 0.0, "0/2"), ("none", None, "0/0"),
    ]  # fmt: skip
    assert TASK.label_text(np.int64(1), ("d", "b")) == "b"


def test_an_unknown_task_is_an_error():
    with pytest.raises(registry.TaskError, match="task=regression: the tasks are .*single_label"):
        registry.get("regression")
    assert all(task.name == name for name, task in registry.TASKS.items())
