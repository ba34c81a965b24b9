"""EfficientNet-B0 to B7 and EfficientNet-Lite0 to Lite4 on one-channel spectrograms.

M. Tan, Q. Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019, table 1. Lite has
no squeeze-and-excitation, ReLU6 instead of SiLU, and a stem and a last convolution of the same size in all variants:
github.com/tensorflow/tpu, models/official/efficientnet/lite.
"""

from collections.abc import Callable, Iterator
import dataclasses
import math

from flax import linen as nn
import jax
import jax.numpy as jnp

from esc_jax.models.efficientat import round_channels
from esc_jax.models.encoder import Encoded
from esc_jax.models.limits import Constraint
from esc_jax.ops.batch_norm import BatchNorm
from esc_jax.ops.depthwise import depthwise_conv, pointwise_conv
from esc_jax.ops.dropout import drop_path
from esc_jax.ops.windows import Pads, Pair

_conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")

# For width and depth 1: kernel, stride of the first block, expansion, input channels, output channels, blocks.
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

# The same of Lite0 to Lite4.
LITE_VARIANTS = (*VARIANTS[:4], (1.4, 1.8, 0.3))

PADDINGS = ("tf", "torch", "transformers")
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {"silu": nn.silu, "relu6": nn.relu6}


@dataclasses.dataclass(frozen=True)
class BlockSpec:
    """One MBConv block: 1×1 expansion → depthwise → squeeze-and-excitation (not in Lite) → 1×1 projection."""

    stage: int
    position: int  # within the stage
    kernel: int
    stride: int
    inputs: int
    expansion: int
    outputs: int

    @property
    def residual(self) -> bool:
        """Whether the block has a residual connection."""
        return self.stride == 1 and self.inputs == self.outputs


def layout(
    width_coefficient: float, depth_coefficient: float, scale_stem_and_top: bool = True
) -> tuple[BlockSpec, ...]:
    """The blocks of a variant. The stem has as many channels as the first block's input.

    Args:
        width_coefficient: factor on channel counts.
        depth_coefficient: factor on the number of blocks of every stage.
        scale_stem_and_top: False: neither the stem's channels nor the number of blocks of the first and last stage.
    """
    blocks = []
    for stage, (kernel, stride, expansion, inputs, outputs, repeats) in enumerate(_STAGES):
        scaled = scale_stem_and_top or 0 < stage < len(_STAGES) - 1
        inputs = inputs if stage == 0 and not scaled else round_channels(inputs * width_coefficient)
        outputs = round_channels(outputs * width_coefficient)
        for position in range(math.ceil(repeats * (depth_coefficient if scaled else 1.0))):
            first = position == 0
            block = (kernel, stride if first else 1, inputs if first else outputs, expansion, outputs)
            blocks.append(BlockSpec(stage, position, *block))
    return tuple(blocks)


def top_width(width_coefficient: float, scale_stem_and_top: bool = True) -> int:
    """Channels of the last convolution: the size of the embedding."""
    return round_channels(1280 * width_coefficient) if scale_stem_and_top else 1280


