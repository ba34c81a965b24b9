"""Mixing of two examples with a given share. The caller draws the pairs and vmaps.

The share s of an example is in [½, 1], and 1 − s is that of its partner. `WAVEFORM_MIXES` are the ways to mix two
waveforms. They follow between-class learning (Tokozume et al. 2018) and EAT (Gazneli et al. 2022).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from esc_jax.augment.draws import symmetric_beta

_STFT_SAMPLES = 1024
# Sounds below this level count as silence.
_SILENCE_RMS = 1e-5


def mixup_weight(key: jax.Array, alpha: float, probability: float = 1.0) -> jax.Array:
    """Draws the weight λ of mixup (Zhang et al. 2018).

    λ ~ Beta(alpha, alpha), replaced by max(λ, 1 − λ) so that the example itself has the larger weight.

    Args:
        key: PRNG key.
        alpha: of the Beta distribution.
        probability: of mixing; otherwise λ is 1.

    Returns:
        Scalar in [½, 1].
    """
    beta_key, coin_key = jax.random.split(key)
    weight = symmetric_beta(beta_key, alpha)
    mixed = jax.random.bernoulli(coin_key, probability)
    return jnp.where(mixed, jnp.maximum(weight, 1.0 - weight), 1.0)


def mix_linear(weight: jax.Array, x: jax.Array, other: jax.Array) -> jax.Array:
    """λ · x + (1 − λ) · other, for targets and spectrograms.

    Args:
        weight: λ, a scalar.
        x, other: arrays of one shape.
    """
    return weight * x + (1.0 - weight) * other


def union_of_targets(share: jax.Array, targets: jax.Array, other: jax.Array) -> jax.Array:
    """max(targets, other) where the share is below 0.9, else the targets: the sounds that can be heard in a mixture.

    Args:
        share: a scalar.
        targets, other: (classes,).
    """
    return jnp.where(share < 0.9, jnp.maximum(targets, other), targets)


def rms_level(waveform: jax.Array, sample_rate: int) -> jax.Array:
    """Root of the mean square of a waveform (time,)."""
    del sample_rate
    return jnp.sqrt(jnp.mean(jnp.square(waveform)))


def a_weighting(frequencies: np.ndarray) -> np.ndarray:
    """Gain of the A-weighting curve at frequencies in Hz (IEC 61672-1), 1 at 1 kHz.

    R(f) = 12194² f⁴ / ((f² + 20.6²) √((f² + 107.7²)(f² + 737.9²)) (f² + 12194²)),   gain = R(f) / R(1000)
    """

    def response(f: Any) -> Any:
        square = np.square(f)
        middle = np.sqrt((square + 107.7**2) * (square + 737.9**2))
        return 12194.0**2 * square**2 / ((square + 20.6**2) * middle * (square + 12194.0**2))

    return response(np.asarray(frequencies, np.float64)) / response(1000.0)


def a_weighted_level(waveform: jax.Array, sample_rate: int) -> jax.Array:
    """Level of the loudest window of a waveform under the A-weighting: the gain of between-class learning.

    Windows of 1024 samples without overlap. Shorter waveforms are one window.

    Args:
        waveform: (time,).
        sample_rate: Hz.
    """
    window = min(_STFT_SAMPLES, waveform.shape[-1])
    frames = waveform[: waveform.shape[-1] // window * window].reshape(-1, window)
    gain = a_weighting(np.fft.rfftfreq(window, 1.0 / sample_rate)).astype(np.float32)
    taper = np.hanning(window).astype(np.float32)
    power = jnp.square(jnp.abs(jnp.fft.rfft(frames * taper[None])) * gain[None])
    return jnp.sqrt(power.sum(-1).max()) / window


def mix_waveforms(
    weight: jax.Array,
    x: jax.Array,
    other: jax.Array,
    level: Callable[[jax.Array, int], jax.Array] = rms_level,
    sample_rate: int = 0,
) -> jax.Array:
    """Mixes two waveforms by their loudness (between-class learning, Tokozume et al. 2018).

        (λ · x + (1 − λ) · g · other) / √(λ² + (1 − λ)²),   g = level(x) / level(other)

    The sounds are first brought to the same level: otherwise a loud clip masks a quiet one whatever λ is. The division
    keeps the power of the sum of two independent sounds, so that the result has the level of `x`. If one of them is
    silent, g is 1.

    Args:
        weight: λ, a scalar.
        x, other: (time,).
        level: `rms_level` or `a_weighted_level`.
        sample_rate: Hz, for the level.
    """
    level_x, level_other = level(x, sample_rate), level(other, sample_rate)
    audible = (level_x > _SILENCE_RMS) & (level_other > _SILENCE_RMS)
    gain = jnp.where(audible, level_x / jnp.where(audible, level_other, 1.0), 1.0)
    mixed = weight * x + (1.0 - weight) * gain * other
    return mixed / jnp.sqrt(jnp.square(weight) + jnp.square(1.0 - weight))


def _own_part(share: jax.Array, size: int, last: jax.Array) -> jax.Array:
    """(size,) bool: the first ⌈share · size⌉ positions, or the last ones."""
    index = jnp.arange(size)
    count = jnp.ceil(share * size).astype(jnp.int32)
    return jnp.where(last, index >= size - count, index < count)


def cut_time(share: jax.Array, x: jax.Array, other: jax.Array, last: jax.Array) -> jax.Array:
    """The first part of x, of length s, and the end of its partner (time cut-mix).

    Args:
        share: s, a scalar.
        x, other: (time,).
        last: scalar bool: keep the last part of x instead.
    """
    return jnp.where(_own_part(share, len(x), last), x, other)


def _stft_window(half: int) -> np.ndarray:
    """(2, half): both halves of the square root of a periodic Hann window, whose squares overlap to 1."""
    return np.sin(np.pi * np.arange(2 * half) / (2 * half)).astype(np.float32).reshape(2, half)


def _stft(x: jax.Array) -> jax.Array:
    """(frames, bins) spectrum, with half a window of zeros before and after the waveform.

    Frames are made of consecutive blocks, without a gather: `jax.scipy.signal.stft` and its inverse take four times as
    long on CPU.
    """
    half = _STFT_SAMPLES // 2
    blocks = jnp.pad(x, (half, half + -len(x) % half)).reshape(-1, half)
    first, second = _stft_window(half)[:, None]
    return jnp.fft.rfft(jnp.concatenate([blocks[:-1] * first, blocks[1:] * second], axis=1))


def _inverse_stft(spectrum: jax.Array, samples: int) -> jax.Array:
    half = _STFT_SAMPLES // 2
    frames = jnp.fft.irfft(spectrum, 2 * half)
    first, second = _stft_window(half)[:, None]
    blocks = frames[1:, :half] * first + frames[:-1, half:] * second
    return blocks.reshape(-1)[:samples]


def cut_frequency(share: jax.Array, x: jax.Array, other: jax.Array, last: jax.Array) -> jax.Array:
    """The low frequencies of x, a share s of the bins, and the high ones of its partner (frequency cut-mix).

    Args:
        share: s, a scalar.
        x, other: (time,).
        last: scalar bool: keep the high frequencies of x instead.
    """
    spectrum = _stft(x)
    own = _own_part(share, spectrum.shape[1], last)[None]
    return _inverse_stft(jnp.where(own, spectrum, _stft(other)), len(x))


def mix_phases(share: jax.Array, x: jax.Array, other: jax.Array) -> jax.Array:
    """The magnitudes of x with phases between its own and those of its partner (phase mix).

    The phase of a bin is λ φ + (1 − λ) φ′ with s = ½ + λ/2: of x alone for s = 1, of the partner alone for s = ½.

    Args:
        share: s, a scalar.
        x, other: (time,).
    """
    weight = 2.0 * share - 1.0
    spectrum = _stft(x)
    phase = mix_linear(weight, jnp.angle(spectrum), jnp.angle(_stft(other)))
    magnitude = jnp.abs(spectrum)
    return _inverse_stft(jax.lax.complex(magnitude * jnp.cos(phase), magnitude * jnp.sin(phase)), len(x))


# Name in `augment.mixup_kinds` → function of (share, x, other, coin, sample_rate) that returns the mixture.
WAVEFORM_MIXES: dict[str, Callable[..., jax.Array]] = {
    "loudness": lambda share, x, other, coin, sample_rate: mix_waveforms(share, x, other),
    "loudness_a": lambda share, x, other, coin, sample_rate: mix_waveforms(
        share, x, other, a_weighted_level, sample_rate
    ),
    "time": lambda share, x, other, coin, sample_rate: cut_time(share, x, other, coin),
    "frequency": lambda share, x, other, coin, sample_rate: cut_frequency(share, x, other, coin),
    "phase": lambda share, x, other, coin, sample_rate: mix_phases(share, x, other),
}
