"""Convolutions over time, (B, T, C), for networks that read waveforms.

They are expressed by the two-dimensional forms of `convolution` and `depthwise`, which choose the fast form of each
platform. The axis on which time is placed matters on CPU: a dense convolution is fastest with time as columns, and the
kernel's gradient of a depthwise convolution, a loop over rows, with time as rows.
"""

from collections.abc import Sequence

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from esc_jax.ops import convolution, depthwise


def reflect_pad(x: jax.Array, size: int) -> jax.Array:
    """Reflects `size` samples at both ends, without repeating the first and the last: (B, T, C) → (B, T + 2·size, C).

    Signals that are too short for one reflection are reflected several times.
    """
    return jnp.pad(x, ((0, 0), (size, size), (0, 0)), mode="reflect")


def conv1d(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A convolution without padding (a correlation, as usual in deep learning).

    y[b, t, o] = Σ_ki x[b, t + k, i] · kernel[k, i, o]

    Args:
        x: (B, T, I).
        kernel: (K, I, O), of the dtype of `x`.

    Returns:
        (B, T − K + 1, O).
    """
    if x.shape[-1] == 1:  # a matrix product with one input channel would be slow
        return depthwise.depthwise_conv(x[:, :, None], kernel[:, None], (1, 1), "VALID").squeeze(2)
    if len(kernel) == 1:
        return depthwise.pointwise_conv(x[:, None], kernel[0]).squeeze(1)
    return convolution.conv(x[:, None], kernel[None], (1, 1), ((0, 0), (0, 0))).squeeze(1)


def depthwise_conv1d(x: jax.Array, kernel: jax.Array, dilation: int = 1) -> jax.Array:
    """A dilated depthwise convolution without padding.

    y[b, t, c] = Σ_k x[b, t + k · dilation, c] · kernel[k, c]

    Samples whose indices differ by a multiple of the dilation do not interact with others. As a matrix with `dilation`
    columns, the signal is convolved with a column of taps.

    Args:
        x: (B, T, C).
        kernel: (K, C), of the dtype of `x`.
        dilation: distance of the taps.

    Returns:
        (B, T − (K − 1) · dilation, C).
    """
    batch, time, channels = x.shape
    length = time - (len(kernel) - 1) * dilation
    rows = jnp.pad(x, ((0, 0), (0, -time % dilation), (0, 0))).reshape(batch, -1, dilation, channels)
    y = depthwise.depthwise_conv(rows, kernel[:, None, None], (1, 1), "VALID")
    return lax.slice_in_dim(y.reshape(batch, -1, channels), 0, length, axis=1)


def triangle(stride: int) -> np.ndarray:
    """(2 · stride + 1,) the triangular low-pass filter 1, …, stride + 1, …, 1, divided by its sum."""
    half = np.arange(1, stride + 2)
    return (np.concatenate([half, half[-2::-1]]) / (stride + 1) ** 2).astype(np.float32)


def anti_aliased_downsample(x: jax.Array, stride: int) -> jax.Array:
    """Every `stride`-th sample of the signal after the low-pass filter `triangle`.

    y[b, t, c] = Σ_k f[k] · x̃[b, t · stride + k − stride, c],    x̃ = x reflected at both ends

    Source: Zhang, "Making convolutional networks shift-invariant again", ICML 2019.

    Args:
        x: (B, T, C).
        stride: factor.

    Returns:
        (B, ⌈T / stride⌉, C) in the dtype of `x`; the sum is computed in float32.
    """
    batch, time, channels = x.shape
    padded = jnp.pad(reflect_pad(x, stride), ((0, 0), (0, -time % stride), (0, 0)))
    return _filter_blocks(padded.reshape(batch, -1, stride, channels))


@jax.custom_vjp
def _filter_blocks(blocks: jax.Array) -> jax.Array:
    """(B, n + 2, stride, C) blocks of consecutive samples → (B, n, C).

    A window covers two blocks and the first sample of a third. As a product of the blocks with weights, the gradient
    is a broadcast, which XLA fuses with neighbouring operations. That of a strided convolution is not.
    """
    batch, count, stride, channels = blocks.shape[0], blocks.shape[1] - 2, blocks.shape[2], blocks.shape[3]
    total: jax.Array | float = 0.0
    for tap, weight in enumerate(triangle(stride)):
        block, sample = divmod(tap, stride)
        taps = lax.slice(blocks, (0, block, sample, 0), (batch, block + count, sample + 1, channels)).squeeze(2)
        total += taps.astype(jnp.float32) * float(weight)
    return jnp.asarray(total).astype(blocks.dtype)


def _forward(blocks: jax.Array) -> tuple[jax.Array, Sequence[None]]:
    return _filter_blocks(blocks), (None,) * blocks.shape[2]


def _backward(residuals: Sequence[None], gradient: jax.Array) -> tuple[jax.Array]:
    stride = len(residuals)
    weights = np.zeros(3 * stride, np.float32)
    weights[: 2 * stride + 1] = triangle(stride)
    total: jax.Array | float = 0.0
    for block, taps in enumerate(weights.reshape(3, 1, 1, stride, 1)):
        shifted = lax.pad(gradient, jnp.zeros((), gradient.dtype), ((0, 0, 0), (block, 2 - block, 0), (0, 0, 0)))
        total += shifted[:, :, None].astype(jnp.float32) * taps
    return (jnp.asarray(total).astype(gradient.dtype),)


_filter_blocks.defvjp(_forward, _backward)
