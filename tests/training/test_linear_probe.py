"""Linear probes against a general minimizer; nearest neighbours against loops; which clips each head excludes."""

import numpy as np
import pytest
import scipy.optimize

from esc_jax.data.rows import DataError
from esc_jax.evaluation import calibration
from esc_jax.experiments import probe_heads
from esc_jax.tasks import registry as tasks
from esc_jax.training import linear_probe

TASK = tasks.get("single_label")


def blobs(seed: int = 0, rows: int = 120, classes: int = 4, width: int = 6):
    """Overlapping Gaussian classes; the scales of the features are very different."""
    rng = np.random.default_rng(seed)
    labels = np.arange(rows) % classes
    x = rng.normal(size=(classes, width))[labels] + rng.normal(size=(rows, width))
    return (x * 10.0 ** rng.uniform(-2, 2, width) + 3).astype(np.float32), labels.astype(np.int32)


def fit(x, labels, weights, l2, seeds, steps):
    """Kernels and biases of `linear_probe.fit` as arrays, and the largest gradient."""
    heads = linear_probe.fit(
        x, labels, np.float32(weights), np.float32(l2), np.arange(seeds), task=TASK, classes=4, steps=steps
    )
    return np.asarray(heads.kernel), np.asarray(heads.bias), float(heads.gradient.max())


def objective(x, labels, l2, classes):
    """The problem of the docstring in float64, for scipy: value and gradient of the flat (kernel, bias)."""
    z = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-12)

    def value(flat):
        kernel, bias = flat[:-classes].reshape(-1, classes), flat[-classes:]
        logits = z @ kernel + bias
        chances = np.exp(logits - logits.max(1, keepdims=True))
        chances /= chances.sum(1, keepdims=True)
        error = (chances - np.eye(classes)[labels]) / len(x)
        loss = -np.log(chances[np.arange(len(x)), labels]).mean() + l2 / 2 * (kernel**2).sum()
        return loss, np.concatenate([(z.T @ error + l2 * kernel).ravel(), error.sum(0)])

    return z, value


@pytest.mark.parametrize("l2", [0.3, 0.01, 0.001])
def test_a_head_is_the_minimum_that_scipy_finds(l2):
    x, labels = blobs()
    inside = np.arange(120) < 90
    kernel, bias, gradient = fit(x, labels, inside[None], [l2], seeds=2, steps=300)
    z, value = objective(x[inside].astype(np.float64), labels[inside], l2, 4)
    best = scipy.optimize.minimize(value, np.zeros(7 * 4), jac=True, method="BFGS", options={"gtol": 1e-10}).x
    expected = z @ best[:-4].reshape(-1, 4) + best[-4:]
    for seed in range(2):  # from both starting points
        logits = x[inside] @ kernel[0, 0, seed] + bias[0, 0, seed]
        # A constant can be added to all biases: compare differences. float32 sums of values up to 100.
        np.testing.assert_allclose(logits - logits[:, :1], expected - expected[:, :1], atol=5e-3)
    assert gradient < 1e-5


def test_scores_of_nearest_neighbours_equal_a_loop():
    x, labels = blobs(1, rows=40)
    weights = np.stack([np.arange(40) < 30, np.arange(40) >= 10]).astype(np.float32)
    scores = np.asarray(linear_probe.knn_scores(x, labels, weights, task=TASK, classes=4, ks=(5, 1, 100)))
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    for m in range(2):
        for i in range(40):
            others = [j for j in range(40) if weights[m, j] and j != i]
            others.sort(key=lambda j: -(unit[i] @ unit[j]))
            for place, k in enumerate((5, 1, 100)):
                votes = np.zeros(4)
                for j in others[:k]:
                    votes[labels[j]] += np.exp((unit[i] @ unit[j]) / 0.07)
                np.testing.assert_allclose(scores[m, place, i], votes / votes.sum(), atol=1e-4)


