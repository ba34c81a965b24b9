"""The MobileNetV3 of EfficientAT: the encoder of the `mn` checkpoints at any width.

F. Schmid, K. Koutini, G. Widmer, "Efficient Large-Scale Audio Tagging via Transformer-to-CNN Knowledge Distillation",
ICASSP 2023 (github.com/fschmid56/EfficientAT); the layout is MobileNetV3-Large, A. Howard et al., ICCV 2019, table 1.
"""

from collections.abc import Callable, Iterator
import dataclasses
import functools

from flax import linen as nn
import jax
import jax.numpy as jnp

from esc_jax.models.encoder import Encoded
from esc_jax.models.limits import Constraint
from esc_jax.ops.batch_norm import BatchNorm
from esc_jax.ops.depthwise import depthwise_conv, pointwise_conv

EMBEDDINGS = ("last", "bottlenecks", "blocks")
PUBLISHED_WIDTHS = (0.1, 0.2, 0.4, 0.5, 1.0, 2.0, 3.0, 4.0)

_conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
_dense_init = nn.initializers.normal(0.01)

# For width 1: kernel, expanded channels, output channels, squeeze-and-excitation, hard-swish (else ReLU), stride.
_ROWS = (
    (3, 16, 16, False, False, 1),
    (3, 64, 24, False, False, 2),
    (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2),
    (5, 120, 40, True, False, 1),
    (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2),
    (3, 200, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 480, 112, True, True, 1),
    (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2),
    (5, 960, 160, True, True, 1),
    (5, 960, 160, True, True, 1),
)


@dataclasses.dataclass(frozen=True)
class BlockSpec:
    """One inverted residual block: 1×1 expansion → depthwise → squeeze-and-excitation → 1×1 projection."""

    inputs: int
    kernel: int
    expanded: int
    outputs: int
    squeeze: int  # width of the bottleneck of squeeze-and-excitation; 0 without it
    hard_swish: bool
    stride: int

    @property
    def expands(self) -> bool:
        """Whether the block has an expansion. At small widths, rounding can make both channel counts equal."""
        return self.expanded != self.inputs

    @property
    def residual(self) -> bool:
        """Whether the block has a residual connection."""
        return self.stride == 1 and self.inputs == self.outputs


def round_channels(channels: float) -> int:
    """Rounds to the nearest multiple of 8, at least 8 and not more than 10 % below: the rule of all MobileNets."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def layout(width_mult: float) -> tuple[BlockSpec, ...]:
    """The fifteen blocks at a width. The stem has as many channels as the first block's input.

    The last convolution has 6 times the output channels of the last block.
    """
    inputs, blocks = round_channels(16 * width_mult), []
    for kernel, expanded, outputs, excitation, hard_swish, stride in _ROWS:
        expanded, outputs = round_channels(expanded * width_mult), round_channels(outputs * width_mult)
        squeeze = round_channels(expanded // 4) if excitation else 0
        blocks.append(BlockSpec(inputs, kernel, expanded, outputs, squeeze, hard_swish, stride))
        inputs = outputs
    return tuple(blocks)


def head_width(width_mult: float) -> int:
    """Width of the hidden layer of the published head (`heads.Mlp`)."""
    return round_channels(1280 * width_mult)


class Conv(nn.Module):
    """Convolution without bias: pointwise for kernel 1, else depthwise with K // 2 zeros on every side.

    (B, H, W, I) → (B, ⌈H/s⌉, ⌈W/s⌉, C). For K > 1, I is C, or 1 in the stem.
    """

    channels: int
    kernel: int
    stride: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.kernel == 1:
            kernel = self.param("kernel", _conv_init, (x.shape[-1], self.channels))
            return pointwise_conv(x.astype(self.dtype), kernel.astype(self.dtype))
        kernel = self.param("kernel", _conv_init, (self.kernel, self.kernel, 1, self.channels))
        pad, strides = (self.kernel // 2, self.kernel // 2), (self.stride, self.stride)
        return depthwise_conv(x.astype(self.dtype), kernel.astype(self.dtype), strides, (pad, pad))


class ConvNorm(nn.Module):
    """Convolution → batch normalization → activation."""

    channels: int
    kernel: int = 1
    stride: int = 1
    activation: Callable[[jax.Array], jax.Array] | None = None
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = Conv(self.channels, self.kernel, self.stride, self.dtype, name="conv")(x)
        # Momentum is the weight of the old average; torch's momentum, 0.01, is that of the new batch.
        x = BatchNorm(momentum=0.99, epsilon=1e-3, dtype=self.dtype, axis_name=self.axis_name, name="norm")(x, train)
        return x if self.activation is None else self.activation(x)


class SqueezeExcitation(nn.Module):
    """x · σ(W₂ ReLU(W₁ mean_hw x)): channel weights from the mean over the clip (Hu et al., CVPR 2018)."""

    squeeze: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(B, H, W, C) → the same, and the bottleneck ReLU(W₁ mean_hw x) (B, squeeze)."""
        scale = x.mean((1, 2))
        bottleneck = nn.relu(nn.Dense(self.squeeze, kernel_init=_dense_init, dtype=self.dtype, name="reduce")(scale))
        scale = nn.Dense(x.shape[-1], kernel_init=_dense_init, dtype=self.dtype, name="expand")(bottleneck)
        return x * nn.sigmoid(scale)[:, None, None, :], bottleneck


