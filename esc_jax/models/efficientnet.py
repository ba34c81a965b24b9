"""EfficientNet-B0 to B7 on one-channel spectrograms.

M. Tan, Q. Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019, table 1.
"""

from collections.abc import Callable
import dataclasses
import math

from flax import linen as nn
import jax
import jax.numpy as jnp

from esc_jax.models.efficientat import round_channels
from esc_jax.models.encoder import Encoded
from esc_jax.ops.batch_norm import BatchNorm
from esc_jax.ops.depthwise import depthwise_conv, pointwise_conv
from esc_jax.runtime.devices import example_keys

_conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")

# At width and depth 1: kernel, stride of the first block, expansion, input channels, output channels, blocks.
_STAGES = (
    (3, 1, 1, 32, 16, 1),
    (3, 2, 6, 16, 24, 2),
    (5, 2, 6, 24, 40, 2),
    (3, 2, 6, 40, 80, 3),
    (5, 1, 6, 80, 112, 3),
    (5, 2, 6, 112, 192, 4),
    (3, 1, 6, 192, 320, 1),
)

# Width coefficient, depth coefficient and dropout of the published variants, B0 to B7.
VARIANTS = (
    (1.0, 1.0, 0.2),
    (1.0, 1.1, 0.2),
    (1.1, 1.2, 0.3),
    (1.2, 1.4, 0.3),
    (1.4, 1.8, 0.4),
    (1.6, 2.2, 0.4),
    (1.8, 2.6, 0.5),
    (2.0, 3.1, 0.5),
)

PADDINGS = ("tf", "torch", "transformers")


@dataclasses.dataclass(frozen=True)
class BlockSpec:
    """One MBConv block: 1×1 expansion → depthwise → squeeze-and-excitation → 1×1 projection."""

    stage: int
    position: int  # within the stage
    kernel: int
    stride: int
    inputs: int
    expansion: int
    outputs: int

    @property
    def residual(self) -> bool:
        return self.stride == 1 and self.inputs == self.outputs


def layout(width_coefficient: float, depth_coefficient: float) -> tuple[BlockSpec, ...]:
    """The blocks of a variant; the stem gives the first one's inputs."""
    blocks = []
    for stage, (kernel, stride, expansion, inputs, outputs, repeats) in enumerate(_STAGES):
        inputs, outputs = round_channels(inputs * width_coefficient), round_channels(outputs * width_coefficient)
        for position in range(math.ceil(repeats * depth_coefficient)):
            first = position == 0
            block = (kernel, stride if first else 1, inputs if first else outputs, expansion, outputs)
            blocks.append(BlockSpec(stage, position, *block))
    return tuple(blocks)


def top_width(width_coefficient: float) -> int:
    """Channels of the last convolution: the size of the embedding."""
    return round_channels(1280 * width_coefficient)


