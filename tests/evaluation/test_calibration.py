"""Temperature and reliability, against scipy and by counting."""

import json
import math

import numpy as np
import pytest
from scipy import special

from esc_jax.evaluation import calibration
from esc_jax.evaluation.calibration import Calibration
from esc_jax.tasks import registry as tasks

TASK, MULTI = tasks.get("single_label"), tasks.get("multi_label")
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 4, (400, 5))
LABELS = np.array([RNG.choice(5, p=p) for p in special.softmax(LOGITS / 2, axis=1)])


def test_held_out_clips_give_a_temperature():
    fitted = Calibration.held_out(TASK, LOGITS, LABELS, "a fold")
    assert fitted.temperature == pytest.approx(2, rel=0.15)  # the labels were drawn with it
    np.testing.assert_allclose(
        fitted.probabilities(TASK, LOGITS), special.softmax(LOGITS / fitted.temperature, axis=1), rtol=1e-5
    )
    assert Calibration.read(json.loads(json.dumps({"calibration": fitted.to_dict()}))) == fitted


def test_training_clips_give_no_temperature():
    fitted = Calibration.trained(TASK, LOGITS, LABELS, "training clips")
    np.testing.assert_allclose(fitted.probabilities(TASK, LOGITS), special.softmax(LOGITS, axis=1), rtol=1e-5)
    assert calibration.for_results({1: fitted}) == {}


def multi_label_clips():
    """(500, 3) logits, and labels drawn with temperature 2."""
    rng = np.random.default_rng(4)
    logits = rng.normal(-1, 3, (500, 3))
    return logits, rng.random((500, 3)) < special.expit(logits / 2)


def test_thresholds_apply_with_and_without_the_temperature():
    logits, labels = multi_label_clips()
    fitted = Calibration.held_out(MULTI, logits, labels, "a fold")
    assert fitted.temperature == pytest.approx(2, rel=0.15)
    expected = MULTI.thresholds(labels, special.expit(logits / fitted.temperature))
    np.testing.assert_allclose(fitted.thresholds, expected, rtol=1e-12)
    calibrated, raw = fitted.probabilities(MULTI, logits), special.expit(logits)
    decided = MULTI.decide(calibrated, np.array(fitted.thresholds))
    np.testing.assert_array_equal(MULTI.decide(raw, fitted.raw_thresholds(MULTI)), decided)
    assert Calibration.read(json.loads(json.dumps({"calibration": fitted.to_dict()}))) == fitted
    trained = Calibration.trained(MULTI, logits, labels, "training clips")
    np.testing.assert_allclose(trained.raw_thresholds(MULTI), trained.thresholds, rtol=1e-9)
    assert Calibration.held_out(TASK, LOGITS, LABELS, "a fold").raw_thresholds(TASK) is None


def test_a_fold_is_calibrated_on_the_other_folds():
    logits, labels = multi_label_clips()
    folds = {1: (logits[:200], labels[:200]), 2: (logits[200:], labels[200:])}
    fitted = calibration.cross_fitted(MULTI, folds, "other folds")
    for fold, other in ((1, 2), (2, 1)):
        expected = Calibration.held_out(MULTI, *folds[other], "other folds")
        assert (fitted[fold].temperature, fitted[fold].thresholds) == (expected.temperature, expected.thresholds)
    assert calibration.cross_fitted(MULTI, {1: folds[1]}, "") == {}


def test_a_checkpoint_without_a_calibration_changes_nothing():
    fitted = Calibration.read({})
    np.testing.assert_allclose(fitted.probabilities(TASK, LOGITS), special.softmax(LOGITS, axis=1), rtol=1e-5)


def test_the_entry_of_results():
    first, second = Calibration(0.5, "a fold"), Calibration(2.0, "a fold")
    assert calibration.for_results({3: first}) == {"calibration": {"temperature": 0.5, "fitted_on": "a fold"}}
    both = calibration.for_results({1: first, 2: second})
    assert both == {"calibration": {"temperature": {"1": 0.5, "2": 2.0}, "fitted_on": "a fold"}}
    assert calibration.for_results({}) == {}


def test_reliability_equals_a_loop_over_clips():
    rng = np.random.default_rng(8)
    confidence = np.concatenate([rng.random(300), [0.0, 0.1, 0.5, 1.0]])
    correct = rng.random(304) < confidence
    diagram = calibration.reliability(confidence, correct, bins=10)
    bins = {}
    for c, right in zip(confidence, correct, strict=True):
        bins.setdefault(max(0, math.ceil(c * 10) - 1), []).append((c, right))
    ece = sum(
        len(rows) / 304 * abs(np.mean([r for _, r in rows]) - np.mean([c for c, _ in rows])) for rows in bins.values()
    )
    assert diagram.count.tolist() == [len(bins.get(b, ())) for b in range(10)]
    assert diagram.ece == pytest.approx(ece, abs=1e-12)