class InvertedResidual(nn.Module):
    """One `BlockSpec`: (B, H, W, inputs) → (B, ⌈H/s⌉, ⌈W/s⌉, outputs), and the bottleneck of its excitation or None."""

    spec: BlockSpec
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array | None]:
        spec = self.spec
        conv_norm = functools.partial(ConvNorm, dtype=self.dtype, axis_name=self.axis_name)
        activation = nn.hard_swish if spec.hard_swish else nn.relu
        y, bottleneck = x, None
        if spec.expands:
            y = conv_norm(spec.expanded, activation=activation, name="expand")(y, train=train)
        y = conv_norm(spec.expanded, spec.kernel, spec.stride, activation, name="depthwise")(y, train=train)
        if spec.squeeze:
            y, bottleneck = SqueezeExcitation(spec.squeeze, dtype=self.dtype, name="se")(y)
        y = conv_norm(spec.outputs, name="project")(y, train=train)
        return x + y if spec.residual else y, bottleneck


class EfficientAT(nn.Module):
    """Log-mel spectrogram (B, frames, bins) → embedding (B, 6·C), the mean of the feature map of the last convolution.

    Attributes:
        width_mult: factor on every channel count; 0.4 is `mn04` (384-d embedding), 1.0 is `mn10` (960-d).
        embedding: what follows that mean in the embedding: nothing ("last"), the bottlenecks of squeeze-and-excitation
            ("bottlenecks", as in the authors' submission to the HEAR benchmark), or the means of the outputs of all
            blocks ("blocks"). A head of the published width takes "last".
        dtype: of the computation; parameters, statistics and the embedding are float32.
        axis_name: mapped axis over which batch statistics are averaged in training, or None.
    """

    width_mult: float = 1.0
    embedding: str = "last"
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    def constraints(self) -> Iterator[Constraint]:
        """See `limits.check_options`."""
        yield self.embedding in EMBEDDINGS, "embedding", f"one of {', '.join(EMBEDDINGS)}"

    @nn.compact
    def __call__(self, features: jax.Array, *, train: bool = False, padding: jax.Array | None = None) -> Encoded:
        """Encodes (B, frames, bins). `padding` is ignored: to the published network, padding is silence."""
        del padding
        conv_norm = functools.partial(ConvNorm, dtype=self.dtype, axis_name=self.axis_name)
        blocks = layout(self.width_mult)
        x = features[..., None].astype(self.dtype)
        x = conv_norm(blocks[0].inputs, 3, 2, nn.hard_swish, name="stem")(x, train=train)
        levels = []
        for number, spec in enumerate(blocks, start=1):
            x, bottleneck = InvertedResidual(spec, self.dtype, self.axis_name, name=f"block{number}")(x, train=train)
            if self.embedding == "blocks":
                levels.append(x.astype(jnp.float32).mean((1, 2)))
            elif self.embedding == "bottlenecks" and bottleneck is not None:
                levels.append(bottleneck.astype(jnp.float32))
        x = conv_norm(6 * blocks[-1].outputs, activation=nn.hard_swish, name="last")(x, train=train)
        return Encoded(embedding=jnp.concatenate([x.astype(jnp.float32).mean((1, 2)), *levels], axis=1), features=x)
