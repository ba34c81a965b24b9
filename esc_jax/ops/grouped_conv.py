"""The grouped one-dimensional convolution of positional embeddings, with a fast form for each platform.

HuBERT, wav2vec 2.0 and BEATs add a convolution over time with 128 taps in 16 groups. `lax.conv_general_dilated` is used
on TPU. On CPU its gradient with respect to the kernel falls back to a scalar loop: for a batch (4, 249, 768) on two
cores it takes 25 s, and the form of this module 0.5 s. The forward pass takes 0.3 s and 0.2 s. On a CUDA GPU, cuDNN
computes it without tensor cores: on an H200, its kernels took more time than all others of a training step of BEATs.
The form of this module consists of matrix products; docs/results/gpu.md has a training step of BEATs with it.
"""

from collections.abc import Callable
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from esc_jax.ops.windows import Pair


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def grouped_conv1d(x: jax.Array, kernel: jax.Array, groups: int, padding: Pair) -> jax.Array:
    """Grouped convolution over time with stride 1.

    y[b, t, g·o + j] = Σ_k Σ_i x[b, t + k − padding[0], g·i' + i] · kernel[k, i, g·o + j], as
    `lax.conv_general_dilated` computes it with dimension numbers ("NWC", "WIO", "NWC").

    Differentiable in reverse mode only. The form is chosen separately for the forward and the backward pass, so that
    only (x, kernel) is kept for the backward pass, not the intermediates of every platform.

    Args:
        x: (B, T, C).
        kernel: (K, C / groups, O); the output channels of one group are consecutive.
        groups: number of groups, a divisor of C and O.
        padding: zeros before and after.

    Returns:
        (B, T + Σ padding − K + 1, O) in the dtype of x.
    """
    return jax.lax.platform_dependent(
        x,
        kernel,
        cpu=functools.partial(_overlap_save, groups, padding),
        cuda=functools.partial(_overlap_save, groups, padding),
        default=functools.partial(_direct, groups, padding),
    )


def _forward(
    x: jax.Array, kernel: jax.Array, groups: int, padding: Pair
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return grouped_conv1d(x, kernel, groups, padding), (x, kernel)


def _backward(
    groups: int, padding: Pair, residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    def gradient(
        form: Callable[..., jax.Array], x: jax.Array, kernel: jax.Array, cotangent: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        return jax.vjp(functools.partial(form, groups, padding), x, kernel)[1](cotangent)

    return jax.lax.platform_dependent(
        *residuals,
        cotangent,
        cpu=functools.partial(gradient, _overlap_save),
        cuda=functools.partial(gradient, _overlap_save),
        default=functools.partial(gradient, _direct),
    )


grouped_conv1d.defvjp(_forward, _backward)


def _direct(groups: int, padding: Pair, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (1,), [padding], dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=groups
    )


def _overlap_save(groups: int, padding: Pair, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The same by overlap-save: blocks of N samples are multiplied with the kernel frequency by frequency.

    Cross-correlation is Y[f] = X[f] · conj(W[f]), and of N circular samples the first N − K + 1 are not wrapped. The
    transforms are matrix products with cosines and sines. At these lengths they cost no more than an FFT with its
    transpositions, and their results have the layout of the batched product over (frequency, group).
    A block of 1.5 kernels balances the transform of the kernel, which grows with N, against the number of blocks.
    """
    dtype, compute = x.dtype, jnp.float64 if x.dtype == jnp.float64 else jnp.float32
    (batch, time, _), (taps, width, outputs) = x.shape, kernel.shape
    length = time + sum(padding) - taps + 1
    size = min(time + sum(padding), 2 * math.ceil(0.75 * taps))
    hop = size - taps + 1
    blocks = math.ceil(length / hop)
    x = jnp.pad(x.astype(compute), ((0, 0), (padding[0], blocks * hop + taps - 1 - time - padding[0]), (0, 0)))
    x = jnp.stack([x[:, i * hop : i * hop + size] for i in range(blocks)], 1)

    to_spectrum, to_time = (jnp.asarray(a, compute) for a in _dft(size))
    spectrum = jnp.einsum("rfn,banc->rfbac", to_spectrum, x).reshape(2, -1, batch * blocks, groups, width)
    filters = jnp.einsum("rfk,kio->rfio", to_spectrum[:, :, :taps], kernel.astype(compute))
    filters = filters.reshape(2, -1, width, groups, outputs // groups)
    products = jnp.einsum("rfbgi,qfigo->fgrbqo", spectrum, filters)
    real = products[:, :, 0, :, 0] + products[:, :, 1, :, 1]
    imaginary = products[:, :, 1, :, 0] - products[:, :, 0, :, 1]
    y = jnp.einsum("rfs,rfgbo->bsgo", to_time[:, :, :hop], jnp.stack([real, imaginary]))
    return y.reshape(batch, blocks * hop, outputs)[:, :length].astype(dtype)


@functools.lru_cache
def _dft(size: int) -> tuple[np.ndarray, np.ndarray]:
    """The real Fourier transform and its inverse as matrices (real and imaginary part, frequencies, samples)."""
    frequencies = np.arange(size // 2 + 1)
    # The product is reduced modulo the size first: the cosine of a large angle loses digits.
    angle = 2 * np.pi / size * (np.outer(frequencies, np.arange(size)) % size)
    forward = np.stack([np.cos(angle), -np.sin(angle)])
    # All frequencies except zero and Nyquist also stand for their conjugates.
    weight = np.where((frequencies == 0) | (2 * frequencies == size), 1, 2) / size
    return forward, forward * weight[None, :, None]
