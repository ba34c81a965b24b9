"""Schedules against the definitions of torch and Hugging Face."""

import math

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from esc_jax.training import schedules


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(total=st.integers(10, 3000), pct=st.floats(0.15, 0.6), peak=st.floats(1e-5, 1.0))
def test_one_cycle_closed_form(total, pct, peak):
    def expected(step):
        low, last, up, end = peak / 25, peak / 25 / 1e4, pct * total - 1, total - 1
        if step <= up:
            return peak + (low - peak) / 2 * (1 + math.cos(math.pi * step / up))
        return last + (peak - last) / 2 * (1 + math.cos(math.pi * (step - up) / (end - up)))

    rate = schedules.one_cycle(peak, total, pct * total)
    for step in {0, 1, total // 7, int(pct * total), total // 2, total - 2, total - 1}:
        np.testing.assert_allclose(rate(step), expected(step), rtol=2e-4, atol=1e-6 * peak)


def test_one_cycle_equals_torch():
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=1e-3)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=137)
    rate, momentum = schedules.one_cycle(1e-3, 137, 0.3 * 137), schedules.one_cycle_momentum(137, 0.3 * 137)
    for step in range(137):
        np.testing.assert_allclose(rate(step), optimizer.param_groups[0]["lr"], rtol=1e-4, atol=1e-9)
        np.testing.assert_allclose(momentum(step), optimizer.param_groups[0]["betas"][0], rtol=1e-5)
        optimizer.step()
        if step < 136:
            scheduler.step()


def test_linear_equals_hugging_face():
    rate = schedules.linear(5e-5, 100, warmup=10)
    expected = [5e-5 * (s / 10 if s < 10 else (100 - s) / 90) for s in range(101)]
    np.testing.assert_allclose([rate(s) for s in range(101)], expected, rtol=1e-5, atol=1e-12)


def test_cosine_and_constant():
    np.testing.assert_allclose(
        [schedules.cosine(1.0, 20, 4)(s) for s in (0, 2, 4, 12, 20)], [0, 0.5, 1, 0.5, 0], atol=1e-6
    )
    np.testing.assert_allclose([schedules.constant(2.0, 20, 4)(s) for s in (0, 2, 4, 20)], [0, 1, 2, 2], atol=1e-6)
    np.testing.assert_allclose(schedules.constant(2.0, 20)(0), 2.0)


def test_a_warm_up_in_steps_epochs_or_percent():
    assert schedules.warmup_steps({"warmup_steps": 7, "warmup_epochs": -1, "warmup_percent": -1}, 200, 10) == 7
    for steps, epochs, percent, expected in [(-1, 1.5, -1, 15), (-1, -1, 30, 61), (-1, 2, 30, 20), (-1, -1, -1, 0)]:
        given = {"warmup_steps": steps, "warmup_epochs": epochs, "warmup_percent": percent}
        assert schedules.warmup_steps(given, 201, 10) == expected
