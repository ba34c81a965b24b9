"""Augmentations of one spectrogram: (frames, bins) → (frames, bins). The caller vmaps, one key per example."""

import jax
import jax.numpy as jnp


def mask(key: jax.Array, spectrogram: jax.Array, axis: int, width: int, count: int = 1) -> jax.Array:
    """Sets random bands of the spectrogram to its mean (SpecAugment, Park et al. 2019).

    The width of a band is uniform in 0 … `width`.

    Args:
        key: PRNG key.
        spectrogram: (frames, bins).
        axis: 0 masks frames, 1 masks bins.
        width: of the widest band.
        count: number of bands. They may overlap.
    """
    size = spectrogram.shape[axis]
    width_key, start_key = jax.random.split(key)
    widths = jax.random.randint(width_key, (count, 1), 0, min(width, size) + 1)
    fractions = jax.random.uniform(start_key, (count, 1))
    starts = (fractions * (size - widths + 1).astype(jnp.float32)).astype(jnp.int32)
    index = jnp.arange(size)[None]
    masked = ((index >= starts) & (index < starts + widths)).any(axis=0)
    return jnp.where(jnp.expand_dims(masked, 1 - axis), spectrogram.mean(), spectrogram)


def frequency_warp(key: jax.Array, spectrogram: jax.Array, fraction: float) -> jax.Array:
    """Stretches the frequency axis by up to ±`fraction` and shifts it by up to ±`fraction`/2 of its length.

    On a mel axis this is similar to a change of pitch. Bins beyond the edges repeat the edge. Computed as a product
    with a matrix of linear interpolation weights, without a gather.

    Args:
        key: PRNG key.
        spectrogram: (frames, bins).
        fraction: largest change.
    """
    bins = spectrogram.shape[1]
    stretch_key, shift_key = jax.random.split(key)
    stretch = 1.0 + jax.random.uniform(stretch_key, minval=-fraction, maxval=fraction)
    shift = jax.random.uniform(shift_key, minval=-fraction, maxval=fraction) * (bins / 2)
    centre = (bins - 1) / 2
    position = jnp.clip((jnp.arange(bins, dtype=jnp.float32) - centre) * stretch + centre + shift, 0.0, bins - 1.0)
    weights = jnp.maximum(0.0, 1.0 - jnp.abs(position[None, :] - jnp.arange(bins, dtype=jnp.float32)[:, None]))
    return spectrogram @ weights
