"""Self-attention, a transformer layer, and the layers of a model one after the other."""

from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from esc_jax.ops.activations import ACTIVATIONS
from esc_jax.ops.attention import dot_product_attention
from esc_jax.ops.dense import Dense
from esc_jax.ops.dropout import Dropout, layer_drop
from esc_jax.ops.layer_norm import LayerNorm


class Attention(nn.Module):
    """Multi-head self-attention with an optional gated position bias; (B, T, C) → (B, T, C).

        softmax(q·kᵀ / √d + gate ⊙ bias) v

    The gate is one number per head and query, computed from the unscaled query: q·W + c has eight numbers per head;
    a and b are the sigmoids of the sums of the first and the last four; gate = a·(b·s − 1) + 2, s learned per head.

    Attributes:
        heads: number of heads, a divisor of C.
        gated: has the parameters of the gate.
        dropout: rate on the attention weights.
        init_gain: gain of the initializers of value and output projections; None: Normal(0.02) for all projections.
        dtype: of the computation; softmax and position bias are float32.
    """

    heads: int
    gated: bool
    dropout: float
    init_gain: float | None
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, bias: jax.Array | None, padding: jax.Array | None, train: bool) -> jax.Array:
        """Attends to all tokens that are not padding.

        Args:
            x: (B, T, C).
            bias: (heads, T, T), added to the scores; or None.
            padding: (B, T), true where a token is padding; or None.
            train: dropout is active.
        """
        batch, time, channels = x.shape
        size = channels // self.heads

        def project(name: str, gain: float | None) -> jax.Array:
            y = dense(channels, self.dtype, name, None if self.init_gain is None else gain)(x)
            return y.reshape(batch, time, self.heads, size)

        query, key, value = project("query", 1.0), project("key", 1.0), project("value", self.init_gain)
        gate = None
        if self.gated:  # the parameters exist even without a bias to gate
            gates = dense(8, self.dtype, "gate")(query).astype(jnp.float32)
            gates = nn.sigmoid(gates.reshape(batch, time, self.heads, 2, 4).sum(-1))
            a, b = (lax.index_in_dim(gates, i, -1, keepdims=False) for i in range(2))
            scale = self.param("gate_scale", nn.initializers.ones, (self.heads,))
            gate = jnp.moveaxis(a * (b * scale[None, None] - 1.0) + 2.0, -1, 1)
        factors = None
        if train and self.dropout:
            factors = Dropout(self.dropout)(jnp.ones((batch, self.heads, time, time), self.dtype), train=True)
        mixed, weights = dot_product_attention(query * size**-0.5, key, value, gate, bias, padding, factors)
        self.sow("intermediates", "attention", weights)
        return dense(channels, self.dtype, "out", self.init_gain)(mixed.reshape(batch, time, channels))


