"""Linear probes against a general minimiser; neighbours against loops; splits by what they must leave out."""

import numpy as np
import pytest
import scipy.optimize

from esc_jax.data.rows import DataError
from esc_jax.evaluation import calibration
from esc_jax.experiments import probe
from esc_jax.training import linear_probe


def blobs(seed: int = 0, rows: int = 120, classes: int = 4, width: int = 6):
    """Overlapping Gaussian classes, of very different scales from feature to feature."""
    rng = np.random.default_rng(seed)
    labels = np.arange(rows) % classes
    x = rng.normal(size=(classes, width))[labels] + rng.normal(size=(rows, width))
    return (x * 10.0 ** rng.uniform(-2, 2, width) + 3).astype(np.float32), labels.astype(np.int32)


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
def test_head_is_the_minimum_that_scipy_finds(l2):
    x, labels = blobs()
    inside = np.arange(120) < 90
    heads = linear_probe.fit(
        x, labels, inside[None].astype(np.float32), np.float32([l2]), np.arange(2), classes=4, steps=300
    )
    z, value = objective(x[inside].astype(np.float64), labels[inside], l2, 4)
    best = scipy.optimize.minimize(value, np.zeros(7 * 4), jac=True, method="BFGS", options={"gtol": 1e-10}).x
    expected = z @ best[:-4].reshape(-1, 4) + best[-4:]
    for seed in range(2):  # from both starting points
        found = x[inside] @ np.asarray(heads.kernel)[0, 0, seed] + np.asarray(heads.bias)[0, 0, seed]
        # A constant may be added to all biases: compare differences. float32 sums of values up to 100.
        np.testing.assert_allclose(found - found[:, :1], expected - expected[:, :1], atol=5e-3)
    assert float(heads.gradient.max()) < 1e-5


def test_neighbours_equal_a_loop():
    x, labels = blobs(1, rows=40)
    weights = np.stack([np.arange(40) < 30, np.arange(40) >= 10]).astype(np.float32)
    found = np.asarray(linear_probe.neighbours(x, labels, weights, classes=4, ks=(5, 1, 100)))
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    for m in range(2):
        for i in range(40):
            others = [j for j in range(40) if weights[m, j] and j != i]
            others.sort(key=lambda j: -(unit[i] @ unit[j]))
            for place, k in enumerate((5, 1, 100)):
                votes = np.zeros(4)
                for j in others[:k]:
                    votes[labels[j]] += np.exp((unit[i] @ unit[j]) / 0.07)
                np.testing.assert_allclose(found[m, place, i], votes / votes.sum(), atol=1e-4)


def test_nothing_that_chooses_or_trains_has_seen_the_test_fold():
    folds = np.arange(20) % 4 + 1
    masks = linear_probe.splits(folds, [2, 3])
    assert set(masks) == {frozenset(s) for s in ({2}, {3}, {1, 2}, {2, 3}, {2, 4}, {1, 3}, {3, 4})}
    for out, mask in masks.items():
        assert set(folds[mask]) == {1, 2, 3, 4} - out


def test_selection_counts_the_validation_folds_alone():
    folds = np.array([1, 1, 2, 2, 3, 3])
    names = [frozenset({1}), frozenset({1, 2}), frozenset({1, 3})]
    correct = np.zeros((3, 2, 6), bool)
    correct[0] = True  # the outer split must not count
    correct[1, 1, [0, 1]] = True  # nor the test fold
    correct[1, 0, 2] = correct[2, 0, 4] = correct[2, 1, 5] = True
    assert linear_probe.select(correct, names, folds, 1) == 0
    correct[2, 1, 4] = correct[1, 1, 3] = True
    assert linear_probe.select(correct, names, folds, 1) == 1


def test_probe_reports_what_its_heads_do():
    x, labels = blobs(2, rows=160)
    folds = np.arange(160) // 4 % 4 + 1
    found = probe.probe(x[None], labels, folds, [1, 4], 4, l2=(0.1, 0.01), seeds=2)
    assert [head.fold for head in found] == [1, 4] and all(head.l2 in (0.1, 0.01) for head in found)
    for head in found:
        inside = folds == head.fold
        alone = linear_probe.fit(
            x[~inside], labels[~inside], np.ones((1, 120), np.float32), np.float32([head.l2]), np.arange(1),
            classes=4, steps=probe.STEPS,
        )  # fmt: skip
        ours = probe.probabilities(x[inside], head.kernel, head.bias)
        theirs = probe.probabilities(x[inside], np.asarray(alone.kernel)[0, 0, 0], np.asarray(alone.bias)[0, 0, 0])
        np.testing.assert_allclose(ours, theirs, atol=1e-3)  # left out is as good as never there
        held = []
        for v in {1, 2, 3, 4} - {head.fold}:  # the same by hand: each training fold held out once
            train, out = ~np.isin(folds, [head.fold, v]), folds == v
            one = linear_probe.fit(
                x[train], labels[train], np.ones((1, 80), np.float32), np.float32([head.l2]), np.arange(1),
                classes=4, steps=probe.STEPS,
            )  # fmt: skip
            logits = x[out] @ np.asarray(one.kernel)[0, 0, 0] + np.asarray(one.bias)[0, 0, 0]
            held.append((logits, labels[out]))
        logits, truth = (np.concatenate(part) for part in zip(*held, strict=True))
        assert head.validation == pytest.approx((logits.argmax(-1) == truth).mean())
        assert head.calibration.temperature == pytest.approx(calibration.fit_temperature(logits, truth), rel=1e-2)
        assert head.spread < 1e-3 and 0.5 < head.validation <= 1 and 0.3 < head.knn_accuracy <= 1


def test_two_folds_are_too_few_to_choose_in():
    x, labels = blobs(rows=40)
    with pytest.raises(DataError, match="inside the training folds"):
        probe.probe(x[None], labels, np.arange(40) % 2 + 1, [1], 4)
