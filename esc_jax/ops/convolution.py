"""A convolution with fast gradients on CPU, and with a fast form for few input channels on a CUDA GPU.

On CPU, the gradient with respect to the input of a strided convolution is computed for each residue (see `windows`).
XLA's form multiplies s·t times as many numbers, most of them zeros. The gradient with respect to the kernel is a
convolution over the batch:

    dk[i, j, c, o] = Σ_bhw x̃[b, h·s + i, w·t + j, c] g[b, h, w, o],    x̃ = x padded with zeros

XLA needs images with contiguous channels for it and transposes x from (B, H, W, C) to (C, H, W, B): element by element,
in one thread. It also fuses the operations before the convolution (normalization, activation, the sum with a shortcut)
into this copy and computes them again. On two cores this was a fifth of ResNet-34's training step. The form of this
module moves the batch to the last axis by a product with the identity matrix, which is exact, as fast as memory and
not fused with other operations.

On a CUDA GPU, cuDNN's kernels for a single input channel do not use the tensor cores: the first convolution of
ResNet-34 took 8 % of the time of a training step. With strides (s, t), blocks of s × t inputs are read as s·t channels,
and the convolution has strides of 1 over blocks (space to depth).
"""

from collections.abc import Callable
import functools

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from esc_jax.ops import windows
from esc_jax.ops.windows import Pads, Pair, input_gradient

_FEW_CHANNELS = 4  # below, cuDNN has no kernels for tensor cores
_CHANNEL_MULTIPLE = 8  # of input channels, for tensor cores


def _xla(x: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _one_dimensional(x: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads) -> jax.Array:
    """As `conv`, for inputs and kernels of one row."""
    y = lax.conv_general_dilated(
        x.squeeze(1), kernel.squeeze(0), strides[1:], pads[1:], dimension_numbers=("NWC", "WIO", "NWC")
    )
    return y[:, None]


def space_to_depth_conv(x: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads) -> jax.Array:
    """As `conv`, with strides of 1 over blocks of s × t inputs, whose elements are channels."""
    (s, t), (rows, columns, channels, _) = strides, kernel.shape
    row_blocks, column_blocks = -(-rows // s), -(-columns // t)
    kernel = windows.pad(kernel.transpose(3, 0, 1, 2), ((0, row_blocks * s - rows), (0, column_blocks * t - columns)))
    kernel = _blocks(kernel, strides).transpose(1, 2, 3, 0)
    padding = []
    for size, taps, stride, blocks, (low, high) in zip(
        x.shape[1:3], (rows, columns), strides, (row_blocks, column_blocks), pads, strict=True
    ):
        outputs = (size + low + high - taps) // stride + 1
        padding.append((low, (outputs - 1 + blocks) * stride - size - low))
    x = _blocks(windows.pad(x, (padding[0], padding[1])), strides)
    missing = -(s * t * channels) % _CHANNEL_MULTIPLE
    x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, missing)))
    kernel = jnp.pad(kernel, ((0, 0), (0, 0), (0, missing), (0, 0)))
    return _xla(x, kernel, (1, 1), ((0, 0), (0, 0)))


def _blocks(x: jax.Array, size: Pair) -> jax.Array:
    """Blocks of s × t pixels as channels: (B, H·s, W·t, C) → (B, H, W, s·t·C)."""
    (batch, height, width, channels), (s, t) = x.shape, size
    x = x.reshape(batch, height // s, s, width // t, t, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // s, width // t, s * t * channels)


def _use_space_to_depth(kernel: jax.Array, strides: Pair) -> bool:
    return kernel.shape[2] < _FEW_CHANNELS and strides != (1, 1)


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
    if not _use_space_to_depth(kernel, strides):
        return _xla(x, kernel, strides, pads)
    return lax.platform_dependent(
        x,
        kernel,
        cuda=lambda x, kernel: space_to_depth_conv(x, kernel, strides, pads),
        default=lambda x, kernel: _xla(x, kernel, strides, pads),
    )


def _forward(
    x: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return conv(x, kernel, strides, pads), (x, kernel)


def _backward(
    strides: Pair, pads: Pads, residuals: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals

    def gradients_of(form: Callable[..., jax.Array]) -> Callable[..., tuple[jax.Array, jax.Array]]:
        return lambda x, kernel, g: jax.vjp(lambda x, kernel: form(x, kernel, strides, pads), x, kernel)[1](g)

    by_xla, cuda = gradients_of(_xla), gradients_of(_form_for_cuda_gradients(x, kernel, strides, pads))

    def for_cpu(x: jax.Array, kernel: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
        x_gradient = by_xla(x, kernel, g)[0] if strides == (1, 1) else _input_gradient(x, kernel, g, strides, pads)
        return x_gradient, _kernel_gradient(x, kernel, g, strides, pads)

    return lax.platform_dependent(x, kernel, g, cpu=for_cpu, cuda=cuda, default=by_xla)


def _form_for_cuda_gradients(x: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads) -> Callable[..., jax.Array]:
    if _use_space_to_depth(kernel, strides):
        return space_to_depth_conv
    return _one_dimensional if x.shape[1] == len(kernel) == 1 and pads[0] == (0, 0) else _xla


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
