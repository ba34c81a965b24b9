"""Spectrograms as grids of square patches."""

import jax
import jax.numpy as jnp
import numpy as np


def grid(frames: int, bins: int, size: int, stride: int = 0) -> tuple[int, int]:
    """(rows, columns) of the patches that fit, in time and in frequency; `stride` 0 is `size`: side by side."""
    stride = stride or size
    return max(0, (frames - size) // stride + 1), max(0, (bins - size) // stride + 1)


def cut(features: jax.Array, size: int, stride: int = 0) -> jax.Array:
    """(B, frames, bins) → (B, rows, columns, size · size): every patch that fits, `stride` apart (0: side by side).

    What does not fill a patch is dropped. A patch is flattened with its bins fastest.
    """
    stride = stride or size
    batch, frames, bins = features.shape
    rows, columns = grid(frames, bins, size, stride)
    if stride == size:
        x = features[:, : rows * size, : columns * size].reshape(batch, rows, size, columns, size)
    else:
        x = features[:, np.arange(rows)[:, None] * stride + np.arange(size)]
        x = x[..., np.arange(columns)[:, None] * stride + np.arange(size)]
    return jnp.swapaxes(x, 2, 3).reshape(batch, rows, columns, size * size)


def spread(cells: jax.Array, size: int, shape: tuple[int, int]) -> jax.Array:
    """(B, rows, columns) → (B, frames, bins): the value of its patch in every place; zero (False) beyond the grid."""
    x = jnp.repeat(jnp.repeat(cells, size, axis=1), size, axis=2)
    return jnp.pad(x, [(0, 0), (0, shape[0] - x.shape[1]), (0, shape[1] - x.shape[2])])


def resample(cells: jax.Array, rows: int, columns: int) -> jax.Array:
    """(B, r, c, D) → (B, rows, columns, D), by bilinear interpolation, averaging where it gets coarser."""
    if cells.shape[1:3] == (rows, columns):
        return cells
    return jax.image.resize(cells, (len(cells), rows, columns, cells.shape[-1]), "linear")
