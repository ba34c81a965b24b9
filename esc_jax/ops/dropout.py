"""Dropout whose mask for an example does not depend on the number of devices."""

from flax import linen as nn
import jax
import jax.numpy as jnp

from esc_jax.runtime.devices import example_keys


class Dropout(nn.Module):
    """Sets each element of (B, …) to 0 with probability `rate` and divides the others by 1 − rate.

    `flax.linen.Dropout` draws one mask for all rows of a device. This layer uses one key per example, derived from the
    position of the example in the global batch.

    Attributes:
        rate: dropout rate.
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if not train or not self.rate:
            return x
        keys = example_keys(self.make_rng("dropout"), len(x))
        keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - self.rate, x.shape[1:]))(keys)
        return jnp.where(keep, x / (1.0 - self.rate), jnp.zeros_like(x))


def layer_drop(key: jax.Array, rate: float, x: jax.Array, y: jax.Array) -> jax.Array:
    """Skips a layer for each example with probability `rate` (LayerDrop, Fan et al. 2020).

    Args:
        key: PRNG key, the same on all devices.
        rate: probability of skipping.
        x: (B, …), input of the layer.
        y: (B, …), output of the layer.

    Returns:
        (B, …): `x` for the examples that skip the layer, `y` for the others, without rescaling.
    """
    keys = example_keys(key, len(x))
    skip = jax.vmap(lambda key: jax.random.bernoulli(key, rate, (1,) * (x.ndim - 1)))(keys)
    return jnp.where(skip, x, y)


def drop_path(key: jax.Array, rate: float, y: jax.Array) -> jax.Array:
    """Drops a residual branch of each example with probability `rate` (stochastic depth, Huang et al. 2016).

    The branches that are kept are divided by 1 − rate, so that the expectation is `y`; the published method multiplies
    by 1 − rate in evaluation instead.

    Args:
        key: PRNG key, the same on all devices.
        rate: probability of dropping.
        y: (B, …), output of the branch.

    Returns:
        (B, …): 0 or y / (1 − rate).
    """
    keys = example_keys(key, len(y))
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, (1,) * (y.ndim - 1)))(keys)
    return jnp.where(keep, y / (1 - rate), jnp.zeros((), y.dtype))