def test_heads_that_are_selected_or_tested_exclude_the_test_fold():
    folds = np.arange(20) % 4 + 1
    masks = linear_probe.exclusion_masks(folds, [2, 3])
    assert set(masks) == {frozenset(s) for s in ({2}, {3}, {1, 2}, {2, 3}, {2, 4}, {1, 3}, {3, 4})}
    for excluded, mask in masks.items():
        assert set(folds[mask]) == {1, 2, 3, 4} - excluded


def test_selection_counts_only_the_validation_folds():
    folds, labels = np.array([1, 1, 2, 2, 3, 3]), np.zeros(6, int)
    names = [frozenset({1}), frozenset({1, 2}), frozenset({1, 3})]
    correct = np.zeros((3, 2, 6), bool)
    correct[0] = True  # the outer split does not count
    correct[1, 1, [0, 1]] = True  # nor the test fold
    correct[1, 0, 2] = correct[2, 0, 4] = correct[2, 1, 5] = True

    def select():
        scores = np.where(correct[..., None], [0.9, 0.1], [0.1, 0.9])  # (masks, settings, clips, classes)
        return linear_probe.select_settings(TASK, labels, scores, names, folds, [1])[1]

    assert select() == 0
    correct[2, 1, 4] = correct[1, 1, 3] = True
    assert select() == 1


def test_selection_weights_folds_by_their_clips():
    """The first setting is right on 3 of 4 clips of one fold and 0 of 1 of the other, the second on 1 of 4 and 1 of 1:
    the mean over folds would select the second."""
    folds, labels = np.array([1, 2, 2, 2, 2, 3]), np.zeros(6, int)
    names = [frozenset({1, 2}), frozenset({1, 3})]
    correct = np.zeros((2, 2, 6), bool)
    correct[0, 0, [1, 2, 3]] = correct[0, 1, 1] = correct[1, 1, 5] = True
    scores = np.where(correct[..., None], [0.9, 0.1], [0.1, 0.9])
    assert linear_probe.select_settings(TASK, labels, scores, names, folds, [1])[1] == 0


def test_reported_metrics_are_those_of_the_heads():
    x, labels = blobs(2, rows=160)
    folds = np.arange(160) // 4 % 4 + 1
    results = probe_heads.fit(TASK, x[None], labels, folds, [1, 4], 4, l2=(0.1, 0.01), seeds=2)
    assert [head.fold for head in results] == [1, 4] and all(head.l2 in (0.1, 0.01) for head in results)
    for head in results:
        inside = folds == head.fold
        kernel, bias, _ = fit(x[~inside], labels[~inside], np.ones((1, 120)), [head.l2], 1, probe_heads.STEPS)
        one, other = (
            TASK.probabilities(probe_heads.head_logits(x[inside], *weights))
            for weights in ((head.kernel, head.bias), (kernel[0, 0, 0], bias[0, 0, 0]))
        )
        np.testing.assert_allclose(one, other, atol=1e-3)  # a weight of 0 is the same as a clip that is not there
        held_out = []
        for v in {1, 2, 3, 4} - {head.fold}:  # by hand: each training fold is held out once
            train, validation = ~np.isin(folds, [head.fold, v]), folds == v
            kernel, bias, _ = fit(x[train], labels[train], np.ones((1, 80)), [head.l2], 1, probe_heads.STEPS)
            held_out.append((x[validation] @ kernel[0, 0, 0] + bias[0, 0, 0], labels[validation]))
        logits, truth = (np.concatenate(part) for part in zip(*held_out, strict=True))
        assert head.validation == pytest.approx((logits.argmax(-1) == truth).mean())
        assert head.calibration.temperature == pytest.approx(calibration.fit_temperature(TASK, logits, truth), rel=1e-2)
        assert head.spread < 1e-3 and 0.5 < head.validation <= 1 and 0.3 < head.knn_score <= 1


def test_two_folds_are_too_few_for_a_probe():
    x, labels = blobs(rows=40)
    with pytest.raises(DataError, match="at least three folds: two training folds to choose"):
        probe_heads.fit(TASK, x[None], labels, np.arange(40) % 2 + 1, [1], 4)
