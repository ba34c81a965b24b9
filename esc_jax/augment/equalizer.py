"""A random equaliser: a few peaking and shelving filters in sequence.

The filters are those of R. Bristow-Johnson's "Cookbook formulae for audio equalizer biquad filter coefficients".
"""

import jax
import jax.numpy as jnp
import numpy as np

_TAPS = 1024  # of the impulse response, and samples of a block
_LOWEST_HZ = 100.0
_HIGHEST = 0.4  # as a share of the sample rate
_Q = (0.5, 2.0)
KINDS = ("peak", "low shelf", "high shelf")


def coefficients(
    kind: jax.Array, frequency: jax.Array, q: jax.Array, decibels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Numerator and denominator (3,) each of one second-order filter, in powers of z⁻¹.

    Args:
        kind: index into `KINDS`.
        frequency: centre of a peak or middle of the slope of a shelf, in cycles per sample.
        q: quality.
        decibels: gain at the centre of a peak, or of a shelf beyond its slope.
    """
    root = 10.0 ** (decibels / 40.0)
    omega = 2.0 * jnp.pi * frequency
    cosine, alpha = jnp.cos(omega), jnp.sin(omega) / (2.0 * q)
    slope = 2.0 * jnp.sqrt(root) * alpha
    more, less = root + 1.0, root - 1.0
    # A high shelf is a low shelf with the opposite sign of the cosine, of b₁ and of a₁.
    sign = jnp.where(kind == 2, -1.0, 1.0)
    c = sign * cosine
    shelf = (
        root * jnp.stack([more - less * c + slope, sign * 2.0 * (less - more * c), more - less * c - slope]),
        jnp.stack([more + less * c + slope, -sign * 2.0 * (less + more * c), more + less * c - slope]),
    )
    peak = (
        jnp.stack([1.0 + alpha * root, -2.0 * cosine, 1.0 - alpha * root]),
        jnp.stack([1.0 + alpha / root, -2.0 * cosine, 1.0 - alpha / root]),
    )
    return jnp.where(kind == 0, peak[0], shelf[0]), jnp.where(kind == 0, peak[1], shelf[1])


def filter_waveform(waveform: jax.Array, numerators: jax.Array, denominators: jax.Array) -> jax.Array:
    """Applies second-order filters in sequence.

    Equal to `scipy.signal.sosfilt` up to the end of the impulse response, of which 1024 samples are kept: the response
    of the filters is sampled, transformed into an impulse response, and convolved block by block (overlap-add).

    Args:
        waveform: (time,).
        numerators, denominators: (filters, 3) as of `coefficients`.

    Returns:
        (time,).
    """
    delay = np.exp(-2j * np.pi * np.arange(_TAPS // 2 + 1) / _TAPS)
    powers = jnp.asarray(delay[None] ** np.arange(3)[:, None], jnp.complex64)
    response = (numerators.astype(jnp.complex64) @ powers) / (denominators.astype(jnp.complex64) @ powers)
    taps = jnp.fft.irfft(jnp.prod(response, axis=0), _TAPS)
    spectrum = jnp.fft.rfft(taps, 2 * _TAPS)
    time = waveform.shape[-1]
    blocks = jnp.pad(waveform, (0, -time % _TAPS)).reshape(-1, _TAPS)
    filtered = jnp.fft.irfft(jnp.fft.rfft(blocks, 2 * _TAPS) * spectrum[None], 2 * _TAPS)
    ends = jnp.pad(filtered[:-1, _TAPS:], ((1, 0), (0, 0)))
    return (filtered[:, :_TAPS] + ends).reshape(-1)[:time]


def equalize(key: jax.Array, waveform: jax.Array, sample_rate: int, bands: int, decibels: float) -> jax.Array:
    """Applies random filters: peaks, low shelves and high shelves with equal probability.

    Frequency and quality are drawn on logarithmic scales, from 100 Hz to 0.4 times the sample rate and from 0.5 to 2;
    the gain is uniform in ± `decibels`.

    Args:
        key: PRNG key.
        waveform: (time,).
        sample_rate: Hz.
        bands: number of filters.
        decibels: largest gain of a filter.
    """
    kind_key, frequency_key, q_key, gain_key = jax.random.split(key, 4)
    lowest = min(_LOWEST_HZ / sample_rate, _HIGHEST / 2)
    kinds = jax.random.randint(kind_key, (bands,), 0, len(KINDS))
    frequencies = lowest * (_HIGHEST / lowest) ** jax.random.uniform(frequency_key, (bands,))
    qualities = _Q[0] * (_Q[1] / _Q[0]) ** jax.random.uniform(q_key, (bands,))
    gains = jax.random.uniform(gain_key, (bands,), minval=-decibels, maxval=decibels)
    return filter_waveform(waveform, *jax.vmap(coefficients)(kinds, frequencies, qualities, gains))
