"""The equaliser against scipy and its definition."""

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import scipy.signal

from esc_jax.augment import equalizer

RATE = 16_000
X = np.random.default_rng(0).standard_normal(5000).astype(np.float32)
coefficients = jax.jit(jax.vmap(equalizer.coefficients))
filter_waveform = jax.jit(equalizer.filter_waveform)


def bands(kinds, frequencies, qualities, gains):
    """Second-order sections in float64."""
    arrays = (jnp.asarray(kinds), *(jnp.asarray(a, jnp.float32) for a in (frequencies, qualities, gains)))
    return [np.asarray(part, np.float64) for part in coefficients(*arrays)]


@hypothesis.settings(max_examples=15, deadline=None)
@hypothesis.given(frequency=st.floats(100 / RATE, 0.35), quality=st.floats(0.5, 2.0), gain=st.floats(-12, 12))
def test_gains_at_the_ends_and_in_the_middle(frequency, quality, gain):
    """A peak has its gain at its centre and 0 dB at the ends; a shelf has it at one end, half of it in the middle."""
    expected = {0: (0, gain, 0), 1: (gain, gain / 2, 0), 2: (0, gain / 2, gain)}
    for kind, (low, middle, high) in expected.items():
        b, a = bands([kind], [frequency], [quality], [gain])
        _, response = scipy.signal.freqz(b[0], a[0], 2 * np.pi * np.array([1e-6, frequency, 0.499999]))
        # Coefficients in float32: their sums, at the low end, are small differences.
        np.testing.assert_allclose(20 * np.log10(np.abs(response)), [low, middle, high], atol=0.05)


def test_equals_a_recursive_filter():
    b, a = bands([0, 1, 2], [0.02, 0.01, 0.2], [2.0, 0.5, 1.0], [12.0, -9.0, 6.0])
    expected = scipy.signal.sosfilt(np.concatenate([b, a], 1) / a[:, :1].repeat(6, 1), X.astype(np.float64))
    result = filter_waveform(jnp.asarray(X), jnp.asarray(b, jnp.float32), jnp.asarray(a, jnp.float32))
    np.testing.assert_allclose(result, expected, atol=1e-3)  # the impulse response ends after 1024 samples


def test_the_response_of_random_bands_is_within_the_sum_of_their_gains():
    impulse = jnp.zeros(4096).at[0].set(1.0)
    draw = jax.jit(jax.vmap(lambda key: equalizer.equalize(key, impulse, RATE, 3, 6.0)))
    responses = 20 * np.log10(np.abs(np.fft.rfft(np.asarray(draw(jax.random.split(jax.random.key(0), 60))))))
    assert np.abs(responses).max() <= 18.05
    largest = np.abs(responses).max(axis=1)
    assert largest.min() < 4 < 7 < largest.max()
    # Neither end of the spectrum is left alone, nor its middle: peaks and both shelves occur.
    assert all(np.abs(responses[:, place]).max() > 2 for place in (5, 256, 1500, 2040))


def test_filters_without_gain_change_nothing():
    b, a = bands([0, 1, 2], [0.02, 0.01, 0.2], [2.0, 0.5, 1.0], [0.0, 0.0, 0.0])
    result = filter_waveform(jnp.asarray(X), jnp.asarray(b, jnp.float32), jnp.asarray(a, jnp.float32))
    np.testing.assert_allclose(result, X, atol=1e-5)
