"""HuBERT and DistilHuBERT: raw waveform → frames at 50 Hz.

Hsu et al., "HuBERT: Self-Supervised Speech Representation Learning by Masked Prediction of Hidden Units" (2021);
Chang et al., "DistilHuBERT: Speech Representation Learning by Layer-wise Distillation of Hidden-unit BERT" (2022).
"""

from collections.abc import Iterator
import math
from typing import ClassVar, TypeVar

from flax import linen as nn
import jax
import jax.numpy as jnp

from esc_jax.models.encoder import Encoded
from esc_jax.models.limits import MAX_KERNEL, MAX_SIZE, Constraint
from esc_jax.ops.dropout import Dropout
from esc_jax.ops.grouped_conv import grouped_conv1d
from esc_jax.ops.layer_norm import LayerNorm
from esc_jax.ops.transformer import TransformerLayer, apply_layers, dense, masked_mean

Count = TypeVar("Count", int, jax.Array)


def frame_count(samples: Count, kernels: tuple[int, ...], strides: tuple[int, ...]) -> Count:
    """Number of frames of a stack of convolutions without padding: n ← ⌊(n − k) / s⌋ + 1 for each layer.

    Args:
        samples: an int, or an integer array of any shape.
        kernels, strides: of the layers.

    Returns:
        Of the type and shape of `samples`; 0 or less where the input is shorter than one frame.
    """
    for kernel, stride in zip(kernels, strides, strict=True):
        samples = (samples - kernel) // stride + 1
    return samples


class ChannelNorm(nn.Module):
    """GroupNorm with one channel per group: zero mean and unit variance over time, per clip and channel.

    (B, T, C) → (B, T, C). Statistics are float32; the variance is E[(x − mean)²]. On CPU, the backward pass of
    `flax.linen.GroupNorm` takes four times as long.
    """

    epsilon: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))[None, None]
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))[None, None]
        x = x.astype(jnp.float32)
        x = x - x.mean(1, keepdims=True)
        variance = (x * x).mean(1, keepdims=True)
        return (x * (jax.lax.rsqrt(variance + self.epsilon) * scale) + bias).astype(self.dtype)


class FeatureConv(nn.Module):
    """One layer of the waveform encoder: convolution, optional GroupNorm with one channel per group, GELU.

    (B, T, C) → (B, frames, width). The statistics of the norm include padding, as in the training of the published
    models.
    """

    width: int
    kernel: int
    stride: int
    use_bias: bool
    normalize: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel, x.shape[-1], self.width)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape).astype(self.dtype)
        x = jax.lax.conv_general_dilated(x, kernel, (self.stride,), "VALID", dimension_numbers=("NWC", "WIO", "NWC"))
        if self.use_bias:
            x = x + self.param("bias", nn.initializers.zeros, (self.width,)).astype(self.dtype)[None, None]
        if self.normalize:
            x = ChannelNorm(1e-5, self.dtype, name="norm")(x)
        return nn.gelu(x, approximate=False)


