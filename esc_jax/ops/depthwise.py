"""Depthwise and pointwise convolution, the two halves of a separable one, at the speed each platform has for them.

    y[b, h, w, c] = Σ_ij x̃[b, h·s + i, w·t + j, c] · k[i, j, c],    x̃ = x padded with zeros

On GPU and TPU this is XLA's grouped convolution. On CPU XLA runs that one channel at a time, so there the sum is
written out: the K² shifted products fuse into one vectorized loop. Automatic differentiation of that sum would be
slow again (K² padded additions, K² strided reductions), hence the rule of its own:

- input gradient: the same sum over the output's gradient, one for each of the s·t residues (`windows`);
- kernel gradient: a loop over output rows, in which K vectorized accumulators stay in cache; the reduction to one
  number a channel comes once, at the end.

The platform is chosen when the program is lowered (`lax.platform_dependent`), not when it is traced: a step placed on
the CPU of a GPU machine, or a program exported from one platform for another, gets the right one.
"""

from collections.abc import Sequence
import functools

import jax
from jax import lax
import jax.numpy as jnp

from esc_jax.ops import windows
from esc_jax.ops.windows import Pads, Pair


def depthwise_conv(x: jax.Array, kernel: jax.Array, strides: Pair, padding: str | Sequence[Sequence[int]]) -> jax.Array:
    """Each channel convolved with its own kernel (a correlation, as everywhere in deep learning).

    Args:
        x: (B, H, W, C), or (B, H, W, 1): one channel that every kernel sees, as in the first layer on a spectrogram.
        kernel: (K, L, 1, C), of the dtype of `x`.
        strides: (s, t), over H and W.
        padding: zeros before and after, ((top, bottom), (left, right)), or "SAME" or "VALID".
    Returns:
        (B, H', W', C), summed in float32 on CPU, of the dtype of `x`.
    """
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    return _conv(x, kernel, tuple(strides), tuple((int(low), int(high)) for low, high in padding))


@jax.custom_vjp
def pointwise_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A 1×1 convolution, y[b, h, w, o] = Σ_i x[b, h, w, i] · k[i, o].

    The derivative is a product of matrices again, and automatic differentiation would find it; but as the transpose of
    the one needed, with which XLA's CPU compiler takes up to three times as long (few channels, a large map).

    Args:
        x: (B, H, W, I).
        kernel: (I, O), of the dtype of `x`.
    Returns:
        (B, H, W, O).
    """
    return lax.dot_general(x, kernel, (((3,), (0,)), ((), ())))


def _pointwise_forward(x, kernel):
    return pointwise_conv(x, kernel), (x, kernel)


def _pointwise_backward(residuals, gradient):
    x, kernel = residuals
    to_x = lax.dot_general(gradient, kernel, (((3,), (1,)), ((), ())))
    to_kernel = lax.dot_general(x, gradient, (((0, 1, 2), (0, 1, 2)), ((), ())))
    return to_x, to_kernel


pointwise_conv.defvjp(_pointwise_forward, _pointwise_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv(x: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads) -> jax.Array:
    return lax.platform_dependent(
        x,
        kernel,
        cpu=functools.partial(_shifted_sum, strides=strides, pads=pads),
        default=functools.partial(_grouped, strides=strides, pads=pads),
    )


def _forward(x, kernel, strides, pads):
    return _conv(x, kernel, strides, pads), (x, kernel)


def _backward(strides, pads, residuals, gradient):
    x, kernel = residuals

    def shifted(x, kernel, gradient):
        to_x = _input_gradient(kernel, gradient, x.shape[1:3], strides, pads)
        if x.shape[-1] != to_x.shape[-1]:
            to_x = to_x.sum(-1, keepdims=True)
        return to_x, _kernel_gradient(x, gradient, kernel.shape[:2], strides, pads)

    def grouped(x, kernel, gradient):
        return jax.vjp(functools.partial(_grouped, strides=strides, pads=pads), x, kernel)[1](gradient)

    return lax.platform_dependent(x, kernel, gradient, cpu=shifted, default=grouped)


_conv.defvjp(_forward, _backward)


def _grouped(x: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads) -> jax.Array:
    """XLA's own convolution with one group for each channel of the input."""
    return lax.conv_general_dilated(
        x, kernel, strides, pads, dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=x.shape[-1]
    )


def _shifted_sum(x: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads) -> jax.Array:
    """The sum over taps, each a strided slice of the padded input; pads may be negative, which crops."""
    taps, total = kernel.astype(jnp.float32), 0.0
    for i, j, shifted in windows.shifts(windows.pad(x, pads), kernel.shape[:2], strides):
        total += shifted.astype(jnp.float32) * taps[i, j, 0].reshape(1, 1, 1, -1)
    return total.astype(x.dtype)


def _input_gradient(kernel: jax.Array, gradient: jax.Array, size: Pair, strides: Pair, pads: Pads) -> jax.Array:
    """(K, L, 1, C), (B, H', W', C) → (B, H, W, C), `size` being (H, W)."""

    def part(rows: slice, columns: slice, reach: Pads) -> jax.Array:
        return _shifted_sum(gradient, jnp.flip(kernel[rows, columns], (0, 1)), (1, 1), reach)

    batch, *outputs, channels = gradient.shape
    shape = (batch, *size, channels)
    return windows.input_gradient(part, shape, kernel.shape[:2], tuple(outputs), strides, pads, gradient.dtype)


def _kernel_gradient(x: jax.Array, gradient: jax.Array, size: Pair, strides: Pair, pads: Pads) -> jax.Array:
    """dk[i, j, c] = Σ_bhw x̃[b, h·s + i, w·t + j, c] · g[b, h, w, c], one output row h after the other.

    x̃ is first split by the residues of its row and column index, so that every tap reads whole rows with stride 1; the
    taps of one kernel column that share a residue are then consecutive rows, and one accumulator.

    Args:
        x: (B, H, W, C).
        gradient: (B, H', W', C).
        size: (K, L), of the kernel.
    Returns:
        (K, L, 1, C).
    """
    batch, out_h, out_w, channels = gradient.shape
    (s, t), (rows, columns) = strides, size
    high, wide = out_h + (rows - 1) // s, out_w + (columns - 1) // t
    (top, _), (left, _) = pads
    bottom, right = high * s - top - x.shape[1], wide * t - left - x.shape[2]
    padded = windows.pad(x, ((top, bottom), (left, right)))
    residues = [[padded[:, a::s, b::t] for b in range(t)] for a in range(s)]
    groups = [(a, j, len(range(a, rows, s))) for a in range(min(s, rows)) for j in range(columns)]

    def add_row(h, totals):
        g = lax.dynamic_slice_in_dim(gradient, h, 1, axis=1).astype(jnp.float32)
        new = []
        for total, (a, j, taps) in zip(totals, groups, strict=True):
            window = lax.dynamic_slice(residues[a][j % t], (0, h, j // t, 0), (batch, taps, out_w, x.shape[-1]))
            new.append(total + window.astype(jnp.float32) * g)
        return new

    zeros = [jnp.zeros((batch, taps, out_w, channels), jnp.float32) for _, _, taps in groups]
    totals = lax.fori_loop(0, out_h, add_row, zeros)
    sums = {(a, j): total.sum((0, 2)) for total, (a, j, _) in zip(totals, groups, strict=True)}
    taps = jnp.stack([sums[i % s, j][i // s] for i in range(rows) for j in range(columns)])
    return taps.reshape(rows, columns, 1, channels).astype(x.dtype)
