"""BEATs: a transformer over patches of a Kaldi filterbank.

Chen et al., "BEATs: Audio Pre-Training with Acoustic Tokenizers" (2022). The gated relative position bias is from
Chi et al., "XLM-E" (2022), the residual scaling from Wang et al., "DeepNet" (2022).
"""

from collections.abc import Iterator
import math
from typing import ClassVar

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from esc_jax.models.encoder import Encoded
from esc_jax.models.hubert import PositionalConv
from esc_jax.models.limits import Constraint
from esc_jax.ops import patches
from esc_jax.ops.activations import ACTIVATIONS
from esc_jax.ops.barrier import cuda_barrier
from esc_jax.ops.dense import Dense
from esc_jax.ops.dropout import Dropout
from esc_jax.ops.layer_norm import LayerNorm
from esc_jax.ops.transformer import TransformerLayer, apply_layers, masked_mean


class Beats(nn.Module):
    """BEATs encoder: (B, frames, bins) of `frontends.kaldi_fbank` → tokens, 8 per 160 ms at 128 bins.

    Patches of 16 × 16, time-major (frequency fastest) → linear → LayerNorm → linear → + positional convolution →
    LayerNorm → layers. Frames and bins that do not fill a patch are dropped. A clip shorter than one patch is padded by
    repeating its last frame. All layers share one relative position bias over the flattened tokens.

    Sows into "intermediates": `tokens` before the transformer, `hidden` (the input of the first layer, then the output
    of each layer) and the `attention` of each layer (B, heads, T, T).

    Attributes:
        input_patch_size … gru_rel_pos: settings of the checkpoint's cfg, with the same names. The defaults are those of
            the released base models, not of the published class.
        layer_wise_gradient_decay_ratio: factor on the gradient at the input of each layer, as in the published training
            code, in addition to layer-wise learning rates. 1 turns it off.
        encoder_layerdrop: rate at which a training example skips a layer (PRNG stream "droppath").
        dtype: of the computation; parameters, softmax, position bias and norm statistics are float32.
        remat: recompute the layers in the backward pass. For 16 clips of 5 s, the base model then keeps 0.3 GiB instead
            of 5.2. Saves nothing on CPU, where XLA schedules the recomputation early.
    """

    uses_padding: ClassVar[bool] = True
    input_patch_size: int = 16
    embed_dim: int = 512
    conv_bias: bool = False
    encoder_layers: int = 12
    encoder_embed_dim: int = 768
    encoder_ffn_embed_dim: int = 3072
    encoder_attention_heads: int = 12
    activation_fn: str = "gelu"
    layer_wise_gradient_decay_ratio: float = 1.0
    layer_norm_first: bool = False
    deep_norm: bool = True
    dropout: float = 0.0
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    encoder_layerdrop: float = 0.05
    dropout_input: float = 0.0
    conv_pos: int = 128
    conv_pos_groups: int = 16
    relative_position_embedding: bool = True
    num_buckets: int = 320
    max_distance: int = 800
    gru_rel_pos: bool = True
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.nowrap
    def constraints(self) -> Iterator[Constraint]:
        """See `limits.check_options`."""
        width = self.encoder_embed_dim
        yield width % self.encoder_attention_heads == 0, "encoder_attention_heads", f"a divisor of the width, {width}"
        yield width % self.conv_pos_groups == 0, "conv_pos_groups", f"a divisor of the width, {width}"
        yield self.activation_fn in ACTIVATIONS, "activation_fn", f"one of {', '.join(ACTIVATIONS)}"
        exact = self.num_buckets // 4
        yield exact > 0, "num_buckets", "at least 4"
        yield self.max_distance > exact, "max_distance", f"more than a quarter of num_buckets, {exact}"

    @nn.compact
    def __call__(self, features: jax.Array, *, train: bool = False, padding: jax.Array | None = None) -> Encoded:
        """Encodes a batch. The embedding is the mean of the tokens that are not padding.

        Args:
            features: (B, frames, bins).
            train: dropout and LayerDrop are active.
            padding: (B, samples), true where the waveform is padding; or None.
        """
        size = self.input_patch_size
        features = jnp.pad(features, ((0, 0), (0, max(0, size - features.shape[1])), (0, 0)), mode="edge")
        x = LayerNorm(self.dtype, name="patch_norm")(self._patches(features))
        if padding is not None:
            padding = fold_padding(fold_padding(padding, features.shape[1]), x.shape[1])
        if self.embed_dim != self.encoder_embed_dim:
            x = Dense(self.encoder_embed_dim, kernel_init=_TORCH_INIT, dtype=self.dtype, name="projection")(x)
        self.sow("intermediates", "tokens", x)
        x = Dropout(self.dropout_input)(x, train=train)
        if padding is not None:
            x = jnp.where(padding[..., None], jnp.zeros((), x.dtype), x)
        x = x + PositionalConv(self.conv_pos, self.conv_pos_groups, self.dtype, name="position")(x)
        norm = LayerNorm(self.dtype, name="norm")
        x = Dropout(self.dropout)(x if self.layer_norm_first else norm(x), train=train)
        x = self._layers(x, padding, train)
        x = (norm(x) if self.layer_norm_first else x).astype(jnp.float32)
        return Encoded(masked_mean(x, padding), x, padding, columns=features.shape[2] // size)

    def _patches(self, features: jax.Array) -> jax.Array:
        """(B, frames, bins) → embedded patches (B, tokens, embed_dim): a convolution as one matrix product."""
        x = patches.extract_patches(features, self.input_patch_size)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        return Dense(self.embed_dim, self.conv_bias, kernel_init=_TORCH_INIT, dtype=self.dtype, name="patch_embedding")(
            x
        )

    def _layers(self, x: jax.Array, padding: jax.Array | None, train: bool) -> jax.Array:
        """The transformer layers, (B, T, C) → (B, T, C)."""
        bias = None
        if self.relative_position_embedding:
            shape = (self.num_buckets, self.encoder_attention_heads)
            table = self.param("relative_bias", nn.initializers.normal(0.02), shape)
            buckets = distance_buckets(x.shape[1], self.num_buckets, self.max_distance)
            bias = cuda_barrier(table[buckets].transpose(2, 0, 1))  # else every layer gathers it again
        layer = TransformerLayer(
            self.encoder_attention_heads,
            self.encoder_ffn_embed_dim,
            self.encoder_layers,
            self.activation_fn,
            self.layer_norm_first,
            self.deep_norm,
            self.gru_rel_pos,
            self.dropout,
            self.attention_dropout,
            self.activation_dropout,
            self.dtype,
            parent=None,
        )
        outputs = apply_layers(
            self,
            layer,
            x,
            bias,
            padding,
            train=train,
            remat=self.remat,
            drop_rates=(self.encoder_layerdrop,) * self.encoder_layers if self.encoder_layerdrop > 0 else (),
            gradient=self.layer_wise_gradient_decay_ratio,
            collect=self.is_mutable_collection("intermediates"),
        )
        for hidden in (x, *outputs):
            self.sow("intermediates", "hidden", hidden)
        return outputs[-1] if outputs else x


def fold_padding(padding: jax.Array, length: int) -> jax.Array:
    """Padding mask at a lower rate: true where all n // length elements of a step are padding.

    The published code applies it twice, to frames and then to tokens. It treats the flattened tokens as consecutive in
    time, although each time step has eight of them; the released models were trained in this way.

    Args:
        padding: (B, n).
        length: of the result.

    Returns:
        (B, length).
    """
    extra = padding.shape[1] % length
    return padding[:, : padding.shape[1] - extra].reshape(padding.shape[0], length, -1).all(-1)


def distance_buckets(length: int, buckets: int, max_distance: int) -> np.ndarray:
    """Bidirectional buckets of the distances key − query (Raffel et al., "T5", 2020).

    Half of the buckets are for keys after the query. In each half, the first half of the buckets contain one distance
    each; the sizes of the others grow logarithmically up to `max_distance`.

    Args:
        length: number of tokens.
        buckets: number of buckets.
        max_distance: distances from here on share the last bucket.

    Returns:
        (length, length) integers.
    """
    distance = np.arange(length)[None] - np.arange(length)[:, None]
    half, exact = buckets // 2, buckets // 4
    size = np.abs(distance)
    # In float32 as published: rounding decides the bucket of a distance at an edge.
    ratio = np.log(np.maximum(size, 1).astype(np.float32) / np.float32(exact))
    ratio = ratio / np.float32(math.log(max_distance / exact))
    large = exact + (ratio * np.float32(half - exact)).astype(np.int32)
    return np.where(distance > 0, half, 0) + np.where(size < exact, size, np.minimum(large, half - 1))


# The default of torch for linear and convolutional layers: uniform within ±1/√fan_in.
_TORCH_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
