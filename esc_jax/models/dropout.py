"""Dropout that draws the same mask for an example on any number of devices."""

from collections.abc import Iterator
import contextlib
import contextvars

from flax import linen as nn
import jax
import jax.numpy as jnp

AXIS = "batch"  # the mapped axis of training steps
_PART = contextvars.ContextVar("part", default=(0, 1))


@contextlib.contextmanager
def part(number: jax.Array, parts: int) -> Iterator[None]:
    """Inside, a device's examples are the `number`-th of as many equal parts of its batch."""
    token = _PART.set((number, parts))
    try:
        yield
    finally:
        _PART.reset(token)


def positions(rows: int) -> jax.Array:
    """(rows,) positions of this device's examples in the global batch; 0 … rows − 1 outside a mapped step."""
    number, parts = _PART.get()
    try:
        first = jax.lax.axis_index(AXIS) * rows * parts
    except NameError:  # no such axis: not mapped
        first = 0
    return first + number * rows + jnp.arange(rows)


def example_keys(key: jax.Array, rows: int) -> jax.Array:
    """(rows,) a key for each of this device's examples, from its position in the global batch."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, positions(rows))


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
