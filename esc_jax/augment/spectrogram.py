"""Augmentations of one spectrogram: (frames, bins) → (frames, bins). The caller vmaps, one key per example."""

import jax
import jax.numpy as jnp

from esc_jax.augment.draws import symmetric_beta


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


def filter_gains(
    key: jax.Array, bins: int, decibels: float, bands: tuple[int, int], narrowest: int, kind: str = "linear"
) -> jax.Array:
    """Draws the gains of FilterAugment (Nam et al., ICASSP 2022), (bins,) in dB.

    The bins are split into a random number of bands. For the kind "step", the gain of a band is uniform in
    ± `decibels`. For "linear", the gains at the edges of the bands are, and those between them lie on lines.

    Args:
        key: PRNG key.
        bins: of the spectrogram, at least `bands[1]` · `narrowest`.
        decibels: largest gain.
        bands: smallest and largest number of bands, 2 or more.
        narrowest: smallest number of bins of a band.
        kind: "step" or "linear".
    """
    count_key, edge_key, gain_key = jax.random.split(key, 3)
    most = bands[1]
    count = jax.random.randint(count_key, (), bands[0], most + 1)
    # Edges: the spare bins are divided at random, and each band has `narrowest` more.
    number = jnp.arange(1, most)
    spare = jax.random.randint(edge_key, (most - 1,), 0, bins - count * narrowest + 1)
    spare = jnp.sort(jnp.where(number < count, spare, bins))
    inner = jnp.where(number < count, spare + number * narrowest, bins)
    edges = jnp.concatenate([jnp.zeros(1, inner.dtype), inner, jnp.full(1, bins, inner.dtype)])
    gains = jax.random.uniform(gain_key, (most + 1,), minval=-decibels, maxval=decibels)
    low, high = edges[:-1, None], edges[1:, None]
    index = jnp.arange(bins)[None]
    inside = (index >= low) & (index < high)
    if kind == "step":
        return jnp.where(inside, gains[:-1, None], 0.0).sum(axis=0)
    share = (index - low).astype(jnp.float32) / jnp.maximum(high - low - 1, 1).astype(jnp.float32)
    return jnp.where(inside, gains[:-1, None] + share * (gains[1:] - gains[:-1])[:, None], 0.0).sum(axis=0)


def frequency_statistics(spectrogram: jax.Array) -> jax.Array:
    """(2, bins): mean and standard deviation of each bin over time."""
    return jnp.stack([spectrogram.mean(axis=0), spectrogram.std(axis=0)])


def exchange_statistics(
    weight: jax.Array, spectrogram: jax.Array, statistics: jax.Array, other: jax.Array, scale: float
) -> jax.Array:
    """Frequency-MixStyle: gives each bin a mean and a deviation between its own and those of another example.

        (x − μ) / σ · (λ σ + (1 − λ) σ′) + λ μ + (1 − λ) μ′

    K. Zhou et al., "Domain generalization with MixStyle" (ICLR 2021), on the frequency axis: F. Schmid et al., DCASE
    2022, task 1. σ is at least 0.001 in units of the natural logarithm, in place of the ε of the published code.

    Args:
        weight: λ, a scalar.
        spectrogram: (frames, bins).
        statistics, other: (2, bins) of `frequency_statistics`, of the example and of the other.
        scale: divisor of the natural logarithm in the features (`log_scale` of a frontend).
    """
    mean, deviation = statistics
    mixed_mean, mixed_deviation = weight * statistics + (1.0 - weight) * other
    ratio = mixed_deviation / jnp.maximum(deviation, 1e-3 / scale)
    return (spectrogram - mean[None]) * ratio[None] + mixed_mean[None]


def mixstyle_weight(key: jax.Array, alpha: float, probability: float) -> jax.Array:
    """λ ~ Beta(alpha, alpha) with a probability, else 1."""
    beta_key, coin_key = jax.random.split(key)
    return jnp.where(jax.random.bernoulli(coin_key, probability), symmetric_beta(beta_key, alpha), 1.0)
