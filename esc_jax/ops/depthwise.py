"""Depthwise and pointwise convolution, the two parts of a separable convolution, with a fast form for each platform.

    y[b, h, w, c] = Σ_ij x̃[b, h·s + i, w·t + j, c] · k[i, j, c],    x̃ = x padded with zeros

On GPU and TPU this is XLA's grouped convolution. On CPU, XLA computes a grouped convolution one channel at a time, so
the CPU form is the explicit sum: the K² shifted products fuse into one vectorized loop. Automatic differentiation of
this sum would be slow (K² padded additions, K² strided reductions). The custom gradients are:

- input gradient: the same sum over the output's gradient, once for each of the s·t residues (see `windows`);
- kernel gradient: a loop over output rows, in which K vectorized accumulators stay in cache. They are reduced to one
  number per channel once, at the end.

On a CUDA GPU, the grouped convolutions of cuDNN are fast for two-dimensional kernels with strides of 1. The explicit
sum is used for the input gradient with other strides, and for one-dimensional kernels, whose gradient is the sum of the
products over all outputs. A strided convolution of a single channel is that of `convolution`.

The form is chosen when the program is lowered (`lax.platform_dependent`), not when it is traced. A step that is placed
on the CPU of a machine with a GPU, or a program that is exported for another platform, uses the right one.
"""

from collections.abc import Callable, Sequence
import functools

import jax
from jax import lax
import jax.numpy as jnp

from esc_jax.ops import sums, windows
from esc_jax.ops.convolution import space_to_depth_conv
from esc_jax.ops.windows import Pads, Pair

Residuals = tuple[jax.Array, jax.Array]


def depthwise_conv(x: jax.Array, kernel: jax.Array, strides: Pair, padding: str | Sequence[Sequence[int]]) -> jax.Array:
    """Convolves each channel with its own kernel (a correlation, as usual in deep learning).

    Args:
        x: (B, H, W, C), or (B, H, W, 1): one channel that is convolved with every kernel.
        kernel: (K, L, 1, C), of the dtype of `x`.
        strides: (s, t), over H and W.
        padding: zeros before and after, ((top, bottom), (left, right)), or "SAME" or "VALID".

    Returns:
        (B, H', W', C) in the dtype of `x`. On CPU the sum is computed in float32.
    """
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    (top, bottom), (left, right) = padding
    return _conv(x, kernel, (strides[0], strides[1]), ((int(top), int(bottom)), (int(left), int(right))))


@jax.custom_vjp
def pointwise_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A 1×1 convolution, y[b, h, w, o] = Σ_i x[b, h, w, i] · k[i, o].

    The custom gradient is a matrix product as well. Automatic differentiation finds it as the transpose of the product
    that is needed, for which the code of XLA's CPU compiler takes up to three times as long (few channels, a large
    map).

    Args:
        x: (B, H, W, I).
        kernel: (I, O), of the dtype of `x`.

    Returns:
        (B, H, W, O).
    """
    return lax.dot_general(x, kernel, (((3,), (0,)), ((), ())))


def _pointwise_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Residuals]:
    return pointwise_conv(x, kernel), (x, kernel)


def _pointwise_backward(residuals: Residuals, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    x_gradient = lax.dot_general(gradient, kernel, (((3,), (1,)), ((), ())))
    kernel_gradient = lax.dot_general(x, gradient, (((0, 1, 2), (0, 1, 2)), ((), ())))
    return x_gradient, kernel_gradient


pointwise_conv.defvjp(_pointwise_forward, _pointwise_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv(x: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads) -> jax.Array:
    shifted = functools.partial(_shifted_sum, strides=strides, pads=pads)
    grouped = functools.partial(_grouped, strides=strides, pads=pads)

    def stored(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.optimization_barrier(shifted(x, kernel))  # else XLA stores the sum in float32

    cuda: Callable[[jax.Array, jax.Array], jax.Array] = grouped
    if _is_one_dimensional(kernel):
        cuda = stored
    elif _is_stem(x, strides):
        cuda = functools.partial(space_to_depth_conv, strides=strides, pads=pads)
    return lax.platform_dependent(x, kernel, cpu=shifted, cuda=cuda, default=grouped)


def _forward(x: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads) -> tuple[jax.Array, Residuals]:
    return _conv(x, kernel, strides, pads), (x, kernel)


def _backward(strides: Pair, pads: Pads, residuals: Residuals, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals

    def shifted_input_gradient(x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> jax.Array:
        x_gradient = _input_gradient(kernel, gradient, (x.shape[1], x.shape[2]), strides, pads)
        return x_gradient if x.shape[-1] == x_gradient.shape[-1] else x_gradient.sum(-1, keepdims=True)

    def shifted(
        kernel_gradient: Callable[..., jax.Array], x: jax.Array, kernel: jax.Array, gradient: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        size = (kernel.shape[0], kernel.shape[1])
        return shifted_input_gradient(x, kernel, gradient), kernel_gradient(x, gradient, size, strides, pads)

    def grouped(x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.vjp(functools.partial(_grouped, strides=strides, pads=pads), x, kernel)[1](gradient)

    def for_cuda(x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
        if _is_one_dimensional(kernel):
            # Without a barrier, each kernel that sums products computes the gradient again.
            return shifted(_kernel_gradient_by_sums, x, kernel, lax.optimization_barrier(gradient))
        if _is_stem(x, strides):
            return jax.vjp(functools.partial(space_to_depth_conv, strides=strides, pads=pads), x, kernel)[1](gradient)
        x_gradient, kernel_gradient = grouped(x, kernel, gradient)
        if strides != (1, 1):
            x_gradient = shifted_input_gradient(x, kernel, gradient)
        return x_gradient, kernel_gradient

    cpu = functools.partial(shifted, _kernel_gradient)
    return lax.platform_dependent(x, kernel, gradient, cpu=cpu, cuda=for_cuda, default=grouped)


_conv.defvjp(_forward, _backward)


def _is_one_dimensional(kernel: jax.Array) -> bool:
    return 1 in kernel.shape[:2]


def _is_stem(x: jax.Array, strides: Pair) -> bool:
    """Whether this is a strided convolution of a single channel, as in the first layer of a network."""
    return x.shape[-1] == 1 and strides != (1, 1)


def _grouped(x: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads) -> jax.Array:
    """XLA's convolution with one group per input channel."""
    return lax.conv_general_dilated(
        x, kernel, strides, pads, dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=x.shape[-1]
    )


