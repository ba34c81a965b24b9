"""BEATs: a transformer over patches of a Kaldi filterbank.

Chen et al., "BEATs: Audio Pre-Training with Acoustic Tokenizers" (2022). The gated relative position bias is that of
Chi et al., "XLM-E" (2022), the residual scaling that of Wang et al., "DeepNet" (2022).
"""

from collections.abc import Callable
import functools
import math

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from esc_jax.models.dropout import Dropout, skip_rows
from esc_jax.models.encoder import Encoded
from esc_jax.models.hubert import PositionalConv

ACTIVATIONS: dict[str, Callable] = {
    "gelu": functools.partial(nn.gelu, approximate=False),
    "gelu_fast": functools.partial(nn.gelu, approximate=True),
    "gelu_accurate": functools.partial(nn.gelu, approximate=True),
    "relu": nn.relu,
    "tanh": jnp.tanh,
    "linear": lambda x: x,
}


class Attention(nn.Module):
    """Multi-head self-attention with a gated position bias; (B, T, C) → (B, T, C).

    softmax(q·kᵀ / √d + gate ⊙ bias) v. The gate is one number per head and query, of the unscaled query:
    (a, b) = sigmoid of the two sums over four of q·W + c; gate = a·(b·s − 1) + 2, s learned per head.
    """

    heads: int
    gated: bool
    dropout: float
    deep_gain: float | None
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, bias: jax.Array | None, padding: jax.Array | None, train: bool) -> jax.Array:
        batch, time, channels = x.shape
        size = channels // self.heads

        def project(name, gain):
            y = _dense(channels, self.dtype, name, None if self.deep_gain is None else gain)(x)
            return y.reshape(batch, time, self.heads, size)

        query, key, value = project("query", 1.0), project("key", 1.0), project("value", self.deep_gain)
        scores = jnp.einsum("bqhd,bkhd->bhqk", query * size**-0.5, key, preferred_element_type=jnp.float32)
        if self.gated:  # the parameters are there even where there is no bias to gate
            gate = _dense(8, self.dtype, "gate")(query).astype(jnp.float32)
            a, b = jnp.moveaxis(nn.sigmoid(gate.reshape(batch, time, self.heads, 2, 4).sum(-1)), -1, 0)
            scale = self.param("gate_scale", nn.initializers.ones, (self.heads,))
            gate = a * (b * scale[None, None] - 1.0) + 2.0
            bias = None if bias is None else jnp.moveaxis(gate, -1, 1)[..., None] * bias[None]
        elif bias is not None:
            bias = jnp.broadcast_to(bias[None], scores.shape)
        if bias is not None:
            scores = scores + bias
        if padding is not None:
            # Finite, so that a clip that is padding throughout gives numbers.
            scores = jnp.where(padding[:, None, None], jnp.finfo(jnp.float32).min, scores)
        weights = nn.softmax(scores, -1)
        self.sow("intermediates", "attention", weights)
        weights = Dropout(self.dropout)(weights.astype(self.dtype), train=train)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, value).reshape(batch, time, channels)
        return _dense(channels, self.dtype, "out", self.deep_gain)(mixed)


class Layer(nn.Module):
    """One transformer layer; (B, T, C) → (B, T, C).

    Norm after: x ← LN(α·x + attention(x)), x ← LN(α·x + feed-forward(x)), with α = (2·layers)^¼ under deep norm and
    1 without. Norm before: x ← x + attention(LN(x)), x ← x + feed-forward(LN(x)).
    """

    heads: int
    width: int
    layers: int
    activation: str
    norm_first: bool
    deep_norm: bool
    gated: bool
    dropout: float
    attention_dropout: float
    activation_dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, bias: jax.Array | None, padding: jax.Array | None, train: bool) -> jax.Array:
        def dropout(y, rate):
            return Dropout(rate)(y, train=train)

        gain = (8 * self.layers) ** -0.25 if self.deep_norm else None
        alpha = (2 * self.layers) ** 0.25 if self.deep_norm else 1.0
        attention = Attention(self.heads, self.gated, self.attention_dropout, gain, self.dtype, name="attention")
        attention_norm, output_norm = (_norm(self.dtype, name) for name in ("attention_norm", "output_norm"))
        intermediate = _dense(self.width, self.dtype, "intermediate", gain)
        output = _dense(x.shape[-1], self.dtype, "output", gain)

        def attend(y):
            return dropout(attention(y, bias, padding, train), self.dropout)

        def feed_forward(y):
            y = dropout(ACTIVATIONS[self.activation](intermediate(y)), self.activation_dropout)
            return dropout(output(y), self.dropout)

        if self.norm_first:
            x = x + attend(attention_norm(x))
            return x + feed_forward(output_norm(x))
        x = attention_norm(alpha * x + attend(x))
        return output_norm(alpha * x + feed_forward(x))


