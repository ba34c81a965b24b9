"""Overlapping windows of a waveform."""

import jax
import jax.numpy as jnp


def frame(waveform: jax.Array, size: int, hop: int) -> jax.Array:
    """(..., time) → (..., frames, size): every window of `size` samples that fits, `hop` apart.

    A gather: on CPU it took a quarter of the time of slices side by side, which are copied twice.
    """
    frames = 1 + (waveform.shape[-1] - size) // hop
    return waveform[..., hop * jnp.arange(frames)[:, None] + jnp.arange(size)[None, :]]