def test_known_calibration_errors():
    assert calibration.reliability([1.0] * 4, [True, True, False, False]).ece == 0.5
    assert calibration.reliability([0.75] * 4, [True, True, True, False]).ece == 0.0
    # Two bins with errors of 0.1 in opposite directions: they do not cancel.
    mixed = calibration.reliability([0.5] * 5 + [0.9] * 5, [1, 1, 1, 0, 0] + [1, 1, 1, 1, 0], bins=2)
    assert mixed.ece == pytest.approx(0.1)
    half = calibration.reliability([0.0, 0.5, 0.51], [0, 1, 1], bins=2)  # (0, ½] and (½, 1]; 0 is in the first
    assert half.count.tolist() == [2, 1]
    empty = calibration.reliability([0.9], [True], bins=2)
    assert np.isnan(empty.frequency[0]) and empty.ece == pytest.approx(0.1)


def test_nll_and_temperature_follow_their_definitions():
    rng = np.random.default_rng(9)
    logits, labels = rng.normal(size=(40, 5)) * 30, rng.integers(0, 5, 40)
    expected = np.mean([special.logsumexp(row / 3) - row[k] / 3 for row, k in zip(logits, labels, strict=True)])
    assert TASK.nll(logits, labels, 3.0) == pytest.approx(expected, rel=1e-12)
    tempered = TASK.probabilities(logits, 3.0)
    np.testing.assert_allclose(tempered, special.softmax(logits / 3, axis=1), rtol=1e-12)
    assert (tempered.argmax(axis=1) == logits.argmax(axis=1)).all()
    assert np.isfinite(TASK.logits(np.array([0.0, 1.0]))).all()


def test_temperature_in_closed_form():
    # Two classes with logits (2, 0), 3 of 4 right: the NLL is smallest where sigmoid(2 / T) = 3/4, T = 2 / ln 3.
    logits, labels = np.array([[2.0, 0.0]] * 4), [0, 0, 0, 1]
    assert calibration.fit_temperature(TASK, logits, labels) == pytest.approx(2 / math.log(3), rel=1e-5)
    shares = special.softmax(logits, axis=1)  # their logarithm is the logits plus a constant in each row
    temperature = calibration.fit_temperature(TASK, TASK.logits(shares), labels)
    assert temperature == pytest.approx(2 / math.log(3), rel=1e-5)


@pytest.mark.parametrize("true", [0.4, 1.0, 2.5])
def test_the_temperature_of_drawn_labels_is_estimated(true):
    rng = np.random.default_rng(10)
    logits = rng.normal(size=(20_000, 4)) * 2
    shares = special.softmax(logits / true, axis=1)
    labels = (rng.random((20_000, 1)) > shares.cumsum(axis=1)).sum(axis=1).clip(max=3)
    temperature = calibration.fit_temperature(TASK, logits, labels)
    assert temperature == pytest.approx(true, rel=0.04)  # the standard error is near 1 % at 20,000 clips
    best = TASK.nll(logits, labels, temperature)
    assert best <= min(TASK.nll(logits, labels, temperature * f) for f in (0.5, 0.99, 1.01, 2))


def test_temperature_where_every_prediction_is_correct():
    temperature = calibration.fit_temperature(TASK, np.eye(3), [0, 1, 2])
    assert 0.01 <= temperature < 0.05 and TASK.nll(np.eye(3), [0, 1, 2], temperature) < 1e-9


@pytest.mark.parametrize(
    "call",
    [
        lambda: calibration.reliability([], []),
        lambda: calibration.reliability([0.5], [True, False]),
        lambda: calibration.fit_temperature(TASK, np.zeros((2, 3)), [0]),
    ],
)
def test_arguments_that_do_not_match_are_an_error(call):
    with pytest.raises(ValueError):
        call()


def test_each_fold_is_calibrated_on_the_other_folds():
    parts = {1: (LOGITS[:200], LABELS[:200]), 2: (LOGITS[200:], LABELS[200:])}
    fitted = calibration.cross_fitted(TASK, parts, "others")
    for fold, other in ((1, 2), (2, 1)):
        assert fitted[fold].temperature == calibration.fit_temperature(TASK, *parts[other])
    assert calibration.cross_fitted(TASK, {1: parts[1]}, "others") == {}
