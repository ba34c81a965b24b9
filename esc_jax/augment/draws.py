"""Random numbers of the examples of a batch, which do not depend on the number of devices.

None of them needs a loop or a sort: on a GPU, the host waits for the device before each iteration of a loop.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

_PLACES = 1024  # of a table of quantiles


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
    drawn, number = jax.random.bits(key, (batch_size,)), jnp.arange(batch_size)
    tied = (drawn[None] == drawn[:, None]) & (number[None] < number[:, None])
    place = ((drawn[None] < drawn[:, None]) | tied).sum(axis=1)  # of each position in the cycle
    before = (place - 1) % batch_size
    return jnp.argmax(place[None] == before[:, None], axis=1).astype(jnp.int32)


def symmetric_beta(key: jax.Array, alpha: float) -> jax.Array:
    """Draws a scalar from Beta(alpha, alpha) as a quantile of a uniform number.

    The lower tail z of probability t/2 is z = w · r(w) with w = t^(1/alpha). r is smooth, between (α B(α, α) / 2)^(1/α)
    at 0 and ½ at 1, and is interpolated in a table. `jax.random.beta` rejects proposals in a loop.

    Args:
        key: PRNG key.
        alpha: a number above 0.
    """
    uniform = jax.random.uniform(key)
    root = (1.0 - jnp.abs(1.0 - 2.0 * uniform)) ** (1.0 / alpha)
    table, place = jnp.asarray(_tail_ratios(alpha)), root * (_PLACES - 1)
    left = jnp.minimum(place.astype(jnp.int32), _PLACES - 2)
    share = place - left.astype(jnp.float32)
    tail = root * ((1.0 - share) * table[left] + share * table[left + 1])
    return jnp.where(uniform < 0.5, tail, 1.0 - tail)


@functools.lru_cache(maxsize=16)
def _tail_ratios(alpha: float) -> np.ndarray:
    """(_PLACES,) r of `symmetric_beta` at w from 0 to 1 in equal steps."""
    root = np.linspace(0.0, 1.0, _PLACES)
    probability = 0.5 * root**alpha
    limit = np.exp((special.betaln(alpha, alpha) + np.log(0.5 * alpha)) / alpha)
    known = probability > 1e-200
    tail = special.betaincinv(alpha, alpha, np.where(known, probability, 0.5))
    return np.where(known & (root > 0), tail / np.maximum(root, 1e-9), limit).astype(np.float32)