def conv_pads(rule: str, size: Pair, kernel: int, stride: int) -> Pads:
    """Zeros before and after along (H, W).

    Args:
        rule: "tf" is TensorFlow's SAME, which depends on the size: the output has ⌈n / s⌉ elements, and an odd zero is
            added after the input. "torch" is K // 2 on both sides. "transformers" is (K // 2 − 1, K // 2) at stride 2
            for all sizes; SAME is that for even sizes. At stride 1 all three are equal.
        size: (H, W).
        kernel: K.
        stride: of the convolution.
    """
    if rule == "tf":
        rows, columns = jax.lax.padtype_to_pads(size, (kernel, kernel), (stride, stride), "SAME")
        return rows, columns
    before = kernel // 2 - (1 if rule == "transformers" and stride == 2 else 0)
    return (before, kernel // 2), (before, kernel // 2)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings that all layers of a network share."""

    epsilon: float
    momentum: float
    dtype: jnp.dtype
    axis_name: str | None
    activation: Callable[[jax.Array], jax.Array] = nn.silu
    squeeze_excitation: bool = True


class ConvNorm(nn.Module):
    """Convolution without bias → batch normalization (→ activation); (B, H, W, C) → (B, H', W', channels)."""

    channels: int
    settings: Settings
    kernel: int = 1
    stride: int = 1
    padding: str = "tf"
    depthwise: bool = False
    activate: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        dtype, strides = self.settings.dtype, (self.stride, self.stride)
        pads = conv_pads(self.padding, (x.shape[1], x.shape[2]), self.kernel, self.stride)
        if self.depthwise:
            x = Depthwise(self.kernel, strides, pads, dtype, name="conv")(x)
        elif self.kernel == 1:
            x = Pointwise(self.channels, dtype, name="conv")(x)
        else:
            x = nn.Conv(
                self.channels, (self.kernel, self.kernel), strides, pads, use_bias=False, kernel_init=_conv_init,
                dtype=dtype, name="conv",
            )(x)  # fmt: skip
        settings = self.settings
        x = BatchNorm(settings.momentum, settings.epsilon, dtype, settings.axis_name, name="norm")(x, train)
        return settings.activation(x) if self.activate else x


class Depthwise(nn.Module):
    """`depthwise_conv` as a layer, with a kernel (K, K, 1, C)."""

    kernel: int
    strides: Pair
    padding: Pads
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", _conv_init, (self.kernel, self.kernel, 1, x.shape[-1]))
        return depthwise_conv(x.astype(self.dtype), kernel.astype(self.dtype), self.strides, self.padding)


class Pointwise(nn.Module):
    """`pointwise_conv` as a layer, with a kernel (I, O)."""

    channels: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", _conv_init, (x.shape[-1], self.channels))
        return pointwise_conv(x.astype(self.dtype), kernel.astype(self.dtype))


class SqueezeExcitation(nn.Module):
    """x · σ(W₂ silu(W₁ mean_hw x)): channel weights from the mean over the clip (Hu et al., CVPR 2018)."""

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

    In training, blocks with a residual connection drop the other branch of an example at `drop_rate` (PRNG stream
    "droppath") and divide the branches of the others by 1 − drop_rate (stochastic depth).
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
        if self.settings.squeeze_excitation:
            # A quarter of the block's inputs, not of the expanded channels.
            y = SqueezeExcitation(max(1, spec.inputs // 4), self.settings.dtype, name="se")(y)
        y = ConvNorm(spec.outputs, self.settings, activate=False, name="project")(y, train=train)
        if not spec.residual:
            return y
        if train and self.drop_rate > 0:
            y = drop_path(self.make_rng("droppath"), self.drop_rate, y)
        return x + y


class EfficientNet(nn.Module):
    """Spectrogram (B, frames, bins) → embedding (B, top_width), the mean of the feature map of the last convolution.

    The spectrogram is an image whose height is time. The defaults are TensorFlow's B0. google/efficientnet-b0,
    torchvision and timm differ in padding and epsilon, which the readers of their checkpoints set. Lite0 is B0 with
    squeeze_excitation=False, activation="relu6" and scale_stem_and_top=False.

    Attributes:
        width_coefficient: factor on channel counts (`VARIANTS`, `LITE_VARIANTS`).
        depth_coefficient: factor on the number of blocks of every stage.
        squeeze_excitation: whether blocks have it.
        activation: silu or relu6.
        scale_stem_and_top: see `layout`. False also leaves the embedding at 1280.
        in_channels: of the stem; the spectrogram is repeated along them.
        bn_epsilon: of batch normalization.
        bn_momentum: weight of the old average in the running statistics.
        same_padding: rule of `conv_pads`: tf, torch or transformers.
        symmetric_blocks: indices of the blocks that use the rule "torch" whatever `same_padding` is
            (`depthwise_padding` of transformers).
        drop_connect_rate: stochastic depth of the last block; the rate grows linearly from 0 at the first.
        dtype: of the computation; parameters, statistics and the embedding are float32.
        axis_name: mapped axis over which batch statistics are averaged in training, or None.
    """

    width_coefficient: float = 1.0
    depth_coefficient: float = 1.0
    squeeze_excitation: bool = True
    activation: str = "silu"
    scale_stem_and_top: bool = True
    in_channels: int = 1
    bn_epsilon: float = 1e-3
    bn_momentum: float = 0.99
    same_padding: str = "tf"
    symmetric_blocks: tuple[int, ...] = ()
    drop_connect_rate: float = 0.2
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    @nn.nowrap
    def constraints(self) -> Iterator[Constraint]:
        """See `limits.check_options`."""
        yield self.activation in ACTIVATIONS, "activation", f"one of {', '.join(ACTIVATIONS)}"
        yield self.same_padding in PADDINGS, "same_padding", f"one of {', '.join(PADDINGS)}"
        yield self.bn_momentum <= 1, "bn_momentum", "at most 1"

    @nn.compact
    def __call__(self, features: jax.Array, *, train: bool = False, padding: jax.Array | None = None) -> Encoded:
        """Encodes (B, frames, bins). `padding` is ignored: to the published network, padding is silence."""
        del padding
        settings = Settings(
            self.bn_epsilon,
            self.bn_momentum,
            self.dtype,
            self.axis_name,
            ACTIVATIONS[self.activation],
            self.squeeze_excitation,
        )
        blocks = layout(self.width_coefficient, self.depth_coefficient, self.scale_stem_and_top)
        x = jnp.broadcast_to(features[..., None], (*features.shape, self.in_channels)).astype(self.dtype)
        x = ConvNorm(blocks[0].inputs, settings, 3, 2, self.same_padding, name="stem")(x, train=train)
        for number, spec in enumerate(blocks):
            rule = "torch" if number in self.symmetric_blocks else self.same_padding
            rate = self.drop_connect_rate * number / len(blocks)
            x = MBConv(spec, settings, rule, rate, name=f"block_{number}")(x, train=train)
        width = top_width(self.width_coefficient, self.scale_stem_and_top)
        x = ConvNorm(width, settings, name="top")(x, train=train)
        return Encoded(embedding=x.astype(jnp.float32).mean((1, 2)), features=x)
