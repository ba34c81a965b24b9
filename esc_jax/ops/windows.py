"""Sliding windows over rows and columns, computed as slices: a form that XLA compiles to fast code for CPUs.

Tap (i, j) of all windows together is one strided slice of the padded input (`shifted_slices`). Operations on the taps
fuse into one vectorized loop.

`input_gradient` uses the same form for the gradient with respect to the input. Output m of a window of K taps and
stride s depends on the inputs h = s·m + i − top, i < K. So input h = s·n + a contributes only through the taps
i ≡ a + top (mod s): for each of the s residues a, the gradient is a correlation of stride 1 with every s-th tap. The
results of all residues are interleaved. The usual form inserts s − 1 zeros between the outputs' gradients and
multiplies them by all taps.
"""

from collections.abc import Callable, Iterator

import jax
from jax import lax
import jax.numpy as jnp

Pair = tuple[int, int]
Pads = tuple[Pair, Pair]


def pad(x: jax.Array, pads: Pads, value: float = 0.0) -> jax.Array:
    """Pads rows and columns with a constant.

    Args:
        x: (B, H, W, C).
        pads: ((top, bottom), (left, right)); negative numbers crop.
        value: of the padding.
    """
    return lax.pad(x, jnp.array(value, x.dtype), ((0, 0, 0), (*pads[0], 0), (*pads[1], 0), (0, 0, 0)))


def shifted_slices(x: jax.Array, window: Pair, strides: Pair = (1, 1)) -> Iterator[tuple[int, int, jax.Array]]:
    """Iterates over the taps of all windows, row by row.

    Args:
        x: (B, H, W, C), padded.
        window: rows and columns of taps.
        strides: (s, t).

    Yields:
        i, j and the inputs at tap (i, j) of all windows, x[:, i::s, j::t] of shape (B, H', W', C).
    """
    batch, height, width, channels = x.shape
    (rows, columns), (s, t) = window, strides
    row_span, column_span = (height - rows) // s * s + 1, (width - columns) // t * t + 1
    for i in range(rows):
        for j in range(columns):
            stop = (batch, i + row_span, j + column_span, channels)
            yield i, j, lax.slice(x, (0, i, j, 0), stop, (1, s, t, 1))


def input_gradient(
    residue_gradient: Callable[[slice, slice, Pads], jax.Array],
    shape: tuple[int, int, int, int],
    window: Pair,
    outputs: Pair,
    strides: Pair,
    pads: Pads,
    dtype: jnp.dtype,
) -> jax.Array:
    """Gradient with respect to the input of windows, from one function that computes it for a single residue.

    Args:
        residue_gradient: (rows, columns, pads) → (B, ⌈H/s⌉, ⌈W/t⌉, C), the sum over the taps in these slices of rows
            and columns. Row p of the n selected rows is applied to the outputs' gradient, padded by `pads` (negative
            numbers crop), at a shift of n − 1 − p; columns likewise.
        shape: (B, H, W, C) of the input.
        window: rows and columns of taps.
        outputs: (H', W').
        strides: (s, t).
        pads: zeros around the input, ((top, bottom), (left, right)).
        dtype: of the gradient.

    Returns:
        (B, H, W, C).
    """
    counts = tuple(-(-size // stride) for size, stride in zip(shape[1:3], strides, strict=True))

    def taps_and_pads(axis: int, residue: int) -> tuple[slice, Pair]:
        delay, first = divmod(residue + pads[axis][0], strides[axis])
        taps = slice(first, None, strides[axis])
        number = len(range(window[axis])[taps])
        low = number - 1 - delay
        return taps, (low, counts[axis] - outputs[axis] - low + number - 1)

    def plane(a: int, b: int) -> jax.Array:
        (rows, row_pads), (columns, column_pads) = taps_and_pads(0, a), taps_and_pads(1, b)
        if not range(window[0])[rows] or not range(window[1])[columns]:  # a stride longer than the window
            return jnp.zeros((shape[0], *counts, shape[3]), dtype)
        return residue_gradient(rows, columns, (row_pads, column_pads))

    s, t = strides
    planes = jnp.stack([jnp.stack([plane(a, b) for b in range(t)], axis=3) for a in range(s)], axis=2)
    interleaved = planes.reshape(shape[0], counts[0] * s, counts[1] * t, shape[3])
    return interleaved[:, : shape[1], : shape[2]]
