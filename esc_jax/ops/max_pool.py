"""Max pooling with a fast form for each platform.

On CPU, XLA computes the gradient of max pooling (select and scatter) one element at a time, and its maximum is slower
than the maximum of shifted slices. The CPU form of this module is the maximum of shifted slices. Its gradient locates
the maximum of each window again; every input then sums the gradients of the windows that contain it (see `windows`).
On a CUDA GPU, the gradient of XLA is a scatter, which adds in an order that changes from run to run. The gradient of
this module is used there too.
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

    Where several elements of a window are the largest, the gradient goes to the first of them in row-major order.

    Args:
        x: (B, H, W, C).
        window: rows and columns.
        strides: (s, t).
        pads: ((top, bottom), (left, right)), each less than the window.

    Returns:
        (B, H', W', C).
    """

    def of_slices(x: jax.Array) -> jax.Array:
        return _max_and_index(x, window, strides, pads)[0]

    return lax.platform_dependent(x, cpu=of_slices, default=lambda x: nn.max_pool(x, window, strides, pads))


def _forward(x: jax.Array, window: Pair, strides: Pair, pads: Pads) -> tuple[jax.Array, jax.Array]:
    return max_pool(x, window, strides, pads), x


def _backward(window: Pair, strides: Pair, pads: Pads, x: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    def by_xla(x: jax.Array, gradient: jax.Array) -> jax.Array:
        return jax.vjp(lambda x: nn.max_pool(x, window, strides, pads), x)[1](gradient)[0]

    def by_index(x: jax.Array, gradient: jax.Array) -> jax.Array:
        index = _max_and_index(x, window, strides, pads)[1]
        return _input_gradient(index, gradient, (x.shape[1], x.shape[2]), window, strides, pads)

    return (lax.platform_dependent(x, gradient, cpu=by_index, cuda=by_index, default=by_xla),)


max_pool.defvjp(_forward, _backward)


def _max_and_index(x: jax.Array, window: Pair, strides: Pair, pads: Pads) -> tuple[jax.Array, jax.Array]:
    """The first largest element of each window and its index i · columns + j, both (B, H', W', C)."""
    slices = windows.shifted_slices(windows.pad(x, pads, -jnp.inf), window, strides)
    _, _, largest = next(slices)
    index = jnp.zeros(largest.shape, jnp.int32)
    for i, j, values in slices:
        index = jnp.where(values > largest, i * window[1] + j, index)
        largest = jnp.maximum(largest, values)
    return largest, index


def _input_gradient(
    index: jax.Array, gradient: jax.Array, size: Pair, window: Pair, strides: Pair, pads: Pads
) -> jax.Array:
    """Sum of the gradients of the windows whose largest element an input is.

    Args:
        index: (B, H', W', C), of `_max_and_index`.
        gradient: (B, H', W', C).
        size: (H, W) of the input.
        window, strides, pads: as for `max_pool`.

    Returns:
        (B, H, W, C).
    """
    batch, height, width, channels = gradient.shape
    zero = jnp.zeros((), gradient.dtype)

    def residue_gradient(rows: slice, columns: slice, output_pads: Pads) -> jax.Array:
        # The first window that contains an input contains it at its last tap.
        row_taps, column_taps = range(window[0])[rows][::-1], range(window[1])[columns][::-1]
        taps, total = (len(row_taps), len(column_taps)), zero
        indices = windows.shifted_slices(windows.pad(index, output_pads, -1), taps)
        gradients = windows.shifted_slices(windows.pad(gradient, output_pads), taps)
        for (p, q, position), (_, _, value) in zip(indices, gradients, strict=True):
            total += jnp.where(position == row_taps[p] * window[1] + column_taps[q], value, zero)
        return total

    shape = (batch, *size, channels)
    return windows.input_gradient(residue_gradient, shape, window, (height, width), strides, pads, gradient.dtype)
