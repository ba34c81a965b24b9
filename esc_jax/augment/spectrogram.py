"""Augmentations of one spectrogram: (frames, bins) → (frames, bins). The caller vmaps, one key per example."""

import jax
import jax.numpy as jnp


def mask(key: jax.Array, spectrogram: jax.Array, axis: int, width: int, count: int = 1) -> jax.Array:
    """SpecAugment (Park et al. 2019): `count` bands along `axis`, of 0 to `width` rows each, set to the clip's mean.

    Args:
        key: PRNG key.
        spectrogram: (frames, bins).
        axis: 0 masks time, 1 masks frequency.
        width: widest band, rows.
        count: number of bands; they may overlap.
    """
    size = spectrogram.shape[axis]
    width_key, place_key = jax.random.split(key)
    widths = jax.random.randint(width_key, (count, 1), 0, min(width, size) + 1)
    places = jax.random.uniform(place_key, (count, 1))
    starts = (places * (size - widths + 1).astype(jnp.float32)).astype(jnp.int32)
    rows = jnp.arange(size)[None]
    covered = ((rows >= starts) & (rows < starts + widths)).any(axis=0)
    return jnp.where(jnp.expand_dims(covered, 1 - axis), spectrogram.mean(), spectrogram)


def frequency_warp(key: jax.Array, spectrogram: jax.Array, fraction: float) -> jax.Array:
    """The frequency axis stretched by up to ±`fraction` and shifted by up to ±`fraction`/2 of its length.

    On a mel axis this is nearly a change of pitch. A product with a matrix of linear interpolation weights: no gather.
    Bins beyond the edge repeat it.
    """
    bins = spectrogram.shape[1]
    stretch_key, shift_key = jax.random.split(key)
    stretch = 1.0 + jax.random.uniform(stretch_key, minval=-fraction, maxval=fraction)
    shift = jax.random.uniform(shift_key, minval=-fraction, maxval=fraction) * (bins / 2)
    centre = (bins - 1) / 2
    position = jnp.clip((jnp.arange(bins, dtype=jnp.float32) - centre) * stretch + centre + shift, 0.0, bins - 1.0)
    weights = jnp.maximum(0.0, 1.0 - jnp.abs(position[None, :] - jnp.arange(bins, dtype=jnp.float32)[:, None]))
    return spectrogram @ weights
