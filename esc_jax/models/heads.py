"""Heads: embedding (B, D) → logits (B, classes).

The last layer computes in float32 for every dtype: between 8 and 16, bfloat16 has a resolution of 0.06, so that logits
would be equal by rounding.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp

from esc_jax.models.encoder import Encoded
from esc_jax.ops.dropout import Dropout


class Linear(nn.Module):
    """Dropout and one linear layer.

    Attributes:
        classes: number of logits.
        dropout: rate.
        zero_init: initialize the kernel with zeros.
        dtype: ignored.
    """

    classes: int
    dropout: float = 0.0
    zero_init: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        x = Dropout(self.dropout)(x, train=train)
        init = nn.initializers.zeros if self.zero_init else nn.initializers.lecun_normal()
        return nn.Dense(self.classes, kernel_init=init, dtype=jnp.float32, name="classifier")(x)


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


class Attention(nn.Module):
    """Attention pooling over the positions of the features, dropout and one linear layer.

        z = Σ_k a_k h_k,   a = softmax_k(wᵀ tanh(V h_k + b))

    with the features h_k at time steps and frequencies, or the tokens, that are not padding. At initialization w is
    zero, and z is the mean. M. Ilse, J. Tomczak, M. Welling, "Attention-based deep multiple instance learning" (2018).

    Attributes:
        classes: number of logits.
        width: rows of V.
        dropout: rate.
        dtype: ignored.
    """

    classes: int
    width: int = 128
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        self.hidden = nn.Dense(self.width, dtype=jnp.float32)
        self.score = nn.Dense(1, use_bias=False, kernel_init=nn.initializers.zeros, dtype=jnp.float32)
        self.drop = Dropout(self.dropout)
        self.classifier = nn.Dense(self.classes, dtype=jnp.float32)

    def weights(self, encoded: Encoded) -> jax.Array:
        """(B, positions) weights a, which sum to 1; positions in the order of the features, time first."""
        x = encoded.features.reshape(len(encoded.features), -1, encoded.features.shape[-1])
        scores = self.score(nn.tanh(self.hidden(x.astype(jnp.float32))))[..., 0]
        if encoded.padding is not None:
            scores = jnp.where(encoded.padding, jnp.finfo(scores.dtype).min, scores)
        return nn.softmax(scores, axis=-1)

    def pool(self, encoded: Encoded) -> jax.Array:
        """The embedding z, (B, D)."""
        x = encoded.features.reshape(len(encoded.features), -1, encoded.features.shape[-1]).astype(jnp.float32)
        return jnp.einsum("bk,bkd->bd", self.weights(encoded), x)

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits (B, classes) of embeddings (B, D)."""
        return self.classifier(self.drop(x, train=train))
