"""Augmentations against their definitions."""

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esc_jax import config as configs
from esc_jax.augment import compose, mix, spectrogram, waveform

KEY = jax.random.key(0)
X = np.random.default_rng(0).standard_normal(8000).astype(np.float32)


def test_gain_is_one_factor_within_its_range():
    result = jax.vmap(lambda k: waveform.gain(k, X, 6.0))(jax.random.split(KEY, 200))
    ratio = result / X[None]
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:, :1], ratio.shape), rtol=1e-5)
    decibels = 20 * np.log10(ratio[:, 0])
    assert np.abs(decibels).max() <= 6.001 and decibels.min() < -5 and decibels.max() > 5


@pytest.mark.parametrize("fraction", [0.1, 1.0])
def test_roll_is_a_rotation_within_its_range(fraction):
    result = np.asarray(jax.vmap(lambda k: waveform.roll(k, X, fraction))(jax.random.split(KEY, 50)))
    places = np.argmax(result == X[0], axis=1)
    for row, place in zip(result, places, strict=True):
        np.testing.assert_array_equal(row, np.roll(X, place))
        assert min(place, 8000 - place) <= 4000 * fraction
    assert len(set(places)) > 40


def test_noise_stays_below_its_share_and_leaves_silence():
    added = waveform.noise(KEY, X, 0.5) - X
    assert 0 < np.sqrt(np.mean(added**2)) <= 0.51 * np.sqrt(np.mean(X**2))
    assert not waveform.noise(KEY, jnp.zeros(100), 0.5).any()


def test_plain_crop_is_a_window_of_the_clip():
    for key in jax.random.split(KEY, 20):
        result = np.asarray(waveform.crop(key, X, 1000))
        start = int(np.argmax(result[0] == X))
        np.testing.assert_array_equal(result, X[start : start + 1000])


def test_more_tries_contain_the_event_more_often():
    clip = np.zeros(32_000, np.float32)
    clip[8000:10_000] = 1.0
    keys = jax.random.split(KEY, 300)

    def silent(tries):
        return float(np.mean([not w.any() for w in jax.vmap(lambda k: waveform.crop(k, clip, 8000, 0.0, tries))(keys)]))

    # The window hits the event with probability 10,000 / 24,000.
    assert abs(silent(1) - 7 / 12) < 0.1
    assert abs(silent(3) - (7 / 12) ** 3) < 0.08


def test_speed_changes_the_pitch_of_a_tone():
    tone = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000).astype(np.float32)
    result = np.asarray(jax.vmap(lambda k: waveform.crop(k, tone, 8000, 0.5))(jax.random.split(KEY, 40)))
    peaks = np.abs(np.fft.rfft(result * np.hanning(8000))).argmax(axis=1) * 2.0
    octaves = np.log2(peaks / 1000)
    assert np.abs(octaves).max() <= 0.51 and octaves.min() < -0.3 and octaves.max() > 0.3


@pytest.mark.parametrize("time, samples", [(16_000, 8000), (240_000, 200_000), (9000, 8999)])
def test_speed_equals_numpy_interpolation(time, samples):
    ramp = np.arange(time, dtype=np.float32)
    x = np.random.default_rng(0).standard_normal(time).astype(np.float32)
    for key in jax.random.split(KEY, 5):
        # Of a ramp, the crop is the places themselves.
        places = np.asarray(waveform.crop(key, ramp, samples, 0.3), np.float64)
        assert places[0] >= 0 and places[-1] < time - 1
        rate = (places[-1] - places[0]) / (samples - 1)
        assert 2**-0.301 < rate < 2**0.301
        exact = places[0] + rate * np.arange(samples)
        # The ramp itself is in float32: 1/64 of a sample at 240,000.
        np.testing.assert_allclose(places, exact, atol=1 / 64)
        expected = np.interp(exact, np.arange(time), x)
        # Rates are known to 2⁻¹⁴ of a sample by then, noise changes by several from one to the next.
        np.testing.assert_allclose(waveform.crop(key, x, samples, 0.3), expected, atol=0.1)


