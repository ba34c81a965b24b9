"""Temperature and energy threshold, against scipy and by counting."""

import json

import numpy as np
import pytest
from scipy import special

from esc_jax.evaluation import calibration
from esc_jax.evaluation.calibration import Calibration

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 4, (400, 5))
LABELS = np.array([RNG.choice(5, p=p) for p in special.softmax(LOGITS / 2, axis=1)])


def test_energy_is_log_sum_exp():
    np.testing.assert_allclose(calibration.energy(LOGITS), special.logsumexp(LOGITS, axis=1), rtol=1e-12)
    assert calibration.energy(np.array([[1e4, -1e4]])) == 1e4  # no overflow


def test_held_out_clips_give_temperature_and_threshold():
    found = Calibration.held_out(LOGITS, LABELS, "a fold")
    assert found.temperature == pytest.approx(2, rel=0.15)  # what the labels were drawn with
    assert found.unfamiliar(LOGITS).mean() == pytest.approx(calibration.HELD_OUT_SHARE, abs=1 / 400)
    np.testing.assert_allclose(
        found.probabilities(LOGITS), special.softmax(LOGITS / found.temperature, axis=1), rtol=1e-5
    )
    assert Calibration.read(json.loads(json.dumps({"calibration": found.to_dict()}))) == found


def test_clips_of_training_give_no_temperature():
    found = Calibration.trained(LOGITS, "clips of training")
    assert found.unfamiliar(LOGITS).mean() == pytest.approx(calibration.TRAINED_SHARE, abs=1 / 400)
    np.testing.assert_allclose(found.probabilities(LOGITS), special.softmax(LOGITS, axis=1), rtol=1e-5)
    assert calibration.for_results({1: found}) == {}


def test_a_checkpoint_without_a_calibration_changes_nothing():
    found = Calibration.read({})
    assert not found.unfamiliar(LOGITS - 1e6).any()
    np.testing.assert_allclose(found.probabilities(LOGITS), special.softmax(LOGITS, axis=1), rtol=1e-5)


def test_what_results_say():
    first, second = Calibration(0.5, 1.0, 0.05, "a fold"), Calibration(2.0, 1.0, 0.05, "a fold")
    assert calibration.for_results({3: first}) == {"calibration": {"temperature": 0.5, "fitted_on": "a fold"}}
    both = calibration.for_results({1: first, 2: second})
    assert both == {"calibration": {"temperature": {"1": 0.5, "2": 2.0}, "fitted_on": "a fold"}}
    assert calibration.for_results({}) == {}
