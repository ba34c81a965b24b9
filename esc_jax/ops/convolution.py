"""A convolution whose gradients XLA's CPU compiler computes fast.

The gradient of a strided convolution's input is taken residue by residue (`windows`): XLA's own multiplies s·t times
as much, nearly all of it zeros. The gradient of a kernel is a convolution over the batch:

    dk[i, j, c, o] = Σ_bhw x̃[b, h·s + i, w·t + j, c] g[b, h, w, o],    x̃ = x padded with zeros

XLA has one for images whose channels lie side by side in memory, and so turns x around first, (B, H, W, C) to
(C, H, W, B): element by element, in one thread, and computed again from what came before (normalisation, activation,
the sum with a shortcut), because it fuses that into the copy. On two cores this was a fifth of ResNet-34's training
step. Here the batch is brought to the end by a product with the identity: exact, as fast as memory, and nothing is
fused into it.
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
    """A correlation, as everywhere in deep learning.

    Args:
        x: (B, H, W, I).
        kernel: (K, L, I, O), of the dtype of `x`.
        strides: (s, t), over H and W.
        pads: zeros before and after, ((top, bottom), (left, right)).
    Returns:
        (B, H', W', O).
    """
    return _xla(x, kernel, strides, pads)


def _forward(x, kernel, strides, pads):
    return conv(x, kernel, strides, pads), (x, kernel)


def _backward(strides, pads, residuals, g):
    x, kernel = residuals

    def by_xla(x, kernel, g):
        return jax.vjp(lambda x, kernel: _xla(x, kernel, strides, pads), x, kernel)[1](g)

    def by_parts(x, kernel, g):
        return to_x(x, kernel, g), to_kernel(x, kernel, g)

    def to_x(x, kernel, g):
        if tuple(strides) == (1, 1):
            return by_xla(x, kernel, g)[0]

        def part(rows: slice, columns: slice, reach: Pads) -> jax.Array:
            return _xla(g, jnp.flip(kernel[rows, columns], (0, 1)).swapaxes(2, 3), (1, 1), reach)

        return input_gradient(part, x.shape, kernel.shape[:2], g.shape[1:3], strides, pads, x.dtype)

    def to_kernel(x, kernel, g):
        batch, *size, channels = x.shape
        last = lax.dot_general(x.reshape(batch, -1), jnp.eye(batch, dtype=x.dtype), (((0,), (0,)), ((), ())))
        # The gradient's own places are `strides` apart; what is added at the end makes K × L of them fit.
        fitting = [
            (low, (out - 1) * stride + taps - n - low)
            for (low, _), out, stride, taps, n in zip(pads, g.shape[1:3], strides, kernel.shape[:2], size, strict=True)
        ]
        return lax.conv_general_dilated(
            last.reshape(*size, channels, batch),
            g,
            (1, 1),
            fitting,
            rhs_dilation=strides,
            dimension_numbers=("HWNC", "IHWO", "HWNC"),
        )

    return lax.platform_dependent(x, kernel, g, cpu=by_parts, default=by_xla)


conv.defvjp(_forward, _backward)


class Conv(nn.Module):
    """`conv` without bias, its kernel a parameter, as `flax.linen.Conv` has it.

    Attributes:
        features: channels of the output.
        size: rows and columns of the kernel.
        strides: over rows and columns.
        pad: zeros on every side.
        kernel_init: of the kernel (rows, columns, input, output).
        dtype: of the computation.
    """

    features: int
    size: Pair
    strides: Pair = (1, 1)
    pad: int = 0
    kernel_init: Callable[..., jax.Array] = nn.initializers.lecun_normal()
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", self.kernel_init, (*self.size, x.shape[-1], self.features))
        pads = ((self.pad, self.pad), (self.pad, self.pad))
        return conv(x.astype(self.dtype), kernel.astype(self.dtype), tuple(self.strides), pads)
