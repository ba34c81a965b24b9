"""Heads: an embedding (B, D) to logits (B, classes).

The last product is float32 whatever the dtype: bfloat16 has steps of 0.06 between 8 and 16, and classes would tie.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp

from esc_jax.ops.dropout import Dropout


class Linear(nn.Module):
    """Dropout, then one linear layer."""

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
    """A linear projection, then a linear classifier: the head of HuBERT's sequence classification.

    The published code projects every frame and then averages; both maps are linear, so projecting the average is the
    same (transformers, `HubertForSequenceClassification`).
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
