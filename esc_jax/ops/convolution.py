"""A convolution with fast gradients on CPU.

The gradient with respect to the input of a strided convolution is computed for each residue (see `windows`). XLA's
form multiplies s·t times as many numbers, most of them zeros. The gradient with respect to the kernel is a convolution
over the batch:

    dk[i, j, c, o] = Σ_bhw x̃[b, h·s + i, w·t + j, c] g[b, h, w, o],    x̃ = x padded with zeros

XLA needs images with contiguous channels for it and transposes x from (B, H, W, C) to (C, H, W, B): element by element,
in one thread. It also fuses the operations before the convolution (normalization, activation, the sum with a shortcut)
into this copy and computes them again. On two cores this was a fifth of ResNet-34's training step. The form of this
module moves the batch to the last axis by a product with the identity matrix, which is exact, as fast as memory and
not fused with other operations.
"""

from collections.abc import Callable
import functools

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from esc_jax.ops.windows import Pads, Pair, input_gradient


def _xla(x: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv(x: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads) -> jax.Array:
    """A convolution (a correlation, as usual in deep learning).

    Args:
        x: (B, H, W, I).
        kernel: (K, L, I, O), of the dtype of `x`.
        strides: (s, t), over H and W.
        pads: zeros before and after, ((top, bottom), (left, right)).

    Returns:
        (B, H', W', O).
    """
    return _xla(x, kernel, strides, pads)


def _forward(
    x: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return conv(x, kernel, strides, pads), (x, kernel)


def _backward(
    strides: Pair, pads: Pads, residuals: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals

    def by_xla(x: jax.Array, kernel: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.vjp(lambda x, kernel: _xla(x, kernel, strides, pads), x, kernel)[1](g)

    def for_cpu(x: jax.Array, kernel: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
        x_gradient = by_xla(x, kernel, g)[0] if strides == (1, 1) else _input_gradient(x, kernel, g, strides, pads)
        return x_gradient, _kernel_gradient(x, kernel, g, strides, pads)

    return lax.platform_dependent(x, kernel, g, cpu=for_cpu, default=by_xla)


def _input_gradient(x: jax.Array, kernel: jax.Array, g: jax.Array, strides: Pair, pads: Pads) -> jax.Array:
    """Gradient with respect to `x`, one residue after the other."""

    def residue_gradient(rows: slice, columns: slice, output_pads: Pads) -> jax.Array:
        return _xla(g, jnp.flip(kernel[rows, columns], (0, 1)).swapaxes(2, 3), (1, 1), output_pads)

    window, outputs = (kernel.shape[0], kernel.shape[1]), (g.shape[1], g.shape[2])
    batch, height, width, channels = x.shape
    return input_gradient(residue_gradient, (batch, height, width, channels), window, outputs, strides, pads, x.dtype)


def _kernel_gradient(x: jax.Array, kernel: jax.Array, g: jax.Array, strides: Pair, pads: Pads) -> jax.Array:
    """Gradient with respect to `kernel`, as a convolution over the batch."""
    batch, *size, channels = x.shape
    batch_last = lax.dot_general(x.reshape(batch, -1), jnp.eye(batch, dtype=x.dtype), (((0,), (0,)), ((), ())))
    # The output gradient is dilated by the strides. The padding at the end is chosen so that the result is K × L.
    kernel_pads = [
        (low, (out - 1) * stride + taps - n - low)
        for (low, _), out, stride, taps, n in zip(pads, g.shape[1:3], strides, kernel.shape[:2], size, strict=True)
    ]
    return lax.conv_general_dilated(
        batch_last.reshape(*size, channels, batch),
        g,
        (1, 1),
        kernel_pads,
        rhs_dilation=strides,
        dimension_numbers=("HWNC", "IHWO", "HWNC"),
    )


conv.defvjp(_forward, _backward)


class Conv(nn.Module):
    """`conv` as a layer without bias. Its parameter is the same as that of `flax.linen.Conv`.

    Attributes:
        features: channels of the output.
        kernel_size: rows and columns of the kernel.
        strides: over rows and columns.
        padding: zeros on every side.
        kernel_init: initializer of the kernel (rows, columns, input, output).
        dtype: of the computation.
    """

    features: int
    kernel_size: Pair
    strides: Pair = (1, 1)
    padding: int = 0
    kernel_init: Callable[..., jax.Array] = nn.initializers.lecun_normal()
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", self.kernel_init, (*self.kernel_size, x.shape[-1], self.features))
        pads = ((self.padding, self.padding), (self.padding, self.padding))
        return conv(x.astype(self.dtype), kernel.astype(self.dtype), (self.strides[0], self.strides[1]), pads)
