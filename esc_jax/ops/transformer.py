"""Self-attention and transformer layers, which `beats`, `hubert` and `patch_transformer` stack."""

from collections.abc import Callable
import functools

from flax import linen as nn
import jax
import jax.numpy as jnp

from esc_jax.ops.dense import Dense
from esc_jax.ops.dropout import Dropout

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
            y = dense(channels, self.dtype, name, None if self.deep_gain is None else gain)(x)
            return y.reshape(batch, time, self.heads, size)

        query, key, value = project("query", 1.0), project("key", 1.0), project("value", self.deep_gain)
        scores = jnp.einsum("bqhd,bkhd->bhqk", query * size**-0.5, key, preferred_element_type=jnp.float32)
        if self.gated:  # the parameters are there even where there is no bias to gate
            gate = dense(8, self.dtype, "gate")(query).astype(jnp.float32)
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
        return dense(channels, self.dtype, "out", self.deep_gain)(mixed)


class Layer(nn.Module):
    """One transformer layer; (B, T, C) → (B, T, C).

    Norm after: x ← LN(α·x + attention(x)), x ← LN(α·x + feed-forward(x)), with α = (2·layers)^¼ under deep norm and
    1 without. Norm before: x ← x + attention(LN(x)), x ← x + feed-forward(LN(x)).
    """

    heads: int
    width: int
    layers: int
    activation: str = "gelu_fast"
    norm_first: bool = True
    deep_norm: bool = False
    gated: bool = False
    dropout: float = 0.0
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, bias: jax.Array | None, padding: jax.Array | None, train: bool) -> jax.Array:
        def dropout(y, rate):
            return Dropout(rate)(y, train=train)

        gain = (8 * self.layers) ** -0.25 if self.deep_norm else None
        alpha = (2 * self.layers) ** 0.25 if self.deep_norm else 1.0
        attention = Attention(self.heads, self.gated, self.attention_dropout, gain, self.dtype, name="attention")
        norms = ("attention_norm", "output_norm")
        attention_norm, output_norm = (layer_norm(self.dtype, name, self.epsilon) for name in norms)
        intermediate = dense(self.width, self.dtype, "intermediate", gain)
        output = dense(x.shape[-1], self.dtype, "output", gain)

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


def dense(width: int, dtype: jnp.dtype, name: str, gain: float | None = None) -> Dense:
    """Normal(0.02), or Xavier-normal with a gain under deep norm."""
    init = nn.initializers.normal(0.02)
    if gain is not None:
        init = nn.initializers.variance_scaling(gain**2, "fan_avg", "normal")
    return Dense(width, kernel_init=init, dtype=dtype, name=name)


def layer_norm(dtype: jnp.dtype, name: str, epsilon: float = 1e-5) -> Callable[[jax.Array], jax.Array]:
    """LayerNorm in float32, its result in `dtype`."""
    # The variance as E[(x − mean)²]: E[x²] − mean² loses digits where the mean is large.
    norm = nn.LayerNorm(epsilon=epsilon, use_fast_variance=False, dtype=jnp.float32, name=name)
    return lambda x: norm(x.astype(jnp.float32)).astype(dtype)


def pooled(x: jax.Array, padding: jax.Array | None) -> jax.Array:
    """Mean over the tokens that are no padding, (B, T, C) → (B, C); zero where all are."""
    if padding is None:
        return x.mean(1)
    count = jnp.maximum((~padding).sum(1, keepdims=True), 1).astype(x.dtype)
    return jnp.where(padding[..., None], 0.0, x).sum(1) / count
