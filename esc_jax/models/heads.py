"""Heads: embedding (B, D) → logits (B, classes).

The last layer computes in float32 for every dtype: between 8 and 16, bfloat16 has a resolution of 0.06, so that logits
would be equal by rounding.
"""

from collections.abc import Iterator

from flax import linen as nn
import jax
import jax.numpy as jnp

from esc_jax.models.encoder import Encoded
from esc_jax.models.limits import Constraint
from esc_jax.ops.dropout import Dropout


class AttentionPooling(nn.Module):
    """Attention pooling of the features of an encoder (Ilse, Tomczak, Welling 2018).

        z = Σ_k a_k h_k,   a = softmax_k(wᵀ tanh(V h_k + b))

    h_k are the features at all times and frequencies, or the tokens, without those that are padding. At initialization
    w is zero, so that z is the mean.

    Attributes:
        width: rows of V.
    """

    width: int

    @nn.compact
    def __call__(self, encoded: Encoded) -> jax.Array:
        """(B, D) z of features (B, …, D)."""
        x = encoded.features.astype(jnp.float32)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        hidden = nn.tanh(nn.Dense(self.width, name="hidden")(x))
        scores = nn.Dense(1, use_bias=False, kernel_init=nn.initializers.zeros, name="score")(hidden).squeeze(-1)
        if encoded.padding is not None:
            scores = jnp.where(encoded.padding, jnp.finfo(scores.dtype).min, scores)
        return jnp.einsum("bk,bkd->bd", nn.softmax(scores), x)


class Linear(nn.Module):
    """Dropout and one linear layer, on the embedding or on another pooling of the features.

    Attributes:
        classes: number of logits.
        dropout: rate.
        zero_init: initialize the kernel with zeros.
        pooling: "mean" for the embedding of the encoder, or "attention" for `AttentionPooling`.
        attention_width: of `AttentionPooling`.
        dtype: ignored.
    """

    classes: int
    dropout: float = 0.0
    zero_init: bool = False
    pooling: str = "mean"
    attention_width: int = 128
    dtype: jnp.dtype = jnp.float32

    def constraints(self) -> Iterator[Constraint]:
        """See `limits.check_options`."""
        yield self.pooling in ("mean", "attention"), "pooling", "one of mean, attention"

    @property
    def pools(self) -> bool:
        """Whether the head replaces the embedding by `pool` of the features."""
        return self.pooling != "mean"

    def setup(self) -> None:
        """The names are those of the parameters, and the random numbers of dropout depend on its name."""
        init = nn.initializers.zeros if self.zero_init else nn.initializers.lecun_normal()
        self.Dropout_0 = Dropout(self.dropout)
        self.classifier = nn.Dense(self.classes, kernel_init=init, dtype=jnp.float32)
        if self.pools:
            self.attention = AttentionPooling(self.attention_width)

    def pool(self, encoded: Encoded) -> jax.Array:
        """The embedding (B, D) that the head is applied to."""
        pooled: jax.Array = self.attention(encoded)
        return pooled

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits (B, classes) of embeddings (B, D)."""
        logits: jax.Array = self.classifier(self.Dropout_0(x, train=train))
        return logits


class Projected(nn.Module):
    """Linear projection, dropout, linear classifier: the head of `HubertForSequenceClassification` in transformers.

    The published code projects every frame and then averages. This head projects the average, which is the same.
    """

    classes: int
    width: int = 256
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        x = nn.Dense(self.width, dtype=self.dtype, name="projector")(x)
        x = Dropout(self.dropout)(x, train=train)
        return nn.Dense(self.classes, dtype=jnp.float32, name="classifier")(x)


class Mlp(nn.Module):
    """Linear, hard-swish, dropout, linear: the head of MobileNetV3 and EfficientAT."""

    classes: int
    width: int = 1280
    dropout: float = 0.2
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        x = nn.hard_swish(nn.Dense(self.width, dtype=self.dtype, name="hidden")(x))
        x = Dropout(self.dropout)(x, train=train)
        return nn.Dense(self.classes, dtype=jnp.float32, name="classifier")(x)
