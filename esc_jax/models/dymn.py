"""The dynamic MobileNet of EfficientAT: the encoder of the `dymn` checkpoints at any width.

F. Schmid, K. Koutini, G. Widmer, "Dynamic Convolutional Neural Networks as Efficient Pre-trained Audio Models",
IEEE/ACM TASLP 2024 (github.com/fschmid56/EfficientAT). The layout is that of `models.efficientat`, without
squeeze-and-excitation. In every block, a context that is computed from the input of the block sets the weights of the
convolutions, the activation after the depthwise convolution, and an attention over frames and bins.
"""

from collections.abc import Callable
import functools

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from esc_jax.models.efficientat import BlockSpec, ConvNorm, layout, round_channels
from esc_jax.models.encoder import Encoded
from esc_jax.ops.batch_norm import BatchNorm

PUBLISHED_WIDTHS = (0.4, 1.0, 2.0)
KERNELS = 4  # of a dynamic convolution
PIECES = 2  # of a dynamic ReLU

_dense_init = nn.initializers.normal(0.01)


def _kernels_init(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """He initialization by the outputs of each kernel."""
    draw = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
    return jnp.stack([draw(part, shape[1:]) for part in jax.random.split(key, shape[0])])


def context_size(spec: BlockSpec, width_mult: float) -> int:
    """Size of the context of a block: a quarter of the expanded channels, between 32 and 128 times the width."""
    low, high = round_channels(32 * width_mult), round_channels(128 * width_mult)
    return min(max(round_channels(spec.expanded // 4), low), high)


class Context(nn.Module):
    """The context of a block, from the means of its input over bins and over frames.

    Both sequences pass one 1×1 convolution, a batch normalization and a hard-swish, as one sequence of length H + W.
    Its mean is the vector h. Each part is pooled to the size of the block's output, and gets a linear layer of its own.

    (B, H, W, I) → h (B, size), logits over frames (B, ⌈H/s⌉, 1, channels), logits over bins (B, 1, ⌈W/s⌉, channels)
    """

    size: int
    channels: int
    stride: int
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array, jax.Array]:
        bins = x.shape[2]
        both = jnp.concatenate([x.mean(1), x.mean(2)], axis=1)[:, :, None]
        conv_norm = functools.partial(ConvNorm, dtype=self.dtype, axis_name=self.axis_name)
        both = conv_norm(self.size, activation=nn.hard_swish, name="joint")(both, train=train).squeeze(2)
        dense = functools.partial(nn.Dense, self.channels, kernel_init=_dense_init, dtype=self.dtype)
        # Not indexed: with a batch of any size, as in an export, that is a gather.
        over_bins = dense(name="bins")(self._pool(lax.slice_in_dim(both, 0, bins, axis=1)))
        over_frames = dense(name="frames")(self._pool(lax.slice_in_dim(both, bins, None, axis=1)))
        return both.mean(1), over_frames[:, :, None], over_bins[:, None]

    def _pool(self, sequence: jax.Array) -> jax.Array:
        """The mean of three neighbours, with zeros outside, at every second position if the block halves its input."""
        if self.stride == 1:
            return sequence
        length = sequence.shape[1]
        padded = jnp.pad(sequence, [(0, 0), (1, 1), (0, 0)])
        parts = [lax.slice_in_dim(padded, k, k + length, self.stride, axis=1) for k in range(3)]
        return functools.reduce(jnp.add, parts) / 3


def depthwise_by_clip(x: jax.Array, kernels: jax.Array, stride: int) -> jax.Array:
    """A depthwise convolution with other kernels for each clip, as the sum of K² shifted products.

    XLA's convolution would have a group for each channel of each clip, which a symbolic batch size does not allow.

    Args:
        x: (B, H, W, C), which gets K // 2 zeros on every side.
        kernels: (B, K, K, 1, C).
        stride: s.

    Returns:
        (B, ⌈H/s⌉, ⌈W/s⌉, C).
    """
    size, (height, width) = kernels.shape[1], (-(-length // stride) for length in x.shape[1:3])
    x = jnp.pad(x, [(0, 0), (size // 2, size // 2), (size // 2, size // 2), (0, 0)])
    terms = []
    for i in range(size):
        rows = lax.slice_in_dim(x, i, i + stride * (height - 1) + 1, stride, axis=1)
        row = lax.slice_in_dim(kernels, i, i + 1, axis=1)
        for j in range(size):
            shifted = lax.slice_in_dim(rows, j, j + stride * (width - 1) + 1, stride, axis=2)
            terms.append(shifted * lax.slice_in_dim(row, j, j + 1, axis=2).squeeze(2))
    return functools.reduce(jnp.add, terms)


class DynamicConv(nn.Module):
    """A convolution whose kernel is a mixture for each clip, followed by batch normalization and an activation.

        k = Σ_i a_i k_i,  a = softmax((W h + b) / τ)

    (B, H, W, I), h (B, size) → (B, ⌈H/s⌉, ⌈W/s⌉, channels). Pointwise for kernel 1, else depthwise with K // 2 zeros on
    every side (Y. Chen et al., CVPR 2020).
    """

    channels: int
    kernel: int = 1
    stride: int = 1
    activation: Callable[[jax.Array], jax.Array] | None = None
    temperature: float = 1.0
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, h: jax.Array, *, train: bool) -> jax.Array:
        pointwise = self.kernel == 1
        one = (x.shape[-1], self.channels) if pointwise else (self.kernel, self.kernel, 1, self.channels)
        kernels = self.param("kernels", _kernels_init, (KERNELS, *one))
        logits = nn.Dense(KERNELS, kernel_init=_dense_init, dtype=self.dtype, name="attention")(h)
        weights = nn.softmax(logits.astype(jnp.float32) / self.temperature)
        mixed = jnp.tensordot(weights, kernels, 1).astype(self.dtype)
        x = x.astype(self.dtype)
        if pointwise:
            x = jnp.einsum("bhwi,bio->bhwo", x, mixed)
        else:
            x = depthwise_by_clip(x, mixed, self.stride)
        x = BatchNorm(momentum=0.99, epsilon=1e-3, dtype=self.dtype, axis_name=self.axis_name, name="norm")(x, train)
        return x if self.activation is None else self.activation(x)


class DynamicReLU(nn.Module):
    """y_c = max_m (α_cm x_c + β_cm): a piecewise linear function for each clip and channel (Y. Chen et al., ECCV 2020).

        α = (1, 0) + θ,  β = θ′ / 2,  θ, θ′ = 2 σ(W h + b) − 1

    (B, H, W, C), h (B, size) → (B, H, W, C).
    """

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, h: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        dense = nn.Dense(channels * 2 * PIECES, kernel_init=_dense_init, dtype=self.dtype, name="coefficients")
        theta = (2 * nn.sigmoid(dense(h)) - 1).reshape(-1, 1, 1, channels, 2 * PIECES)
        columns = [lax.index_in_dim(theta, m, axis=-1, keepdims=False) for m in range(2 * PIECES)]
        slopes = [column + float(m == 0) for m, column in enumerate(columns[:PIECES])]
        offsets = [column / 2 for column in columns[PIECES:]]
        return functools.reduce(jnp.maximum, [x * a + b for a, b in zip(slopes, offsets, strict=True)])


class DynamicBlock(nn.Module):
    """One `BlockSpec`: (B, H, W, inputs) → (B, ⌈H/s⌉, ⌈W/s⌉, outputs)."""

    spec: BlockSpec
    context: int
    temperature: float = 1.0
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        spec = self.spec
        conv = functools.partial(DynamicConv, temperature=self.temperature, dtype=self.dtype, axis_name=self.axis_name)
        context = Context(self.context, spec.expanded, spec.stride, self.dtype, self.axis_name, name="context")
        h, over_frames, over_bins = context(x, train=train)
        y = x
        if spec.expands:
            activation = nn.hard_swish if spec.hard_swish else nn.relu
            y = conv(spec.expanded, activation=activation, name="expand")(y, h, train=train)
        y = conv(spec.expanded, spec.kernel, spec.stride, name="depthwise")(y, h, train=train)
        y = DynamicReLU(self.dtype, name="relu")(y, h)
        y = y * nn.sigmoid(over_bins) * nn.sigmoid(over_frames)  # coordinate attention, Q. Hou et al., CVPR 2021
        y = conv(spec.outputs, name="project")(y, h, train=train)
        return x + y if spec.residual else y


class DyMN(nn.Module):
    """Log-mel spectrogram (B, frames, bins) → embedding (B, 6·C), the mean of the feature map of the last convolution.

    Attributes:
        width_mult: factor on every channel count; 0.4 is `dymn04` (384-d embedding), 1.0 is `dymn10` (960-d).
        temperature: τ of the mixtures of kernels. The published training lowers it from 30 to 1, its final value.
        dtype: of the computation; parameters, statistics and the embedding are float32.
        axis_name: mapped axis over which batch statistics are averaged in training, or None.
    """

    width_mult: float = 1.0
    temperature: float = 1.0
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, features: jax.Array, *, train: bool = False, padding: jax.Array | None = None) -> Encoded:
        """Encodes (B, frames, bins). `padding` is ignored: to the published network, padding is silence."""
        del padding
        conv_norm = functools.partial(ConvNorm, dtype=self.dtype, axis_name=self.axis_name)
        blocks = layout(self.width_mult)
        x = features[..., None].astype(self.dtype)
        x = conv_norm(blocks[0].inputs, 3, 2, nn.hard_swish, name="stem")(x, train=train)
        for number, spec in enumerate(blocks, start=1):
            context = context_size(spec, self.width_mult)
            block = DynamicBlock(spec, context, self.temperature, self.dtype, self.axis_name, name=f"block{number}")
            x = block(x, train=train)
        x = conv_norm(6 * blocks[-1].outputs, activation=nn.hard_swish, name="last")(x, train=train)
        return Encoded(embedding=x.astype(jnp.float32).mean((1, 2)), features=x)