class PositionalConv(nn.Module):
    """Positional embedding: a grouped convolution over time with weight norm, then GELU; (B, T, C) → (B, T, C).

    w[k] = magnitude[k] · direction[k] / ‖direction[k]‖ for each tap k, with the norm over both channel axes (weight
    norm over dim 2 in torch's layout). The padding is K // 2 before and (K − 1) // 2 after.
    """

    kernel: int
    groups: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        shape = (self.kernel, channels // self.groups, channels)
        direction = self.param("direction", nn.initializers.he_normal(), shape)
        norm = jnp.sqrt(jnp.sum(direction * direction, (1, 2), keepdims=True))
        magnitude = self.param("magnitude", lambda _: norm)
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        kernel = (magnitude / norm) * direction
        before = self.kernel // 2
        x = grouped_conv1d(x, kernel.astype(self.dtype), self.groups, (before, self.kernel - 1 - before))
        return nn.gelu(x + bias.astype(self.dtype)[None, None], approximate=False)


class Hubert(nn.Module):
    """HuBERT encoder: (B, samples) at 16 kHz → frames of 20 ms. The defaults are those of DistilHuBERT.

    Waveform → convolutions → (LayerNorm) → projection → + positional convolution → LayerNorm → layers. Padded frames
    are set to zero after the projection and excluded from attention and pooling. A clip shorter than one frame (400
    samples) is padded with zeros to one frame, and every clip has at least one valid frame.

    Attributes:
        hidden_size … layer_norm_eps: settings of the checkpoint's config.json, with the same names.
        weighted_layer_sum: pool Σ_l softmax(w)_l · h_l over the input of the first layer and the outputs of all layers,
            instead of the last output (`use_weighted_layer_sum`).
        mask_embedding: whether the checkpoint contains the vector that replaces masked frames in SpecAugment. It is not
            used, but kept, so that an exported checkpoint is complete. Use augmentations of the waveform instead.
        layerdrop: rate at which a training example skips a layer (PRNG stream "droppath").
        dtype: of the computation; parameters, softmax and norm statistics are float32.
        remat: recompute the layers in the backward pass, to save memory.
    """

    uses_padding: ClassVar[bool] = True
    hidden_size: int = 768
    num_hidden_layers: int = 2
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    conv_dim: tuple[int, ...] = (512,) * 7
    conv_kernel: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_bias: bool = False
    feat_proj_layer_norm: bool = False
    num_conv_pos_embeddings: int = 128
    num_conv_pos_embedding_groups: int = 16
    layer_norm_eps: float = 1e-5
    weighted_layer_sum: bool = False
    mask_embedding: bool = True
    feat_proj_dropout: float = 0.0
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.1
    layerdrop: float = 0.0
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.nowrap
    def constraints(self) -> Iterator[Constraint]:
        """See `limits.check_options`."""
        width, convolutions = self.hidden_size, len(self.conv_kernel)
        for name in ("num_attention_heads", "num_conv_pos_embedding_groups"):
            yield width % getattr(self, name) == 0, name, f"a divisor of the width, {width}"
        yield max(self.conv_kernel) <= MAX_KERNEL, "conv_kernel", f"whole numbers of at most {MAX_KERNEL}"
        yield math.prod(self.conv_stride) <= MAX_SIZE, "conv_stride", f"numbers with a product of at most {MAX_SIZE}"
        for name in ("conv_dim", "conv_stride"):
            yield len(getattr(self, name)) == convolutions, name, f"{convolutions} numbers, as many as conv_kernel has"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False, padding: jax.Array | None = None) -> Encoded:
        """Encodes a batch. The embedding is the mean of the frames that are not padding.

        Args:
            x: (B, samples) of `frontends.raw`.
            train: dropout and LayerDrop are active.
            padding: (B, samples), true where the waveform is padding, which must be at its end; or None.
        """
        x = self._waveform_features(x)
        frame_padding = None
        if padding is not None:
            valid = frame_count((~padding).sum(-1), self.conv_kernel, self.conv_stride)
            frame_padding = jnp.arange(x.shape[1])[None] >= jnp.maximum(valid, 1)[:, None]
        if self.feat_proj_layer_norm:
            x = LayerNorm(self.dtype, self.layer_norm_eps, name="projection_norm")(x)
        x = dense(self.hidden_size, self.dtype, "projection")(x)
        x = Dropout(self.feat_proj_dropout)(x, train=train)
        if frame_padding is not None:
            x = jnp.where(frame_padding[..., None], jnp.zeros((), x.dtype), x)
        if self.mask_embedding:
            self.param("mask_embedding", nn.initializers.uniform(1.0), (self.hidden_size,))
        position = PositionalConv(
            self.num_conv_pos_embeddings, self.num_conv_pos_embedding_groups, self.dtype, name="position"
        )
        x = LayerNorm(self.dtype, self.layer_norm_eps, name="norm")(x + position(x))
        x = Dropout(self.hidden_dropout)(x, train=train)
        hidden = self._layers(x, frame_padding, train)
        x = hidden[-1].astype(jnp.float32)
        if self.weighted_layer_sum:
            weights = self.param("layer_weights", nn.initializers.constant(1 / len(hidden)), (len(hidden),))
            x = sum(w * h.astype(jnp.float32) for w, h in zip(jax.nn.softmax(weights), hidden, strict=True))
        return Encoded(masked_mean(x, frame_padding), x, frame_padding)

    def _waveform_features(self, x: jax.Array) -> jax.Array:
        """(B, samples) → (B, frames, conv_dim[-1])."""
        shortest = 1
        for kernel, stride in zip(reversed(self.conv_kernel), reversed(self.conv_stride), strict=True):
            shortest = (shortest - 1) * stride + kernel
        x = jnp.pad(x.astype(self.dtype), ((0, 0), (0, max(0, shortest - x.shape[1]))))[..., None]
        conv = nn.remat(FeatureConv) if self.remat else FeatureConv
        layers = zip(self.conv_dim, self.conv_kernel, self.conv_stride, strict=True)
        for i, (width, kernel, stride) in enumerate(layers):
            x = conv(width, kernel, stride, self.conv_bias, i == 0, self.dtype, name=f"conv_{i}")(x)
        return x

    def _layers(self, x: jax.Array, padding: jax.Array | None, train: bool) -> list[jax.Array]:
        """The input of the first layer and the outputs of all layers, or of the last one; each (B, frames, C)."""
        layer = TransformerLayer(
            self.num_attention_heads,
            self.intermediate_size,
            self.num_hidden_layers,
            "gelu",
            norm_first=False,
            dropout=self.hidden_dropout,
            attention_dropout=self.attention_dropout,
            activation_dropout=self.activation_dropout,
            dtype=self.dtype,
            epsilon=self.layer_norm_eps,
            parent=None,
        )
        outputs = apply_layers(
            self,
            layer,
            x,
            padding=padding,
            train=train,
            remat=self.remat,
            drop_rates=(self.layerdrop,) * self.num_hidden_layers if self.layerdrop > 0 else (),
            collect=self.weighted_layer_sum,
        )
        return [x, *outputs]