class TransformerLayer(nn.Module):
    """One transformer layer; (B, T, C) → (B, T, C).

    Post-norm: x ← LN(α·x + attention(x)), x ← LN(α·x + feed-forward(x)), with α = (2·layers)^¼ for DeepNorm, else 1.
    Pre-norm: x ← x + attention(LN(x)), x ← x + feed-forward(LN(x)).

    Attributes:
        heads: number of attention heads.
        width: of the feed-forward layer.
        layers: number of layers of the model, which sets the constants of DeepNorm.
        activation: key of `ACTIVATIONS`.
        norm_first: pre-norm.
        deep_norm: DeepNorm's residual scaling and initialization (Wang et al. 2022), for post-norm.
        gated: see `Attention`.
        dropout: rate on the outputs of attention and feed-forward layer.
        attention_dropout: rate on the attention weights.
        activation_dropout: rate on the activations of the feed-forward layer.
        dtype: of the computation; norm statistics are float32.
        epsilon: of the norms.
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
        """See `Attention`."""

        def dropout(y: jax.Array, rate: float) -> jax.Array:
            return Dropout(rate)(y, train=train)

        gain = (8 * self.layers) ** -0.25 if self.deep_norm else None
        alpha = (2 * self.layers) ** 0.25 if self.deep_norm else 1.0
        attention = Attention(self.heads, self.gated, self.attention_dropout, gain, self.dtype, name="attention")
        norms = ("attention_norm", "output_norm")
        attention_norm, output_norm = (LayerNorm(self.dtype, self.epsilon, name=name) for name in norms)
        intermediate = dense(self.width, self.dtype, "intermediate", gain)
        output = dense(x.shape[-1], self.dtype, "output", gain)

        def attend(y: jax.Array) -> jax.Array:
            return dropout(attention(y, bias, padding, train), self.dropout)

        def feed_forward(y: jax.Array) -> jax.Array:
            y = dropout(ACTIVATIONS[self.activation](intermediate(y)), self.activation_dropout)
            return dropout(output(y), self.dropout)

        if self.norm_first:
            x = x + attend(attention_norm(x))
            return x + feed_forward(output_norm(x))
        x = attention_norm(alpha * x + attend(x))
        return output_norm(alpha * x + feed_forward(x))


def apply_layers(
    parent: nn.Module,
    layer: TransformerLayer,
    x: jax.Array,
    bias: jax.Array | None = None,
    padding: jax.Array | None = None,
    *,
    train: bool,
    remat: bool = False,
    drop_rates: Sequence[float] = (),
    gradient: float = 1.0,
    collect: bool = False,
) -> list[jax.Array]:
    """Applies the layers `layer_0` … of a module, with LayerDrop; must be called in its compact method.

    Args:
        parent: the module. Its PRNG stream "droppath" draws which examples skip a layer.
        layer: unbound layer (`parent=None`) with the fields of all; `layer.layers` is their number.
        x: (B, T, C).
        bias, padding, train: as for `TransformerLayer`.
        remat: recompute the layers in the backward pass.
        drop_rates: rate at which an example skips a layer in training, for each layer; empty: none is skipped.
        gradient: factor on the gradient at the input of each layer.
        collect: return the outputs of all layers.

    Returns:
        The output of the last layer alone, or the outputs of all layers; nothing if there is no layer.
    """
    kind: Any = nn.remat(TransformerLayer, static_argnums=(4,)) if remat else TransformerLayer
    fields = {f.name: getattr(layer, f.name) for f in dataclasses.fields(layer) if f.init}
    outputs: list[jax.Array] = []
    for number in range(layer.layers):
        x = x if gradient == 1 else scale_gradient(x, gradient)
        y = kind(**fields | {"name": f"layer_{number}", "parent": parent})(x, bias, padding, train)
        x = layer_drop(parent.make_rng("droppath"), drop_rates[number], x, y) if train and drop_rates else y
        outputs.append(x)
    return outputs if collect else outputs[-1:]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def scale_gradient(x: jax.Array, factor: float) -> jax.Array:
    """Identity whose gradient is multiplied by `factor`."""
    return x


scale_gradient.defvjp(lambda x, factor: (x, None), lambda factor, _, gradient: (factor * gradient,))


def dense(width: int, dtype: jnp.dtype, name: str, gain: float | None = None) -> Dense:
    """A `Dense` layer initialized from Normal(0.02), or from Xavier-normal with a gain (DeepNorm)."""
    init = nn.initializers.normal(0.02)
    if gain is not None:
        init = nn.initializers.variance_scaling(gain**2, "fan_avg", "normal")
    return Dense(width, kernel_init=init, dtype=dtype, name=name)


def masked_mean(x: jax.Array, padding: jax.Array | None) -> jax.Array:
    """Mean over the tokens that are not padding.

    Args:
        x: (B, T, C).
        padding: (B, T), true where a token is padding; None: no token is.

    Returns:
        (B, C); zeros for a clip that is all padding.
    """
    if padding is None:
        return x.mean(1)
    count = jnp.maximum((~padding).sum(1, keepdims=True), 1).astype(x.dtype)
    return jnp.where(padding[..., None], 0.0, x).sum(1) / count
