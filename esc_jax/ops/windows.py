"""Windows that move over rows and columns, as slices: a form that CPUs run fast.

Tap (i, j) of every window at once is one strided slice of the padded input (`shifts`), so what is done with the taps
fuses into one vectorized loop.

The gradient of the input (`input_gradient`) goes the same way. Output m of a window of K taps, s apart, sees the inputs
h = s·m + i − top, i < K. So input h = s·n + a is seen only through the taps i ≡ a + top (mod s): each of the s residues
a has a gradient of stride 1 over every s-th tap, and the residues side by side are the whole. The usual form instead
puts s − 1 zeros between the outputs and multiplies them by all taps.
"""

from collections.abc import Callable, Iterator

import jax
from jax import lax
import jax.numpy as jnp

Pair = tuple[int, int]
Pads = tuple[Pair, Pair]


def pad(x: jax.Array, pads: Pads, value: float = 0.0) -> jax.Array:
    """(B, H, W, C) with `value` around its rows and columns; less than none of it cuts some off."""
    return lax.pad(x, jnp.array(value, x.dtype), ((0, 0, 0), (*pads[0], 0), (*pads[1], 0), (0, 0, 0)))


def shifts(x: jax.Array, window: Pair, strides: Pair = (1, 1)) -> Iterator[tuple[int, int, jax.Array]]:
    """i, j and what tap (i, j) of every window sees, x[:, i::s, j::t] of (B, H', W', C), row by row.

    Args:
        x: (B, H, W, C), padded.
        window: rows and columns of taps.
        strides: (s, t).
    """
    batch, height, width, channels = x.shape
    (rows, columns), (s, t) = window, strides
    high, wide = (height - rows) // s * s + 1, (width - columns) // t * t + 1
    for i in range(rows):
        for j in range(columns):
            yield i, j, lax.slice(x, (0, i, j, 0), (batch, i + high, j + wide, channels), (1, s, t, 1))


def input_gradient(
    part: Callable[[slice, slice, Pads], jax.Array],
    shape: tuple[int, int, int, int],
    window: Pair,
    outputs: Pair,
    strides: Pair,
    pads: Pads,
    dtype: jnp.dtype,
) -> jax.Array:
    """(B, H, W, C): the residues side by side.

    Args:
        part: (rows, columns, reach) → (B, ⌈H/s⌉, ⌈W/t⌉, C), of one residue: the sum over these taps, each p-th of n
            rows of them applied to the outputs' gradient with `reach` zeros around it (less than none cuts some off),
            n − 1 − p rows down; columns likewise.
        shape: (B, H, W, C) of the input.
        window: rows and columns of taps.
        outputs: (H', W').
        strides: (s, t).
        pads: zeros around the input, ((top, bottom), (left, right)).
        dtype: of the gradient.
    """
    counts = tuple(-(-size // stride) for size, stride in zip(shape[1:3], strides, strict=True))

    def along(axis: int, residue: int) -> tuple[slice, Pair]:
        """Which taps, and the zeros before and after the gradient."""
        later, first = divmod(residue + pads[axis][0], strides[axis])
        taps = slice(first, None, strides[axis])
        number = len(range(window[axis])[taps])
        low = number - 1 - later
        return taps, (low, counts[axis] - outputs[axis] - low + number - 1)

    def of(a: int, b: int) -> jax.Array:
        (rows, above), (columns, beside) = along(0, a), along(1, b)
        if not range(window[0])[rows] or not range(window[1])[columns]:  # a stride longer than the window
            return jnp.zeros((shape[0], *counts, shape[3]), dtype)
        return part(rows, columns, (above, beside))

    s, t = strides
    planes = jnp.stack([jnp.stack([of(a, b) for b in range(t)], axis=3) for a in range(s)], axis=2)
    whole = planes.reshape(shape[0], counts[0] * s, counts[1] * t, shape[3])
    return whole[:, : shape[1], : shape[2]]