class Beats(nn.Module):
    """BEATs encoder; (B, frames, bins) of `frontends.kaldi_fbank` → tokens, 8 per 160 ms at 128 bins.

    Patches of 16 × 16, time-major (frequency fastest) → linear → LayerNorm → linear → + positional convolution →
    LayerNorm → layers. Frames and bins that do not fill a patch are dropped; a clip shorter than one patch is filled
    up by repeating its last frame. Every layer uses one relative position bias over the flattened tokens.

    Attributes:
        input_patch_size … gru_rel_pos: as in the checkpoint's cfg, under the same names; the defaults are those of
            the released base models, not of the published class.
        layer_wise_gradient_decay_ratio: factor on the gradient each time it leaves a layer downwards, as in the
            published training code; 1 turns it off. It comes on top of layer-wise learning rates.
        encoder_layerdrop: rate at which a training example skips a layer (stream "droppath").
        dtype: of the computation; parameters, softmax, position bias and norm statistics stay float32.
        remat: recompute the layers in the backward pass: at 16 clips of 5 s the base model keeps 0.3 GiB, not 5.2.
            XLA's scheduler for CPUs brings the recomputation forward and undoes the saving there.

    Sows into "intermediates": `tokens` before the transformer, `hidden` (the input of the first layer, then each
    layer's output) and each layer's `attention` (B, heads, T, T).
    """

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

    @nn.compact
    def __call__(self, features: jax.Array, *, train: bool = False, padding: jax.Array | None = None) -> Encoded:
        """Tokens and their mean over the unpadded ones.

        Args:
            features: (B, frames, bins).
            train: dropout and layer drop are active.
            padding: (B, samples), true where the waveform is padding; or None.
        """
        size = self.input_patch_size
        features = jnp.pad(features, ((0, 0), (0, max(0, size - features.shape[1])), (0, 0)), mode="edge")
        x = _norm(self.dtype, "patch_norm")(self._patches(features))
        if padding is not None:
            padding = fold_padding(fold_padding(padding, features.shape[1]), x.shape[1])
        if self.embed_dim != self.encoder_embed_dim:
            x = nn.Dense(self.encoder_embed_dim, kernel_init=_TORCH_INIT, dtype=self.dtype, name="projection")(x)
        self.sow("intermediates", "tokens", x)
        x = Dropout(self.dropout_input)(x, train=train)
        if padding is not None:
            x = jnp.where(padding[..., None], jnp.zeros((), x.dtype), x)
        x = x + PositionalConv(self.conv_pos, self.conv_pos_groups, self.dtype, name="position")(x)
        norm = _norm(self.dtype, "norm")
        x = Dropout(self.dropout)(x if self.layer_norm_first else norm(x), train=train)
        x = self._layers(x, padding, train)
        x = (norm(x) if self.layer_norm_first else x).astype(jnp.float32)
        return Encoded(_mean(x, padding), x, padding)

    def _patches(self, features: jax.Array) -> jax.Array:
        """(B, frames, bins) → embedded patches (B, tokens, embed_dim); the convolution as one matrix product."""
        size, (batch, frames, bins) = self.input_patch_size, features.shape
        rows, columns = frames // size, bins // size
        x = features[:, : rows * size, : columns * size].reshape(batch, rows, size, columns, size)
        x = x.transpose(0, 1, 3, 2, 4).reshape(batch, rows * columns, size * size)
        return nn.Dense(
            self.embed_dim, self.conv_bias, kernel_init=_TORCH_INIT, dtype=self.dtype, name="patch_embedding"
        )(x)

    def _layers(self, x: jax.Array, padding: jax.Array | None, train: bool) -> jax.Array:
        """The transformer layers, (B, T, C) → (B, T, C)."""
        bias = None
        if self.relative_position_embedding:
            shape = (self.num_buckets, self.encoder_attention_heads)
            table = self.param("relative_bias", nn.initializers.normal(0.02), shape)
            bias = table[distance_buckets(x.shape[1], self.num_buckets, self.max_distance)].transpose(2, 0, 1)
        layer = nn.remat(Layer, static_argnums=(4,)) if self.remat else Layer
        self.sow("intermediates", "hidden", x)
        for i in range(self.encoder_layers):
            x = scale_gradient(x, self.layer_wise_gradient_decay_ratio)
            y = layer(
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
                name=f"layer_{i}",
            )(x, bias, padding, train)
            if train and self.encoder_layerdrop > 0:
                y = skip_rows(self.make_rng("droppath"), self.encoder_layerdrop, x, y)
            x = y
            self.sow("intermediates", "hidden", x)
        return x


