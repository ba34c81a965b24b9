"""Random numbers of the examples of a batch, which do not depend on the number of devices."""

import jax
import jax.numpy as jnp


def keys_at(key: jax.Array, positions: jax.Array) -> jax.Array:
    """One PRNG key per example.

    Args:
        key: PRNG key, the same on all devices.
        positions: (B,) positions of the examples in the global batch.

    Returns:
        (B,) keys.
    """
    return jax.vmap(jax.random.fold_in, (None, 0))(key, positions)


def random_partners(key: jax.Array, batch_size: int) -> jax.Array:
    """(batch_size,) a partner for each position of the global batch.

    The partners form one random cycle, so that no example is its own partner (with two examples or more).
    """
    order = jax.random.permutation(key, batch_size)
    return jnp.zeros(batch_size, jnp.int32).at[order].set(jnp.roll(order, 1).astype(jnp.int32))
