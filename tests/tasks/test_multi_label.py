"""Multi-label classification against closed forms, loops and scikit-learn."""

import itertools
import math
import tracemalloc

import hypothesis
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics

from esc_jax.evaluation import confidence
from esc_jax.tasks import registry

TASK = registry.get("multi_label")
CLIPS, CLASSES = 8, 5
logits_arrays = hnp.arrays(np.float64, (CLIPS, CLASSES), elements=st.floats(-30, 30))
tied_arrays = hnp.arrays(np.float64, (CLIPS, CLASSES), elements=st.sampled_from([0.0, 0.2, 0.5, 0.8]))
label_arrays = hnp.arrays(bool, (CLIPS, CLASSES), elements=st.booleans())
NAMES = ("dog", "sea_waves", "rain", "a;b", "c\\d")


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_targets_are_smoothed_towards_one_half(smoothing):
    targets = np.asarray(TASK.targets(jnp.array([[True, False], [False, False]]), 2, smoothing))
    high, low = 1 - smoothing / 2, smoothing / 2
    assert targets.dtype == np.float32
    np.testing.assert_allclose(targets, [[high, low], [low, low]], rtol=1e-6)


@hypothesis.given(logits_arrays, hnp.arrays(np.float64, (CLIPS, CLASSES), elements=st.floats(0, 1)))
def test_loss_is_the_sum_of_binary_cross_entropies(logits, targets):
    weights = np.arange(1.0, CLASSES + 1)
    for scale, arguments in ((np.ones(CLASSES), ()), (weights, (jnp.float32(weights),))):
        loss = TASK.loss(jnp.float32(logits), jnp.float32(targets), *arguments)
        expected = (scale * targets * np.logaddexp(0, -logits) + (1 - targets) * np.logaddexp(0, logits)).sum(1)
        np.testing.assert_allclose(loss, expected, rtol=1e-4, atol=1e-5)


@hypothesis.given(logits_arrays, label_arrays)
def test_the_loss_of_labels_is_their_negative_log_likelihood(logits, labels):
    loss = TASK.loss(jnp.float32(logits), TASK.targets(jnp.asarray(labels), CLASSES))
    likelihood = [
        -sum(math.log(max(sigmoid(x if y else -x), 1e-300)) for x, y in zip(*rows, strict=True))
        for rows in zip(logits, labels, strict=True)
    ]
    np.testing.assert_allclose(loss, likelihood, rtol=1e-4, atol=1e-5)
    assert TASK.nll(logits, labels) == pytest.approx(np.mean(likelihood), rel=1e-9)
    tempered = TASK.nll(logits, labels, 2.5)
    assert tempered == pytest.approx(TASK.nll(logits / 2.5, labels), rel=1e-12)


def test_the_gradient_of_the_loss_is_activation_minus_target():
    """Convex solvers (`linear_probe`) use it."""
    rng = np.random.default_rng(0)
    logits = jnp.float32(rng.standard_normal((6, 4)))
    targets = TASK.targets(jnp.asarray(rng.random((6, 4)) < 0.4), 4, 0.2)
    gradient = jax.grad(lambda x: TASK.loss(x, targets).sum())(logits)
    np.testing.assert_allclose(gradient, TASK.activation(logits) - targets, atol=1e-6)
    second = jax.vmap(jax.vmap(jax.grad(jax.grad(lambda x: jax.nn.softplus(x)))))(logits)
    assert second.max() <= TASK.hessian_bound


def test_class_weights_balance_positives_and_negatives():
    labels = np.zeros((200, 4), bool)
    labels[:50, 0], labels[:150, 1], labels[0, 2] = True, True, True
    np.testing.assert_allclose(TASK.class_weights(labels, 4), [3.0, 1.0, 100.0, 1.0])


def test_rare_classes_and_clips_without_a_class_are_drawn_more_often():
    labels = np.zeros((10, 2), bool)
    labels[:6, 0] = True  # six clips, two of them with the rare class
    labels[4:6, 1] = True
    weights = TASK.sampling_weights(labels, 2)
    expected = np.array([1 / 6] * 4 + [1 / 2] * 2 + [1 / 4] * 4)
    np.testing.assert_allclose(weights, expected / expected.sum())
    one_each = np.eye(3, dtype=bool)[[0, 0, 0, 1, 1, 2]]
    shares = TASK.sampling_weights(one_each, 3) @ one_each
    np.testing.assert_allclose(shares, 1 / 3)  # exactly balanced where every clip has one class


@hypothesis.given(logits_arrays, label_arrays)
def test_lrap_of_a_step_equals_scikit_learn(logits, labels):
    logits = np.round(logits)  # with ties
    values = TASK.step_metrics(jnp.float32(logits), jnp.float32(labels))["lrap"]
    for value, truth, row in zip(values, labels, logits, strict=True):
        expected = metrics.label_ranking_average_precision_score(truth[None], row[None])
        assert float(value) == pytest.approx(expected, rel=1e-6)


