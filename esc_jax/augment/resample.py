"""Resampling of a batch of clips by a factor that is a fraction of small whole numbers.

Speed and pitch change together, as with `waveform.crop`, but with a band-limited filter and for whole clips.
"""

from collections.abc import Callable, Sequence
import fractions
import functools

import jax
import jax.numpy as jnp
import numpy as np

from esc_jax.augment import draws

MAX_TERM = 100  # of the numerator and the denominator of a factor: the filters grow with them
_ZERO_CROSSINGS = 10  # of the filter, on each side
_KAISER_BETA = 5.0


def ratio(factor: float) -> fractions.Fraction:
    """The fraction with terms of at most `MAX_TERM` next to a factor."""
    return fractions.Fraction(factor).limit_denominator(MAX_TERM)


@functools.lru_cache(maxsize=32)
def _filters(up: int, down: int) -> tuple[np.ndarray, int]:
    """Weights (columns, up) of the samples around a block of `down` for its `up` results, and the blocks before it.

    The low-pass filter is the windowed sinc of `scipy.signal.resample_poly`: ten zero crossings on each side, in a
    Kaiser window.
    """
    rate = max(up, down)
    half = _ZERO_CROSSINGS * rate
    taps = np.arange(-half, half + 1)
    kernel = np.sinc(taps / rate) * np.kaiser(2 * half + 1, _KAISER_BETA)
    kernel *= up / kernel.sum()
    before = -(-(half // up + 1) // down)
    after = -(-(half + up * down) // up // down)
    columns = np.arange(-before * down, (after + 1) * down)
    place = half + down * np.arange(up)[None, :] - up * columns[:, None]
    weights = np.where((place >= 0) & (place <= 2 * half), kernel[np.clip(place, 0, 2 * half)], 0.0)
    return weights.astype(np.float32), before


def resample(waveform: jax.Array, up: int, down: int) -> jax.Array:
    """Resamples by the factor up / down: (…, time) → (…, ⌈time · up / down⌉).

    Equal to `scipy.signal.resample_poly(waveform, up, down)`. Computed as a product of blocks of `down` samples, and
    their neighbours, with a matrix: without a gather or a convolution of one channel, which are slow on CPU.

    Args:
        waveform: (…, time).
        up, down: whole numbers without a common divisor.
    """
    weights, before = _filters(up, down)
    time = waveform.shape[-1]
    length = -(-time * up // down)
    count = -(-length // up)
    window = weights.shape[0] // down
    padding = (before * down, (count + window - 1 - before) * down - time)
    leading = waveform.shape[:-1]
    blocks = jnp.pad(waveform, [(0, 0)] * len(leading) + [padding]).reshape(*leading, count + window - 1, down)
    rows = jnp.concatenate([blocks[..., n : n + count, :] for n in range(window)], axis=-1)
    # By default, accelerators round to 10 or 7 bits.
    resampled = jnp.matmul(rows, jnp.asarray(weights), precision=jax.lax.Precision.HIGHEST)
    return resampled.reshape(*leading, -1)[..., :length]


def _place(waveform: jax.Array, time: int, offset: jax.Array) -> jax.Array:
    """(…, length) → (…, time): a window of it, or the waveform within zeros, at a share of the possible places."""
    spare = abs(waveform.shape[-1] - time)
    if waveform.shape[-1] < time:
        waveform = jnp.pad(waveform, [(0, 0)] * (waveform.ndim - 1) + [(spare, spare)])
    start = (offset * (spare + 1)).astype(jnp.int32)
    return jax.lax.dynamic_slice_in_dim(waveform, start, time, axis=-1)


def random_resample(
    key: jax.Array,
    positions: jax.Array,
    audio: jax.Array,
    factors: Sequence[float],
    probability: float = 0.5,
    draw: str = "batch",
) -> jax.Array:
    """Resamples the whole batch, or some of its examples, by one of several factors.

    The length stays the same: a longer result is cut to a random window, a shorter one is placed at random within
    zeros. EAT (Gazneli et al. 2022) resamples half of its batches by 0.8, 0.9, 1.1 or 1.2.

    Args:
        key: PRNG key.
        positions: (B,) positions of the examples in the global batch.
        audio: (B, time).
        factors: lengths relative to the clip; above 1 the sounds are longer and lower.
        probability: of a change.
        draw: "batch" for one factor and one place for the global batch; "example" for each example alone, at the cost
            of all factors.

    Returns:
        (B, time).
    """
    time = audio.shape[-1]
    terms = [(ratio(factor).numerator, ratio(factor).denominator) for factor in factors]

    def choose(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Index of the factor, from 1, or 0 for none; and the offset."""
        coin_key, factor_key, place_key = jax.random.split(key, 3)
        coin = jax.random.bernoulli(coin_key, probability)
        return jnp.where(coin, jax.random.randint(factor_key, (), 1, len(terms) + 1), 0), jax.random.uniform(place_key)

    def change(terms: tuple[int, int], audio: jax.Array, offset: jax.Array) -> jax.Array:
        return _place(resample(audio, *terms), time, offset)

    if draw == "batch":
        index, offset = choose(key)
        ways: list[Callable[..., jax.Array]] = [lambda audio, offset: audio]
        ways += [functools.partial(change, pair) for pair in terms]
        changed: jax.Array = jax.lax.switch(index, ways, audio, offset)
        return changed
    index, offset = jax.vmap(choose)(draws.keys_at(key, positions))
    place = jax.vmap(_place, (0, None, 0))
    results = [place(resample(audio, *pair), time, offset) for pair in terms]
    return jnp.select([index[:, None] == n for n in range(1, len(terms) + 1)], results, audio)
