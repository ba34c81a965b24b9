"""EAT: one-dimensional convolutions on the waveform and a small transformer.

A. Gazneli, G. Zimerman, T. Ridnik, G. Sharir, A. Noy, "End-to-End Audio Strikes Back: Boosting Augmentations Towards
An Efficient Audio Classification Network", 2022 (arXiv 2204.11479). The defaults are EAT-S.
"""

from collections.abc import Iterator
from typing import Any

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from esc_jax.models.encoder import Encoded
from esc_jax.models.limits import MAX_SIZE, MAX_TABLE, Constraint
from esc_jax.models.patch_transformer import grid_positions
from esc_jax.ops import conv1d
from esc_jax.ops.batch_norm import BatchNorm
from esc_jax.ops.layer_norm import LayerNorm
from esc_jax.ops.transformer import TransformerLayer, apply_layers

_MAX_STRIDE, _MAX_KERNEL, _MAX_BLOCKS = 16, 63, 6
_SLOPE = 0.2
_init = nn.initializers.normal(0.02)


class Conv(nn.Module):
    """`conv1d` of the signal, reflected by K // 2 samples: (B, T, I) → (B, T, features) for an odd K.

    Attributes:
        features: output channels.
        kernel_size: K.
        bias: add a bias.
        dtype: of the computation.
    """

    features: int
    kernel_size: int = 1
    bias: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", _init, (self.kernel_size, x.shape[-1], self.features))
        x = x.astype(self.dtype)
        if self.kernel_size > 1:
            x = conv1d.reflect_pad(x, self.kernel_size // 2)
        y = conv1d.conv1d(x, kernel.astype(self.dtype))
        if not self.bias:
            return y
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return y + bias.astype(self.dtype)[None, None]


class DepthwiseConv(nn.Module):
    """Dilated depthwise convolution of the reflected signal: (B, T, C) → (B, T, C) for an odd kernel size."""

    kernel_size: int
    dilation: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", _init, (self.kernel_size, x.shape[-1]))
        x = conv1d.reflect_pad(x.astype(self.dtype), self.dilation * (self.kernel_size // 2))
        return conv1d.depthwise_conv1d(x, kernel.astype(self.dtype), self.dilation)


class NormActivation(nn.Module):
    """Batch normalization → LeakyReLU."""

    dtype: jnp.dtype
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        norm = BatchNorm(momentum=0.9, dtype=self.dtype, axis_name=self.axis_name, name="norm")
        return nn.leaky_relu(norm(x, train), _SLOPE)


class Down(nn.Module):
    """Convolution to twice the channels, then anti-aliased downsampling: (B, T, C) → (B, ⌈T / stride⌉, 2·C)."""

    stride: int
    dtype: jnp.dtype
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = Conv(2 * x.shape[-1], self.stride + 1, dtype=self.dtype, name="conv")(x)
        x = NormActivation(self.dtype, self.axis_name, name="out")(x, train)
        return conv1d.anti_aliased_downsample(x, self.stride)


class Block(nn.Module):
    """Wx + b + f(x) + g(x): a 1×1 shortcut, a 1×1 convolution f and a dilated depthwise one g; (B, T, C) → (B, T, C).

    f and g are followed by batch normalization and LeakyReLU.
    """

    kernel_size: int
    dilation: int
    dtype: jnp.dtype
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        features = x.shape[-1]
        time = DepthwiseConv(self.kernel_size, self.dilation, self.dtype, name="time_conv")(x)
        time = NormActivation(self.dtype, self.axis_name, name="time")(time, train)
        mixed = Conv(features, dtype=self.dtype, name="channel_conv")(x)
        mixed = NormActivation(self.dtype, self.axis_name, name="channel")(mixed, train)
        return Conv(features, bias=True, dtype=self.dtype, name="shortcut")(x) + mixed + time


class Eat(nn.Module):
    """Waveform (B, samples) → embedding (B, embed_dim), the class token after the transformer.

    The stem is a convolution with 7 taps. Each stride of `stem_strides` and `stage_strides` is a `Down`. In the stem, a
    `Block` follows every other one, from the first. Each stage begins with `stage_blocks` blocks with dilations 1, 3,
    9, …. Convolutions reflect the signal at its ends.

    The transformer is post-norm, with a class token and learned positions. For a clip with more tokens than positions,
    the positions are interpolated linearly. A clip with fewer uses the first ones, in training a random part.

    All weights are initialized from N(0, 0.02), token and positions with zeros. The published code initializes the
    linear layers of the transformer with torch's defaults.

    Attributes:
        width: channels of the stem's convolution, doubled by every `Down`.
        stem_strides: strides of the stem.
        stage_strides: strides of the stages.
        stage_blocks: blocks of a stage.
        kernel_size: taps of the depthwise convolutions, an odd number.
        embed_dim: width of the transformer.
        layers, heads, ffn: of the transformer.
        positions: number of learned positions, without that of the class token.
        dropout: rate in the transformer: attention weights, activations and outputs.
        dtype: of the computation; parameters, statistics, softmax and the embedding are float32.
        axis_name: mapped axis over which batch statistics are averaged in training, or None.
        remat: recompute blocks and layers in the backward pass, to save memory.
    """

    width: int = 16
    stem_strides: tuple[int, ...] = (4, 4, 4, 4)
    stage_strides: tuple[int, ...] = (2, 2)
    stage_blocks: int = 3
    kernel_size: int = 15
    embed_dim: int = 128
    layers: int = 4
    heads: int = 8
    ffn: int = 512
    positions: int = 112
    dropout: float = 0.1
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None
    remat: bool = False

    @nn.nowrap
    def constraints(self) -> Iterator[Constraint]:
        """See `limits.check_options`."""
        for name in ("stem_strides", "stage_strides"):
            yield max(getattr(self, name)) <= _MAX_STRIDE, name, f"whole numbers of at most {_MAX_STRIDE}"
        channels = self.width << (len(self.stem_strides) + len(self.stage_strides))
        yield channels <= MAX_SIZE, "width", f"so small that the last stage has at most {MAX_SIZE} channels"
        yield self.stage_blocks <= _MAX_BLOCKS, "stage_blocks", f"at most {_MAX_BLOCKS}"
        yield self.kernel_size % 2 == 1, "kernel_size", "an odd number"
        yield self.kernel_size <= _MAX_KERNEL, "kernel_size", f"at most {_MAX_KERNEL}"
        yield self.embed_dim % self.heads == 0, "heads", f"a divisor of the width, {self.embed_dim}"
        size = (self.positions + 1) * self.embed_dim
        yield size <= MAX_TABLE, "positions", f"so small that positions · embed_dim is at most {MAX_TABLE}"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False, padding: jax.Array | None = None) -> Encoded:
        """Encodes a batch.

        Args:
            x: (B, samples).
            train: use batch statistics and dropout.
            padding: ignored: padding is silence.

        Returns:
            Embedding (B, embed_dim) and tokens (B, T, embed_dim), one for the product of the strides samples.
        """
        del padding
        x = self._convolve(x[..., None].astype(self.dtype), train)
        x = Conv(self.embed_dim, bias=True, dtype=self.dtype, name=f"stage{len(self.stage_strides) + 1}_projection")(x)
        x = self._transform(x, train).astype(jnp.float32)
        # By `lax`: with a symbolic batch size, indices are gathered, which exported files do not support.
        return Encoded(lax.index_in_dim(x, 0, axis=1, keepdims=False), lax.slice_in_dim(x, 1, None, axis=1))

    def _convolve(self, x: jax.Array, train: bool) -> jax.Array:
        """Stem and stages: (B, samples, 1) → (B, T, channels)."""
        run: dict[str, Any] = {"dtype": self.dtype, "axis_name": self.axis_name}
        modules: tuple[Any, ...] = (Down, Block)
        down, block = (nn.remat(module, static_argnums=(2,)) if self.remat else module for module in modules)
        x = Conv(self.width, 7, dtype=self.dtype, name="stem_conv")(x)
        x = NormActivation(**run, name="stem_out")(x, train)
        for i, stride in enumerate(self.stem_strides, start=1):
            x = down(stride, **run, name=f"stem_down{i}")(x, train)
            if i % 2:
                x = block(self.kernel_size, 1, **run, name=f"stem_block{i}")(x, train)
        for i, stride in enumerate(self.stage_strides, start=1):
            for j in range(self.stage_blocks):
                x = block(self.kernel_size, 3**j, **run, name=f"stage{i}_block{j + 1}")(x, train)
            x = down(stride, **run, name=f"stage{i}_down{self.stage_blocks + 1}")(x, train)
        return x

    def _transform(self, x: jax.Array, train: bool) -> jax.Array:
        """Transformer with the class token as the first one: (B, T, embed_dim) → (B, 1 + T, embed_dim)."""
        batch, tokens, width = x.shape
        token = self.param("class_token", nn.initializers.zeros, (1, width))
        table = self.param("position", nn.initializers.zeros, (1 + self.positions, width))
        key = self.make_rng("droppath") if train and tokens < self.positions else None
        places = grid_positions(table[1:, None], batch, tokens, 1, key).squeeze(2)
        first = jnp.broadcast_to((token + table[:1])[None], (batch, 1, width))
        x = jnp.concatenate([first.astype(self.dtype), x + places.astype(self.dtype)], axis=1)
        layer = TransformerLayer(
            self.heads, self.ffn, self.layers, activation="gelu", norm_first=False, dropout=self.dropout,
            attention_dropout=self.dropout, activation_dropout=self.dropout, dtype=self.dtype, parent=None,
        )  # fmt: skip
        *_, x = x, *apply_layers(self, layer, x, train=train, remat=self.remat)
        return LayerNorm(self.dtype, name="last")(x)