def _shifted_sum(x: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads) -> jax.Array:
    """Sum over the taps, each a strided slice of the padded input. Negative pads crop."""
    taps, window = kernel.astype(jnp.float32), (kernel.shape[0], kernel.shape[1])
    total: jax.Array | float = 0.0
    for i, j, values in windows.shifted_slices(windows.pad(x, pads), window, strides):
        total += values.astype(jnp.float32) * taps[i, j, 0].reshape(1, 1, 1, -1)
    return jnp.asarray(total).astype(x.dtype)


def _input_gradient(kernel: jax.Array, gradient: jax.Array, size: Pair, strides: Pair, pads: Pads) -> jax.Array:
    """(K, L, 1, C), (B, H', W', C) → (B, H, W, C) with (H, W) = `size`."""

    def residue_gradient(rows: slice, columns: slice, output_pads: Pads) -> jax.Array:
        return _shifted_sum(gradient, jnp.flip(kernel[rows, columns], (0, 1)), (1, 1), output_pads)

    batch, height, width, channels = gradient.shape
    shape, window = (batch, *size, channels), (kernel.shape[0], kernel.shape[1])
    return windows.input_gradient(residue_gradient, shape, window, (height, width), strides, pads, gradient.dtype)


def _kernel_gradient(x: jax.Array, gradient: jax.Array, size: Pair, strides: Pair, pads: Pads) -> jax.Array:
    """dk[i, j, c] = Σ_bhw x̃[b, h·s + i, w·t + j, c] · g[b, h, w, c], accumulated over the output rows h.

    x̃ is first split by the residues of its row and column index, so that every tap reads whole rows with stride 1. The
    taps of one kernel column that share a residue are then consecutive rows and form one accumulator.

    Args:
        x: (B, H, W, C).
        gradient: (B, H', W', C).
        size: (K, L), of the kernel.
        strides, pads: of the convolution.

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

    def add_row(h: jax.Array, totals: list[jax.Array]) -> list[jax.Array]:
        g = lax.dynamic_slice_in_dim(gradient, h, 1, axis=1).astype(jnp.float32)
        new = []
        for total, (a, j, taps) in zip(totals, groups, strict=True):
            window = lax.dynamic_slice(residues[a][j % t], (0, h, j // t, 0), (batch, taps, out_w, x.shape[-1]))
            new.append(total + window.astype(jnp.float32) * g)
        return new

    zeros = [jnp.zeros((batch, taps, out_w, channels), jnp.float32) for _, _, taps in groups]
    totals = lax.fori_loop(0, out_h, add_row, zeros)
    reduced = {(a, j): total.sum((0, 2)) for total, (a, j, _) in zip(totals, groups, strict=True)}
    taps = jnp.stack([reduced[i % s, j][i // s] for i in range(rows) for j in range(columns)])
    return taps.reshape(rows, columns, 1, channels).astype(x.dtype)


def _kernel_gradient_by_sums(x: jax.Array, gradient: jax.Array, size: Pair, strides: Pair, pads: Pads) -> jax.Array:
    """As `_kernel_gradient`. XLA computes each product inside the kernel that sums it, for two taps in one kernel."""
    out_h, out_w, channels = gradient.shape[1:]
    padding = []
    for (low, _), outputs, stride, length, n in zip(pads, (out_h, out_w), strides, size, x.shape[1:3], strict=True):
        padding.append((low, (outputs - 1) * stride + length - n - low))
    padded, g = windows.pad(x, (padding[0], padding[1])), gradient.astype(jnp.float32)
    parts = sums.parts(g.size // channels)
    products = (values.astype(jnp.float32) * g for _, _, values in windows.shifted_slices(padded, size, strides))
    partial = jnp.stack([product.reshape(parts, -1, channels).sum(1) for product in products])
    return partial.sum(1).reshape(*size, 1, channels).astype(x.dtype)
