"""Maximum over windows, in forms that each platform computes fast.

XLA's own gradient (select and scatter) runs one element at a time on CPU, and its maximum takes longer than one of
slices. There the maximum is one of shifted slices; for the gradient, the place of each window's maximum is found again,
and every input collects from the few windows that it lies in, residue by residue (`windows`).
"""

import functools

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from esc_jax.ops import windows
from esc_jax.ops.windows import Pads, Pair


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def max_pool(x: jax.Array, window: Pair, strides: Pair, pads: Pads) -> jax.Array:
    """y[b, h, w, c] = max_ij x̃[b, h·s + i, w·t + j, c],  x̃ = x padded with −∞.

    Where several are the largest, the gradient goes to the first of them, row by row.

    Args:
        x: (B, H, W, C).
        window: rows and columns.
        strides: (s, t).
        pads: ((top, bottom), (left, right)), each less than the window.
    Returns:
        (B, H', W', C).
    """

    def shifted(x):
        return _largest(x, window, strides, pads)[0]

    return lax.platform_dependent(x, cpu=shifted, default=lambda x: nn.max_pool(x, window, strides, pads))


def _forward(x, window, strides, pads):
    return max_pool(x, window, strides, pads), x


def _backward(window, strides, pads, x, gradient):
    def scattered(x, gradient):
        return jax.vjp(lambda x: nn.max_pool(x, window, strides, pads), x)[1](gradient)[0]

    def collected(x, gradient):
        return _collect(_largest(x, window, strides, pads)[1], gradient, x.shape[1:3], window, strides, pads)

    return (lax.platform_dependent(x, gradient, cpu=collected, default=scattered),)


max_pool.defvjp(_forward, _backward)


def _largest(x: jax.Array, window: Pair, strides: Pair, pads: Pads) -> tuple[jax.Array, jax.Array]:
    """(B, H', W', C) twice: each window's first largest element, and its place, i · columns + j."""
    largest = place = None
    for i, j, one in windows.shifts(windows.pad(x, pads, -jnp.inf), window, strides):
        if place is None:
            largest, place = one, jnp.zeros(one.shape, jnp.int32)
        else:
            place = jnp.where(one > largest, i * window[1] + j, place)
            largest = jnp.maximum(largest, one)
    return largest, place


def _collect(place: jax.Array, gradient: jax.Array, size: Pair, window: Pair, strides: Pair, pads: Pads) -> jax.Array:
    """What every input gets of the windows whose largest element it is.

    Args:
        place: (B, H', W', C), of `_largest`.
        gradient: (B, H', W', C).
        size: (H, W) of the input.
    Returns:
        (B, H, W, C).
    """
    batch, *outputs, channels = gradient.shape
    shape = (batch, *size, channels)
    none = jnp.zeros((), gradient.dtype)

    def part(rows: slice, columns: slice, reach: Pads) -> jax.Array:
        # The window that sees an input through its last tap is the first that sees it.
        rows, columns = range(window[0])[rows][::-1], range(window[1])[columns][::-1]
        taps, total = (len(rows), len(columns)), none
        placed = windows.shifts(windows.pad(place, reach, -1), taps)
        given = windows.shifts(windows.pad(gradient, reach), taps)
        for (p, q, at), (_, _, value) in zip(placed, given, strict=True):
            total += jnp.where(at == rows[p] * window[1] + columns[q], value, none)
        return total

    return windows.input_gradient(part, shape, window, tuple(outputs), strides, pads, gradient.dtype)
