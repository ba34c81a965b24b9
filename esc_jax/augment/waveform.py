"""Augmentations of one waveform: (time,) → (time,). The caller vmaps, one key per example.

Settings are Python numbers; each augmentation is the identity if its setting is zero.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

# Colour of noise → exponent β of its power density, which is proportional to f^β.
NOISE_COLORS: dict[str, float] = {"white": 0.0, "pink": -1.0, "red": -2.0, "blue": 1.0, "violet": 2.0}
_FLAT_HZ = 20.0  # below, the density is constant: the rest of red noise would not be heard
_MASK_LEVEL = 1e-6


def gain(key: jax.Array, waveform: jax.Array, decibels: float) -> jax.Array:
    """Changes the level by a gain that is uniform in [−decibels, decibels] dB."""
    gain_db = jax.random.uniform(key, minval=-decibels, maxval=decibels)
    return waveform * 10.0 ** (gain_db / 20.0)


def rotate(waveform: jax.Array, shift: jax.Array, samples: jax.Array | None = None) -> jax.Array:
    """Rotates a waveform in time, as `jnp.roll` does.

    `jnp.roll` concatenates two copies of the clip and takes a slice; on CPU it took up to forty times as long.

    Args:
        waveform: (…, time).
        shift: in samples, a scalar.
        samples: length of the clip without the padding at its end, a scalar. The padding is not rotated. None: the
            clip is not padded.
    """
    waveform = jnp.asarray(waveform)
    index = jnp.arange(waveform.shape[-1])
    if samples is None:
        return waveform[..., (index - shift) % len(index)]
    return waveform[..., jnp.where(index < samples, (index - shift) % samples, index)]


def draw_shift(key: jax.Array, samples: int | jax.Array, fraction: float) -> jax.Array:
    """Shift of a rotation in samples, uniform within ± `fraction` / 2 of the clip; 1 allows every rotation.

    Args:
        key: PRNG key.
        samples: length of the clip without the padding at its end.
        fraction: of that length.
    """
    limit: int | jax.Array
    if isinstance(samples, int):
        limit = round(fraction * samples / 2)
    else:
        limit = jnp.round(fraction * samples.astype(jnp.float32) / 2).astype(jnp.int32)
    return jax.random.randint(key, (), -limit, limit + 1)


def noise(key: jax.Array, waveform: jax.Array, amount: float) -> jax.Array:
    """Adds white noise. Its RMS relative to that of the waveform is uniform in [0, amount]."""
    level_key, noise_key = jax.random.split(key)
    level = jax.random.uniform(level_key, maxval=amount)
    rms = jnp.sqrt(jnp.mean(jnp.square(waveform)))
    return waveform + level * rms * jax.random.normal(noise_key, waveform.shape)


def colored_noise(key: jax.Array, samples: int, exponent: jax.Array, sample_rate: int) -> jax.Array:
    """(samples,) Gaussian noise of unit RMS whose power density is proportional to f^exponent above 20 Hz.

    The spectrum is drawn, and transformed with a length that is a power of two.

    Args:
        key: PRNG key.
        samples: length.
        exponent: a scalar; see `NOISE_COLORS`.
        sample_rate: Hz.
    """
    size = 1 << max(1, samples - 1).bit_length()
    octaves = np.log2(np.maximum(np.arange(size // 2 + 1) * (sample_rate / size) / _FLAT_HZ, 1.0)).astype(np.float32)
    real, imaginary = jax.random.normal(key, (2, size // 2 + 1))
    amplitude = jnp.where(np.arange(size // 2 + 1) > 0, jnp.exp2(0.5 * exponent * octaves), 0.0)
    noise = jnp.fft.irfft(jax.lax.complex(amplitude * real, amplitude * imaginary), size)[:samples]
    return noise * jax.lax.rsqrt(jnp.mean(jnp.square(noise)))


def add_colored_noise(
    key: jax.Array,
    waveform: jax.Array,
    sample_rate: int,
    colors: Sequence[str],
    snr_db: tuple[float, float],
    probability: float = 0.5,
) -> jax.Array:
    """Adds noise of one of several colours at a signal-to-noise ratio that is uniform in a range of dB.

    EAT (Gazneli et al. 2022) draws 30 to 35 dB. Silence is not changed.

    Args:
        key: PRNG key.
        waveform: (time,).
        sample_rate: Hz.
        colors: keys of `NOISE_COLORS`.
        snr_db: lowest and highest ratio of the powers of the waveform and the noise.
        probability: of noise.
    """
    coin_key, color_key, level_key, noise_key = jax.random.split(key, 4)
    exponents = jnp.array([NOISE_COLORS[color] for color in colors])
    exponent = exponents[jax.random.randint(color_key, (), 0, len(colors))]
    ratio = jax.random.uniform(level_key, minval=snr_db[0], maxval=snr_db[1])
    level = jnp.sqrt(jnp.mean(jnp.square(waveform))) * 10.0 ** (-ratio / 20.0)
    level = jnp.where(jax.random.bernoulli(coin_key, probability), level, 0.0)
    return waveform + level * colored_noise(noise_key, waveform.shape[-1], exponent, sample_rate)


def mask(key: jax.Array, waveform: jax.Array, fraction: float, probability: float = 0.5) -> jax.Array:
    """Replaces a random part of the waveform by Gaussian noise of 1e-6 (EAT, Gazneli et al. 2022: 5 %).

    Args:
        key: PRNG key.
        waveform: (time,).
        fraction: length of the part, as a fraction of the waveform.
        probability: of a mask.
    """
    coin_key, start_key, noise_key = jax.random.split(key, 3)
    time = waveform.shape[-1]
    width = max(1, round(fraction * time))
    start = jax.random.randint(start_key, (), 0, time - width + 1)
    index = jnp.arange(time)
    masked = (index >= start) & (index < start + width) & jax.random.bernoulli(coin_key, probability)
    # Repeated noise: a part contains each of its values once, and few are drawn.
    noise = jnp.tile(_MASK_LEVEL * jax.random.normal(noise_key, (width,)), -(-time // width))[:time]
    return jnp.where(masked, noise, waveform)


def flip_sign(key: jax.Array, waveform: jax.Array, probability: float) -> jax.Array:
    """Multiplies the waveform by −1 with a probability."""
    return jnp.where(jax.random.bernoulli(key, probability), -waveform, waveform)


def _loudest_start(
    key: jax.Array, waveform: jax.Array, window: jax.Array, tries: int, shift: jax.Array | None
) -> jax.Array:
    """Start of the loudest of `tries` windows of `window` samples of the rotated waveform, drawn uniformly.

    Many clips of ESC-50 consist of one short event and digital silence. A crop of the silence would be labelled with a
    class that it does not contain. The level of a window is that of the blocks of 256 samples that begin in it.
    """
    time = waveform.shape[-1]
    starts = jax.random.uniform(key, (tries,)) * (time - window)
    if tries == 1:
        return starts[0]
    block = 256
    blocks = time // block
    energy = jnp.square(waveform[: blocks * block]).reshape(blocks, block).sum(axis=1)
    first = block * jnp.arange(blocks)
    if shift is not None:  # where the blocks begin in the rotated waveform
        first = (first + shift) % time
    distance = first.astype(jnp.float32)[None] - starts[:, None]
    return starts[jnp.argmax(jnp.where((distance >= 0) & (distance < window), energy[None], 0.0).sum(axis=1))]


def crop(
    key: jax.Array,
    waveform: jax.Array,
    samples: int,
    octaves: float = 0.0,
    tries: int = 1,
    shift: jax.Array | None = None,
) -> jax.Array:
    """Takes a random window, played at a random speed (pitch and tempo together).

    The speed is 2^u with u uniform in [−octaves, octaves], limited so that the window fits into the clip. Values
    between samples are interpolated linearly. EnvNet-v2 scales sounds in this way by 0.8 to 1.25, or ±0.32 octaves.

    Args:
        key: PRNG key.
        waveform: (time,).
        samples: length of the result, at most `time`.
        octaves: largest change of speed; 0 for a crop at the original speed.
        tries: number of windows drawn, of which the loudest is used.
        shift: crop from `rotate(waveform, shift)`, which is not stored; a scalar. None: without rotation.

    Returns:
        (samples,).
    """
    waveform = jnp.asarray(waveform)
    rate_key, start_key = jax.random.split(key)
    time = waveform.shape[-1]

    def rotated(index: jax.Array) -> jax.Array:
        """Samples of the rotated waveform at indices from 0 to `time` − 1."""
        if shift is None:
            return waveform[index]
        index = index + (-shift) % time
        return waveform[jnp.where(index < time, index, index - time)]

    if not octaves:
        start = _loudest_start(start_key, waveform, jnp.float32(samples), tries, shift).astype(jnp.int32)
        if shift is None:
            return jax.lax.dynamic_slice_in_dim(waveform, start, samples)
        return rotated(start + jnp.arange(samples))
    rate = 2.0 ** jax.random.uniform(rate_key, minval=-octaves, maxval=octaves)
    rate = jnp.minimum(rate, (time - 1) / samples)
    start = _loudest_start(start_key, waveform, rate * samples + 1.0, tries, shift).astype(jnp.uint32)
    # Positions are fixed-point numbers with this many fractional bits. Floating point would round the positions in a
    # long clip to some hundredths of a sample, and differently on another number of devices, where XLA fuses the
    # operations differently.
    bits = 32 - time.bit_length()
    one = 1 << bits
    position = start * one + (rate * one).astype(jnp.uint32) * jnp.arange(samples, dtype=jnp.uint32)
    left = (position >> bits).astype(jnp.int32)
    fraction = (position & (one - 1)).astype(jnp.float32) / one
    return rotated(left) * (1.0 - fraction) + rotated(left + 1) * fraction
