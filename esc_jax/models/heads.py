"""Heads: embedding (B, D) → logits (B, classes).

The last layer computes in float32 for every dtype: between 8 and 16, bfloat16 has a resolution of 0.06, so that logits
would be equal by rounding.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp

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
