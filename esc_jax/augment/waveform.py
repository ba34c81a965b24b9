"""Augmentations of one waveform: (samples,) → (samples,). The caller vmaps, one key per example.

Every one is the identity at its setting's zero, and is then not even compiled (the settings are Python numbers).
"""

import jax
import jax.numpy as jnp


def gain(key: jax.Array, waveform: jax.Array, decibels: float) -> jax.Array:
    """Level changed by a factor drawn uniformly in decibels from [−decibels, decibels]."""
    drawn = jax.random.uniform(key, minval=-decibels, maxval=decibels)
    return waveform * 10.0 ** (drawn / 20.0)


def rotate(waveform: jax.Array, shift: jax.Array, samples: jax.Array | None = None) -> jax.Array:
    """(…, time) turned in time by `shift` samples, as jnp.roll does. What leaves at one end comes in at the other.

    Of a clip that ends in padding the first `samples` are turned, a number; None is all of them. jnp.roll copies the
    clip twice over before it cuts it; on CPU that took up to forty times as long.
    """
    waveform = jnp.asarray(waveform)
    places = jnp.arange(waveform.shape[-1])
    if samples is None:
        return waveform[..., (places - shift) % len(places)]
    return waveform[..., jnp.where(places < samples, (places - shift) % samples, places)]


def roll(key: jax.Array, waveform: jax.Array, fraction: float, samples: jax.Array | None = None) -> jax.Array:
    """Rotated in time by up to ± `fraction` / 2 of the clip: 1 is any rotation. `samples` as for `rotate`."""
    if samples is None:
        most = round(fraction * waveform.shape[-1] / 2)
    else:
        most = jnp.round(fraction * samples.astype(jnp.float32) / 2).astype(jnp.int32)
    return rotate(waveform, jax.random.randint(key, (), -most, most + 1), samples)


def noise(key: jax.Array, waveform: jax.Array, amount: float) -> jax.Array:
    """White noise added, its RMS a share, uniform in [0, amount], of the waveform's own; silence stays silent."""
    share_key, noise_key = jax.random.split(key)
    share = jax.random.uniform(share_key, maxval=amount)
    rms = jnp.sqrt(jnp.mean(jnp.square(waveform)))
    return waveform + share * rms * jax.random.normal(noise_key, waveform.shape)


def _loudest_start(key: jax.Array, waveform: jax.Array, window: jax.Array, tries: int) -> jax.Array:
    """Start of a window of `window` samples: the loudest of `tries` drawn uniformly.

    Many clips of ESC-50 are one short event and then digital silence; a crop of the silence would carry a label that
    nobody could hear.
    """
    starts = jax.random.uniform(key, (tries,)) * (waveform.shape[-1] - window)
    if tries == 1:
        return starts[0]
    block = 256  # energy to this precision, in samples, so that the running sum is short
    blocks = waveform.shape[-1] // block
    energy = jnp.cumsum(jnp.square(waveform[: blocks * block]).reshape(blocks, block).mean(axis=1))
    energy = jnp.concatenate([jnp.zeros(1), energy])

    def before(sample: jax.Array) -> jax.Array:
        return energy[jnp.clip((sample / block).astype(jnp.int32), 0, blocks)]

    return starts[jnp.argmax(before(starts + window) - before(starts))]


def crop(key: jax.Array, waveform: jax.Array, samples: int, octaves: float = 0.0, tries: int = 1) -> jax.Array:
    """(time,) → (samples,): a random window, played faster or slower by up to `octaves`, pitch and tempo together.

    The rate is 2^u with u uniform in [−octaves, octaves], limited so that the window fits the clip; values between
    samples are interpolated linearly (EnvNet-v2 scales sounds in this way by 0.8 to 1.25, or ±0.32 octaves).

    Args:
        key: PRNG key.
        waveform: (time,).
        samples: length of the result, at most `time`.
        octaves: 0 for a plain crop.
        tries: windows drawn, of which the loudest is taken.
    """
    waveform = jnp.asarray(waveform)
    rate_key, place_key = jax.random.split(key)
    time = waveform.shape[-1]
    if not octaves:
        start = _loudest_start(place_key, waveform, jnp.float32(samples), tries).astype(jnp.int32)
        return jax.lax.dynamic_slice_in_dim(waveform, start, samples)
    rate = 2.0 ** jax.random.uniform(rate_key, minval=-octaves, maxval=octaves)
    rate = jnp.minimum(rate, (time - 1) / samples)
    start = _loudest_start(place_key, waveform, rate * samples + 1.0, tries).astype(jnp.uint32)
    # Places are whole multiples of 2^-bits. In floating point, a long clip's would be rounded to some hundredths of a
    # sample, differently with every way of fusing the operations: other numbers on another number of devices.
    bits = 32 - time.bit_length()
    one = 1 << bits
    places = start * one + (rate * one).astype(jnp.uint32) * jnp.arange(samples, dtype=jnp.uint32)
    left = (places >> bits).astype(jnp.int32)
    share = (places & (one - 1)).astype(jnp.float32) / one
    return waveform[left] * (1.0 - share) + waveform[left + 1] * share