@pytest.mark.parametrize("axis", [0, 1])
def test_mask_covers_whole_rows_no_wider_than_asked(axis):
    x = np.random.default_rng(1).standard_normal((50, 40)).astype(np.float32)
    for key in jax.random.split(KEY, 30):
        result = np.asarray(spectrogram.mask(key, x, axis, 10, 2))
        changed = (result != x).any(axis=1 - axis)
        assert changed.sum() <= 20
        assert (np.diff(np.flatnonzero(np.diff(np.r_[0, changed, 0])))[::2] <= 20).all()
        np.testing.assert_allclose(np.take(result, np.flatnonzero(changed), axis), x.mean(), rtol=1e-5)


def test_frequency_warp_equals_numpy_interpolation():
    x = np.random.default_rng(1).standard_normal((7, 33)).astype(np.float32)
    stretch_key, shift_key = jax.random.split(KEY)
    stretch = 1 + jax.random.uniform(stretch_key, minval=-0.2, maxval=0.2)
    shift = jax.random.uniform(shift_key, minval=-0.2, maxval=0.2) * 16.5
    position = (np.arange(33) - 16) * float(stretch) + 16 + float(shift)
    expected = [np.interp(position, np.arange(33), row) for row in x]
    np.testing.assert_allclose(spectrogram.frequency_warp(KEY, x, 0.2), expected, atol=1e-4)


@hypothesis.settings(max_examples=20, deadline=None)
@hypothesis.given(weight=st.floats(0.5, 1.0), level=st.floats(0.01, 10.0))
def test_mixing_keeps_the_level_and_the_weight(weight, level):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(20_000).astype(np.float32)
    other = (level * rng.standard_normal(20_000)).astype(np.float32)
    mixed = np.asarray(mix.mix_waveforms(jnp.float32(weight), x, other))
    assert abs(np.sqrt(np.mean(mixed**2)) - np.sqrt(np.mean(x**2))) < 0.03  # independent sounds, 20,000 samples
    # The components along the sounds have the ratio λ : 1 − λ.
    along = np.linalg.lstsq(np.stack([x, other / level], 1), mixed, rcond=None)[0]
    assert abs(along[0] / along.sum() - weight) < 0.02


def test_mixing_with_silence_is_finite():
    assert np.isfinite(mix.mix_waveforms(jnp.float32(0.5), X, np.zeros_like(X))).all()
    assert np.isfinite(jax.grad(lambda x: mix.mix_waveforms(jnp.float32(0.5), x, np.zeros_like(X)).sum())(X)).all()


def test_mixup_weights_follow_the_folded_beta():
    import scipy.stats

    weights = np.asarray(jax.vmap(lambda k: mix.mixup_weight(k, 0.4))(jax.random.split(KEY, 4000)))
    beta = scipy.stats.beta(0.4, 0.4)
    result = scipy.stats.kstest(weights, lambda x: np.clip(beta.cdf(x) - beta.cdf(1 - x), 0, 1))
    assert result.pvalue > 1e-3
    half = np.asarray(jax.vmap(lambda k: mix.mixup_weight(k, 0.4, 0.5))(jax.random.split(KEY, 4000)))
    assert abs((half == 1).mean() - 0.5) < 0.04


def test_partners_are_a_permutation_without_fixed_points():
    config = configs.defaults("resnet").augment
    config.mixup_alpha = 0.3
    for key in jax.random.split(KEY, 10):
        _, partners = compose.mixup_pairs(config, key, jnp.arange(9), 9)
        assert sorted(np.asarray(partners)) == list(range(9))
        assert (np.asarray(partners) != np.arange(9)).all()


def test_defaults_are_the_identity():
    config = configs.defaults("resnet").augment
    audio = jnp.asarray(X.reshape(2, 4000))
    np.testing.assert_array_equal(compose.augment_waveforms(config, KEY, jnp.arange(2), audio, 16_000), audio)
    features = audio.reshape(2, 100, 40)
    np.testing.assert_array_equal(compose.augment_spectrograms(config, KEY, jnp.arange(2), features), features)


def test_an_example_depends_on_its_position_and_not_on_its_neighbours():
    config = configs.defaults("resnet").augment
    config.update(roll=1.0, crop_s=0.1, speed_octaves=0.3, gain_db=6.0, noise=0.2)
    audio = jnp.asarray(X.reshape(4, 2000))
    whole = compose.augment_waveforms(config, KEY, jnp.arange(4), audio, 16_000)
    half = compose.augment_waveforms(config, KEY, jnp.arange(2, 4), audio[2:], 16_000)
    np.testing.assert_allclose(whole[2:], half, rtol=1e-6, atol=1e-6)