def test_lrap_of_mixtures_counts_dominant_classes():
    targets = jnp.array([[0.7, 0.3, 0.0], [0.4, 0.4, 0.2]])
    logits = jnp.array([[0.0, 1.0, -1.0], [1.0, 0.0, -1.0]])
    np.testing.assert_allclose(TASK.step_metrics(logits, targets)["lrap"], [0.5, 1.0])


@hypothesis.given(hnp.arrays(np.float64, (3, CLASSES), elements=st.floats(-700, 700)))
def test_probabilities_and_logits(logits):
    probabilities = TASK.probabilities(logits, 2.0)
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-logits / 2)), rtol=1e-12, atol=1e-300)
    moderate = np.clip(logits, -80, 30)
    np.testing.assert_allclose(TASK.logits(TASK.probabilities(moderate)), moderate, rtol=1e-2, atol=1e-12)
    np.testing.assert_allclose(TASK.activation(jnp.float32(moderate)), TASK.probabilities(moderate), atol=1e-6)
    assert np.isfinite(TASK.logits(np.array([0.0, 1.0]))).all() and TASK.probabilities(np.array([800.0]))[0] == 1


def test_decisions_and_their_confidence():
    scores = np.array([[0.5, 0.4, 0.9], [0.1, 0.2, 0.3]])
    np.testing.assert_array_equal(TASK.decide(scores), [[True, False, True], [False, False, False]])
    limits = np.array([0.6, 0.2, 0.95])
    np.testing.assert_array_equal(TASK.decide(scores, limits), [[False, True, False], [False, True, False]])
    np.testing.assert_array_equal(TASK.active(scores, limits), TASK.decide(scores, limits))
    np.testing.assert_allclose(TASK.confidence(scores), [0.5 * 0.6 * 0.9, 0.9 * 0.8 * 0.7])
    np.testing.assert_allclose(TASK.confidence(scores, limits)[1], 0.9 * 0.2 * 0.7)
    # The probabilities of all decisions sum to 1.
    every = [np.prod(np.where(one, scores[1], 1 - scores[1])) for one in itertools.product([False, True], repeat=3)]
    assert sum(every) == pytest.approx(1)
    assert not TASK.exclusive and TASK.clip_scores(scores > 0.3, scores) is None


@hypothesis.given(label_arrays, tied_arrays)
def test_the_score_is_macro_map(labels, scores):
    used = labels.any(axis=0)
    if not used.any():
        assert TASK.score(labels, scores) == 0.0
        return
    expected = metrics.average_precision_score(labels[:, used], scores[:, used], average="macro")
    assert TASK.score(labels, scores) == pytest.approx(expected, rel=1e-12)
    assert TASK.score(labels, TASK.logits(scores)) == pytest.approx(expected, rel=1e-12)  # only the order counts


@hypothesis.given(label_arrays, tied_arrays, hnp.arrays(np.int64, (4, CLIPS), elements=st.integers(0, 3)))
def test_weighted_scores_are_scores_of_repeated_clips(labels, scores, counts):
    values = TASK.weighted_scores(labels, scores, counts.astype(np.float64))
    for value, repeats in zip(values, counts, strict=True):
        repeated = np.repeat(labels, repeats, axis=0)
        if repeated.any():
            assert value == pytest.approx(TASK.score(repeated, np.repeat(scores, repeats, axis=0)), rel=1e-12)
        else:
            assert np.isnan(value)


