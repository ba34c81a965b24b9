"""Spectrograms as grids of square patches."""

import jax
from jax import lax
import jax.numpy as jnp


def patch_grid(frames: int, bins: int, size: int, stride: int = 0) -> tuple[int, int]:
    """Number of whole patches in time and in frequency.

    Args:
        frames, bins: shape of the spectrogram.
        size: frames and bins of a patch.
        stride: distance of patches; 0 for `size`, without overlap.

    Returns:
        (rows, columns).
    """
    stride = stride or size
    return max(0, (frames - size) // stride + 1), max(0, (bins - size) // stride + 1)


def extract_patches(features: jax.Array, size: int, stride: int = 0) -> jax.Array:
    """Splits spectrograms into patches. Frames and bins that do not fill a patch are dropped.

    Args:
        features: (B, frames, bins).
        size, stride: as for `patch_grid`.

    Returns:
        (B, rows, columns, size · size); each patch is flattened with the bins as its fastest axis.
    """
    stride = stride or size
    batch, frames, bins = features.shape
    rows, columns = patch_grid(frames, bins, size, stride)
    # By `lax.slice`: with a symbolic batch size, indices are gathered, which exported files do not support.
    if stride == size:
        x = lax.slice(features, (0, 0, 0), (batch, rows * size, columns * size))
        x = x.reshape(batch, rows, size, columns, size)
    else:
        x = _windows(_windows(features, 2, columns, size, stride), 1, rows, size, stride)
    return jnp.swapaxes(x, 2, 3).reshape(batch, rows, columns, size * size)


def _windows(x: jax.Array, axis: int, count: int, size: int, stride: int) -> jax.Array:
    """Replaces an axis by two: `count` windows, `stride` apart, of `size` elements."""
    span = (count - 1) * stride + 1
    elements = [lax.slice_in_dim(x, i, i + span, stride, axis) for i in range(size)]
    return jnp.concatenate([jnp.expand_dims(one, axis + 1) for one in elements], axis + 1)


def patches_to_pixels(grid: jax.Array, size: int, shape: tuple[int, int]) -> jax.Array:
    """Repeats the value of each patch at all of its frames and bins.

    Args:
        grid: (B, rows, columns), one value per patch.
        size: frames and bins of a patch; patches do not overlap.
        shape: (frames, bins) of the result.

    Returns:
        (B, frames, bins), zero (or False) outside the patches.
    """
    x = jnp.repeat(jnp.repeat(grid, size, axis=1), size, axis=2)
    return jnp.pad(x, [(0, 0), (0, shape[0] - x.shape[1]), (0, shape[1] - x.shape[2])])


def resample(grid: jax.Array, rows: int, columns: int) -> jax.Array:
    """Resamples a grid of vectors by bilinear interpolation, with antialiasing where it becomes coarser.

    Args:
        grid: (B, r, c, D).
        rows, columns: of the result.

    Returns:
        (B, rows, columns, D).
    """
    if grid.shape[1:3] == (rows, columns):
        return grid
    return jax.image.resize(grid, (len(grid), rows, columns, grid.shape[-1]), "linear")