def pads(rule: str, size: tuple[int, int], kernel: int, stride: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Zeros before and after along (H, W).

    "tf" is TensorFlow's SAME, which depends on the size: the output is ⌈n / s⌉ and the odd zero comes after. "torch" is
    K // 2 on both sides. "transformers" takes at stride 2 what SAME is for even sizes, (K // 2 − 1, K // 2), whatever
    the size. At stride 1 all three are the same.
    """
    if rule == "tf":
        return tuple(jax.lax.padtype_to_pads(size, (kernel, kernel), (stride, stride), "SAME"))
    before = kernel // 2 - (1 if rule == "transformers" and stride == 2 else 0)
    return ((before, kernel // 2),) * 2


@dataclasses.dataclass(frozen=True)
class Settings:
    """What every layer of one network shares."""

    epsilon: float
    momentum: float
    dtype: jnp.dtype
    axis_name: str | None


class ConvNorm(nn.Module):
    """Convolution without bias → batch normalisation → activation. (B, H, W, C) → (B, H', W', channels).

    Kernel 1 is a linear map of the channels; `depthwise` gives every channel a kernel of its own.
    """

    channels: int
    settings: Settings
    kernel: int = 1
    stride: int = 1
    padding: str = "tf"
    depthwise: bool = False
    activation: Callable[[jax.Array], jax.Array] | None = nn.silu

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        dtype, strides = self.settings.dtype, (self.stride, self.stride)
        zeros = pads(self.padding, x.shape[1:3], self.kernel, self.stride)
        if self.depthwise:
            x = Depthwise(self.kernel, strides, zeros, dtype, name="conv")(x)
        elif self.kernel == 1:
            x = Pointwise(self.channels, dtype, name="conv")(x)
        else:
            options = {"padding": zeros, "use_bias": False, "kernel_init": _conv_init, "dtype": dtype, "name": "conv"}
            x = nn.Conv(self.channels, (self.kernel, self.kernel), strides, **options)(x)
        settings = self.settings
        x = BatchNorm(settings.momentum, settings.epsilon, dtype, settings.axis_name, name="norm")(x, train)
        return x if self.activation is None else self.activation(x)


class Depthwise(nn.Module):
    """The kernel of `depthwise_conv`, (K, K, 1, C)."""

    kernel: int
    strides: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", _conv_init, (self.kernel, self.kernel, 1, x.shape[-1]))
        return depthwise_conv(x.astype(self.dtype), kernel.astype(self.dtype), self.strides, self.padding)


class Pointwise(nn.Module):
    """The kernel of `pointwise_conv`, (I, O)."""

    channels: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", _conv_init, (x.shape[-1], self.channels))
        return pointwise_conv(x.astype(self.dtype), kernel.astype(self.dtype))


class SqueezeExcitation(nn.Module):
    """x · σ(W₂ silu(W₁ mean_hw x)): channels weighted by what the whole clip holds (Hu et al., CVPR 2018)."""

    squeeze: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = x.mean((1, 2))
        scale = nn.silu(nn.Dense(self.squeeze, kernel_init=_conv_init, dtype=self.dtype, name="reduce")(scale))
        scale = nn.Dense(x.shape[-1], kernel_init=_conv_init, dtype=self.dtype, name="expand")(scale)
        return x * nn.sigmoid(scale)[:, None, None, :]


class MBConv(nn.Module):
    """One `BlockSpec`: (B, H, W, inputs) → (B, H', W', outputs).

    With a residual, training drops the branch of each example at `drop_rate` (stream "droppath") and scales those it
    keeps by 1 / (1 − drop_rate).
    """

    spec: BlockSpec
    settings: Settings
    padding: str
    drop_rate: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        spec, expanded, y = self.spec, self.spec.inputs * self.spec.expansion, x
        if spec.expansion != 1:
            y = ConvNorm(expanded, self.settings, name="expand")(y, train=train)
        depthwise = ConvNorm(
            expanded, self.settings, spec.kernel, spec.stride, self.padding, depthwise=True, name="depthwise"
        )
        y = depthwise(y, train=train)
        # A quarter of the block's own inputs, not of the expanded channels.
        y = SqueezeExcitation(max(1, spec.inputs // 4), self.settings.dtype, name="se")(y)
        y = ConvNorm(spec.outputs, self.settings, activation=None, name="project")(y, train=train)
        if not spec.residual:
            return y
        if train and self.drop_rate > 0:
            keys = example_keys(self.make_rng("droppath"), len(x))
            keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - self.drop_rate, (1, 1, 1)))(keys)
            y = jnp.where(keep, y / (1 - self.drop_rate), jnp.zeros((), y.dtype))
        return x + y


class EfficientNet(nn.Module):
    """Spectrogram (B, frames, bins) → embedding (B, top_width), the mean over the map of the last convolution.

    The spectrogram is the image, frames its height. The defaults are B0 as TensorFlow has it; google/efficientnet-b0,
    torchvision and timm differ in padding and epsilon, which the readers of their weights set.

    Attributes:
        width_coefficient: factor on every channel count (`VARIANTS`).
        depth_coefficient: factor on the blocks of every stage.
        in_channels: of the stem; above 1 the spectrogram is repeated.
        bn_epsilon: of the batch normalisation.
        bn_momentum: the share of the old average in the running statistics.
        same_padding: rule of `pads`: tf, torch or transformers.
        symmetric_blocks: numbers of the blocks that are padded as torch does under "transformers" (its
            `depthwise_padding`).
        drop_connect_rate: stochastic depth of the last block; it grows linearly from 0 at the first.
        dtype: of the computation; parameters, statistics and the embedding are float32.
        axis_name: device axis over which batch statistics are averaged in training ("batch"), or None.
    """

    width_coefficient: float = 1.0
    depth_coefficient: float = 1.0
    in_channels: int = 1
    bn_epsilon: float = 1e-3
    bn_momentum: float = 0.99
    same_padding: str = "tf"
    symmetric_blocks: tuple[int, ...] = ()
    drop_connect_rate: float = 0.2
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    @nn.nowrap
    def needs(self):
        """See `limits.check`."""
        yield self.same_padding in PADDINGS, "same_padding", f"one of {', '.join(PADDINGS)}"
        yield self.bn_momentum <= 1, "bn_momentum", "at most 1"

    @nn.compact
    def __call__(self, features: jax.Array, *, train: bool = False, padding: jax.Array | None = None) -> Encoded:
        """Map (B, H, W, top_width) and its mean. `padding` is ignored: the network has no masks."""
        del padding
        settings = Settings(self.bn_epsilon, self.bn_momentum, self.dtype, self.axis_name)
        blocks = layout(self.width_coefficient, self.depth_coefficient)
        x = jnp.broadcast_to(features[..., None], (*features.shape, self.in_channels)).astype(self.dtype)
        x = ConvNorm(blocks[0].inputs, settings, 3, 2, self.same_padding, name="stem")(x, train=train)
        for number, spec in enumerate(blocks):
            rule = "torch" if number in self.symmetric_blocks else self.same_padding
            rate = self.drop_connect_rate * number / len(blocks)
            x = MBConv(spec, settings, rule, rate, name=f"block_{number}")(x, train=train)
        x = ConvNorm(top_width(self.width_coefficient), settings, name="top")(x, train=train)
        return Encoded(embedding=x.astype(jnp.float32).mean((1, 2)), features=x)