def test_intervals_resample_recordings_within_their_memory():
    """The interval covers the score; a thousand draws of thousands of clips stay below 200 MB."""
    rng = np.random.default_rng(0)
    labels = rng.random((4000, 8)) < 0.1
    scores = np.clip(0.3 * labels + 0.7 * rng.random((4000, 8)), 0, 1)
    tracemalloc.start()
    interval = confidence.score_interval(TASK, [(labels, scores)], [np.arange(4000) // 2])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    weights = 2 * 1000 * 4000 * 8  # of the draws themselves: of recordings and of clips
    assert interval.low < interval.value < interval.high and interval.high - interval.low < 0.1
    assert peak < weights + 200e6
    difference = confidence.score_difference_interval(
        TASK, [(labels, scores)], [(labels, 1 - scores)], [np.arange(4000) // 2], draws=50
    )
    assert difference.low > 0
    assert difference.value == pytest.approx(interval.value - TASK.score(labels, 1 - scores))


def test_metrics_of_a_fold():
    rng = np.random.default_rng(1)
    labels, scores = rng.random((40, 4)) < 0.3, rng.random((40, 4)).round(1)
    labels[:, 3] = False
    limits, views = np.array([0.3, 0.5, 0.7, 0.5]), rng.random((40, 4))
    fold = TASK.fold_metrics(labels, scores, views, limits)
    used = labels[:, :3], scores[:, :3]
    assert fold.keys() == {"mAP", "mAP_tta", *TASK.other_metrics, "total"} and fold["total"] == 40
    assert fold["mAP"] == pytest.approx(metrics.average_precision_score(*used))
    assert fold["mAP_tta"] == pytest.approx(metrics.average_precision_score(used[0], views[:, :3]))
    assert fold["mAP_micro"] == pytest.approx(metrics.average_precision_score(labels, scores, average="micro"))
    assert fold["auc_macro"] == pytest.approx(metrics.roc_auc_score(*used))
    f1 = [metrics.f1_score(labels[:, c], scores[:, c] >= limits[c]) for c in range(3)]
    assert fold["f1_macro"] == pytest.approx(np.mean(f1))
    empty = TASK.fold_metrics(np.zeros((3, 2), bool), np.full((3, 2), 0.9), None)
    assert empty == {
        "mAP": 0.0, "mAP_tta": None, "mAP_micro": None, "lwlrap": None, "auc_macro": None, "f1_macro": None, "total": 3
    }  # fmt: skip


def test_details_of_classes():
    labels = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0]], bool)
    scores = np.array([[0.9, 0.6, 0.1], [0.8, 0.2, 0.1], [0.3, 0.7, 0.1], [0.1, 0.1, 0.1]])
    details = TASK.details(labels, scores, ("a", "b", "c"))
    assert details["cooccurrence"] == [[2, 1, 0], [1, 1, 0], [0, 0, 0]]
    per_class = details["per_class"]
    assert per_class["a"] == {"AP": 1.0, "auc": 1.0, "f1": 1.0, "threshold": 0.5, "positives": 2, "total": 4}
    b_ap = metrics.average_precision_score(labels[:, 1], scores[:, 1])
    assert per_class["b"] == {
        "AP": pytest.approx(b_ap), "auc": 0.75, "f1": 0.5, "threshold": 0.5, "positives": 2, "total": 4
    }  # fmt: skip
    assert per_class["c"] == {"AP": None, "auc": None, "f1": None, "threshold": 0.5, "positives": 0, "total": 4}
    assert TASK.class_ranking(details) == [("a", 1.0, "2/4"), ("b", pytest.approx(b_ap), "2/4"), ("c", None, "0/4")]
    of_folds = TASK.details(labels, scores, ("a", "b", "c"), np.repeat([[0.15, 0.3, 0.5], [0.25, 0.5, 0.5]], 2, axis=0))
    assert [of_folds["per_class"][name]["threshold"] for name in "abc"] == pytest.approx([0.2, 0.4, 0.5])
    assert of_folds["cooccurrence"] == [[2, 1, 0], [2, 1, 0], [0, 0, 0]]


def test_misses_and_false_alarms_by_class():
    labels = np.array([[1, 0], [1, 0], [1, 1], [0, 0], [0, 0]], bool)
    scores = np.array([[0.4, 0.6], [0.2, 0.9], [0.9, 0.9], [0.1, 0.8], [0.7, 0.1]])
    groups = TASK.error_groups(labels, scores, ("sea_waves", "dog"))
    assert [(group.description, group.rows) for group in groups] == [
        ("“dog” detected in 3 of 4 clips without it", (1, 3, 0)),  # the most confident first
        ("“sea waves” missed in 2 of its 3 clips", (1, 0)),
        ("“sea waves” detected in 1 of 2 clips without it", (4,)),
    ]
    assert TASK.error_groups(labels, labels.astype(float), ("a", "b")) == []
    (only,) = TASK.error_groups(labels, scores, ("a", "b"), np.array([0.15, 0.85]))[1:]
    assert only.rows == (1,)


@hypothesis.given(hnp.arrays(bool, len(NAMES), elements=st.booleans()))
def test_labels_are_read_as_they_are_written(label):
    text = TASK.label_text(label, NAMES)
    np.testing.assert_array_equal(TASK.parse_label(text, NAMES), label)
    assert (text == "") == (not label.any())


def test_labels_as_text():
    assert TASK.label_text([True, True, False, True, True], NAMES) == "dog;sea_waves;a\\;b;c\\\\d"
    for text, message in (("cat", "'cat' is not a class"), ("dog;", "not a list"), (";", "not a list"), ("\\", "list")):
        with pytest.raises(ValueError, match=message):
            TASK.parse_label(text, NAMES)


def test_calibration_counts_every_class_of_every_clip():
    labels, scores = np.array([[1, 0], [0, 0]], bool), np.array([[0.9, 0.2], [0.4, 0.1]])
    probabilities, events = TASK.calibration_pairs(labels, scores)
    assert probabilities.tolist() == [0.9, 0.2, 0.4, 0.1] and events.tolist() == [1, 0, 0, 0]
