"""Resampling against scipy, and what is drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from esc_jax.augment import resample

KEY = jax.random.key(0)
AUDIO = np.random.default_rng(0).standard_normal((4, 1000)).astype(np.float32)


@pytest.mark.parametrize("up, down", [(4, 5), (11, 10), (1, 2), (2, 1), (97, 100)])
@pytest.mark.parametrize("time", [1000, 37])
def test_equals_the_polyphase_filter_of_scipy(up, down, time):
    expected = scipy.signal.resample_poly(AUDIO[:, :time].astype(np.float64), up, down, axis=1)
    result = resample.resample(jnp.asarray(AUDIO[:, :time]), up, down)
    np.testing.assert_allclose(result, expected, atol=1e-5)  # float32 against float64


def window_of(row, factor):
    """Where a row starts in one of the resampled clips, in zeros where they are shorter; None where it is in none."""
    time = len(row)
    fraction = resample.ratio(factor)
    whole = scipy.signal.resample_poly(AUDIO.astype(np.float64), fraction.numerator, fraction.denominator, axis=1)
    spare = abs(whole.shape[1] - time)
    padded = np.pad(whole, ((0, 0), (spare, spare))) if whole.shape[1] < time else whole
    for clip in padded:
        windows = np.lib.stride_tricks.sliding_window_view(clip, time)
        if len(found := np.flatnonzero(np.abs(windows - row[None]).max(axis=1) < 1e-5)):
            return int(found[0])
    return None


def test_a_batch_has_one_factor_and_one_place():
    function = jax.jit(lambda key: resample.random_resample(key, jnp.arange(4), jnp.asarray(AUDIO), (0.8, 1.25)))
    seen = set()
    for key in jax.random.split(KEY, 12):
        result = np.asarray(function(key))
        if np.array_equal(result, AUDIO):
            seen.add(1.0)
            continue
        factor = next(f for f in (0.8, 1.25) if window_of(result[0], f) is not None)
        assert len({window_of(row, factor) for row in result}) == 1
        seen.add(factor)
    assert seen == {0.8, 1.0, 1.25}


def test_an_example_has_a_factor_and_a_place_of_its_own_at_any_position():
    function = jax.jit(
        lambda audio, positions: resample.random_resample(KEY, positions, audio, (0.8, 1.25), 0.7, "example")
    )
    rows = jnp.asarray(np.tile(AUDIO[:1], (24, 1)))
    result = np.asarray(function(rows, jnp.arange(24)))
    kinds = [
        1.0 if np.array_equal(r, AUDIO[0]) else next(f for f in (0.8, 1.25) if window_of(r, f) is not None)
        for r in result
    ]
    assert set(kinds) == {0.8, 1.0, 1.25} and 10 <= sum(kind != 1 for kind in kinds) <= 23
    assert len({window_of(r, k) for r, k in zip(result, kinds, strict=True) if k != 1}) > 5
    np.testing.assert_array_equal(function(rows[12:], jnp.arange(12, 24)), result[12:])


def test_a_tone_becomes_lower_by_the_factor():
    tone = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000).astype(np.float32)
    result = resample.resample(jnp.asarray(tone), 5, 4)
    peak = np.abs(np.fft.rfft(result * np.hanning(20_000))).argmax() * 16_000 / 20_000
    assert peak == pytest.approx(800, abs=1)