def fold_padding(padding: jax.Array, length: int) -> jax.Array:
    """A mask at a lower rate, (B, n) → (B, length): true where all the n // length elements of a step are padding.

    The published rule, twice applied: to frames, then to tokens. It takes the tokens as if they followed each other
    in time, though eight of them share theirs; the released models were trained with it.
    """
    extra = padding.shape[1] % length
    return padding[:, : padding.shape[1] - extra].reshape(padding.shape[0], length, -1).all(-1)


def distance_buckets(length: int, buckets: int, max_distance: int) -> np.ndarray:
    """T5's bidirectional buckets of key − query distances, (length, length) of ints.

    Half of the buckets are for keys after the query. Of each half, the first half holds one distance each, the rest
    grow logarithmically up to `max_distance` (Raffel et al., "T5", 2020).
    """
    distance = np.arange(length)[None] - np.arange(length)[:, None]
    half, exact = buckets // 2, buckets // 4
    size = np.abs(distance)
    # In float32, as published: whether a distance on an edge falls left or right of it is a matter of rounding.
    ratio = np.log(np.maximum(size, 1).astype(np.float32) / np.float32(exact))
    ratio = ratio / np.float32(math.log(max_distance / exact))
    large = exact + (ratio * np.float32(half - exact)).astype(np.int32)
    return np.where(distance > 0, half, 0) + np.where(size < exact, size, np.minimum(large, half - 1))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def scale_gradient(x: jax.Array, factor: float) -> jax.Array:
    """x forward; its gradient times `factor` backward."""
    return x


scale_gradient.defvjp(lambda x, factor: (x, None), lambda factor, _, gradient: (factor * gradient,))

# What torch initialises its linear and convolutional layers with: uniform within ±1/√fan_in.
_TORCH_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def _dense(width: int, dtype: jnp.dtype, name: str, gain: float | None = None) -> nn.Dense:
    """Normal(0.02), or Xavier-normal with a gain under deep norm."""
    init = nn.initializers.normal(0.02)
    if gain is not None:
        init = nn.initializers.variance_scaling(gain**2, "fan_avg", "normal")
    return nn.Dense(width, kernel_init=init, dtype=dtype, name=name)


def _norm(dtype: jnp.dtype, name: str) -> Callable[[jax.Array], jax.Array]:
    """LayerNorm in float32, its result in `dtype`."""
    # The variance as E[(x − mean)²]: E[x²] − mean² loses digits where the mean is large.
    norm = nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, dtype=jnp.float32, name=name)
    return lambda x: norm(x.astype(jnp.float32)).astype(dtype)


def _mean(x: jax.Array, padding: jax.Array | None) -> jax.Array:
    """Mean over the unpadded tokens, (B, T, C) → (B, C); zero where all are padding."""
    if padding is None:
        return x.mean(1)
    count = jnp.maximum((~padding).sum(1, keepdims=True), 1).astype(x.dtype)
    return jnp.where(padding[..., None], 0.0, x).sum(1) / count
