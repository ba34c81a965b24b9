"""Dropout that draws the same mask for an example on any number of devices."""

from flax import linen as nn
import jax
import jax.numpy as jnp

from esc_jax.runtime.devices import example_keys


class Dropout(nn.Module):
    """Each element of (B, …) is 0 with probability `rate`, else divided by 1 − rate.

    flax's own draws one mask for the rows of a device; this one has a key per example, from its position in the global
    batch.
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if not train or not self.rate:
            return x
        keys = example_keys(self.make_rng("dropout"), len(x))
        keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - self.rate, x.shape[1:]))(keys)
        return jnp.where(keep, x / (1.0 - self.rate), jnp.zeros_like(x))


def skip_rows(key: jax.Array, rate: float, x: jax.Array, y: jax.Array) -> jax.Array:
    """`y`, but `x` for each row of the batch that a layer is skipped for, with probability `rate` (layer drop)."""
    keys = example_keys(key, len(x))
    skip = jax.vmap(lambda key: jax.random.bernoulli(key, rate, (1,) * (x.ndim - 1)))(keys)
    return jnp.where(skip, x, y)
