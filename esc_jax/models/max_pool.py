"""Maximum over windows, in forms that each platform computes fast.

XLA's own gradient (select and scatter) runs one element at a time on CPU, and its maximum takes longer than one of
slices. There the maximum is one of shifted slices; for the gradient, the place of each window's maximum is found again,
and every input collects from the few windows that it lies in, residue by residue (`residues`).
"""

import functools

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from esc_jax.models.residues import Pads, Pair, input_gradient


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
    lowest = jnp.array(-jnp.inf, x.dtype)
    padded = lax.pad(x, lowest, ((0, 0, 0), (*pads[0], 0), (*pads[1], 0), (0, 0, 0)))
    batch, height, width, channels = padded.shape
    (rows, columns), (s, t) = window, strides
    out_h, out_w = (height - rows) // s + 1, (width - columns) // t + 1
    largest = place = None
    for i in range(rows):
        for j in range(columns):
            last = (batch, i + (out_h - 1) * s + 1, j + (out_w - 1) * t + 1, channels)
            one = lax.slice(padded, (0, i, j, 0), last, (1, s, t, 1))
            if place is None:
                largest, place = one, jnp.zeros(one.shape, jnp.int32)
            else:
                place = jnp.where(one > largest, i * columns + j, place)
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
    none = jnp.zeros((), gradient.dtype)
    batch, *outputs, channels = gradient.shape
    shape = (batch, *size, channels)

    def part(rows: slice, columns: slice, reach: Pads) -> jax.Array:
        around = ((0, 0, 0), (*reach[0], 0), (*reach[1], 0), (0, 0, 0))
        placed, given = lax.pad(place, jnp.array(-1, place.dtype), around), lax.pad(gradient, none, around)
        rows, columns = range(window[0])[rows], range(window[1])[columns]
        size = (batch, given.shape[1] - len(rows) + 1, given.shape[2] - len(columns) + 1, channels)
        total = jnp.zeros(size, gradient.dtype)
        for p, i in enumerate(reversed(rows)):
            for q, j in enumerate(reversed(columns)):
                first = (0, p, q, 0)
                last = tuple(low + count for low, count in zip(first, size, strict=True))
                hit = lax.slice(placed, first, last) == i * window[1] + j
                total += jnp.where(hit, lax.slice(given, first, last), none)
        return total

    return input_gradient(part, shape, window, tuple(outputs), strides, pads, gradient.dtype)
