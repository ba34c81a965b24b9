"""Batch normalisation as one multiplication and one addition for each channel."""

import functools
import math

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

# Runs of rows that are added to one another first: 8 of them take a third of the time of none, 16 no less.
_RUNS = 8


@jax.custom_vjp
def moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """E[x] and E[x²] of every channel: (…, C) → (C,) twice.

    XLA's CPU compiler walks through such a sum channel by channel, in one thread. There, equal runs of rows are added
    to one another first, in one vectorized loop over all cores that stores no x².
    """

    def by_runs(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        rows = x.reshape(-1, x.shape[-1])
        size = len(rows) // math.gcd(len(rows), _RUNS)
        runs = [lax.slice_in_dim(rows, first, first + size) for first in range(0, len(rows), size)]
        added = functools.reduce(jnp.add, runs), functools.reduce(jnp.add, [run * run for run in runs])
        return _sums_by_product(added[0]), _sums_by_product(added[1])

    sums = lax.platform_dependent(x, cpu=by_runs, default=lambda x: (_sums(x), _sums(x * x)))
    return tuple(of_channels / (x.size // x.shape[-1]) for of_channels in sums)


def _moments_backward(x: jax.Array, g: tuple[jax.Array, jax.Array]) -> tuple[jax.Array]:
    to_mean, to_square = (_row(of_channels / (x.size // x.shape[-1]), x.ndim) for of_channels in g)
    return (to_mean + 2.0 * to_square * x,)


moments.defvjp(lambda x: (moments(x), x), _moments_backward)


def channel_sums(x: jax.Array) -> jax.Array:
    """(…, C) → (C,): the sum over every axis but the last.

    A product with a row of ones on CPU: not in runs, as what comes before it in a backward pass would be computed again
    for each of them.
    """
    return lax.platform_dependent(x, cpu=_sums_by_product, default=_sums)


def _sums(x: jax.Array) -> jax.Array:
    return x.sum(tuple(range(x.ndim - 1)))


def _sums_by_product(x: jax.Array) -> jax.Array:
    rows = x.reshape(-1, x.shape[-1])
    return jnp.matmul(jnp.ones((1, len(rows)), x.dtype), rows)[0]


def _row(of_channels: jax.Array, rank: int) -> jax.Array:
    return of_channels.reshape((1,) * (rank - 1) + of_channels.shape)


@jax.custom_vjp
def scaled(x: jax.Array, factor: jax.Array, offset: jax.Array) -> jax.Array:
    """x · factor + offset, for each channel: (…, C), (C,), (C,) → (…, C)."""
    return x * _row(factor, x.ndim) + _row(offset, x.ndim)


def _scaled_backward(residuals, g):
    x, factor = residuals
    return g * _row(factor, x.ndim), channel_sums(g * x), channel_sums(g)


scaled.defvjp(lambda x, factor, offset: (scaled(x, factor, offset), (x, factor)), _scaled_backward)


class BatchNorm(nn.Module):
    """y = a x + b,  a = γ / √(σ² + ε),  b = β − a μ;  μ, σ² over every axis but the last.

    The same function, parameters and statistics as `flax.linen.BatchNorm`. That one computes (x − μ) first and keeps
    it for the backward pass, one more array of the activation's size; from this form the derivative is
    a g + c₁ x + c₀, which needs `x` alone and fuses into its neighbours.

    Running averages follow m·old + (1 − m)·new, with the biased variance of the batch (Ioffe and Szegedy, ICML 2015).

    Attributes:
        momentum: m above; torch's `momentum` is 1 − m.
        epsilon: ε above.
        dtype: of the output. Statistics, and the arithmetic, are float32.
        axis_name: device axis over which the batch's statistics are averaged, or None.
        scale_init: of γ.
    """

    momentum: float = 0.99
    epsilon: float = 1e-5
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None
    scale_init: nn.initializers.Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(..., C) → (..., C); with `train`, the batch's own statistics, and "batch_stats" must be mutable."""
        channels = (x.shape[-1],)
        scale = self.param("scale", self.scale_init, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        mean_of_all = self.variable("batch_stats", "mean", jnp.zeros, channels)
        var_of_all = self.variable("batch_stats", "var", jnp.ones, channels)
        x = x.astype(jnp.float32)
        if train:
            mean, var = self._statistics(x)
            if not self.is_initializing():
                mean_of_all.value = self.momentum * mean_of_all.value + (1.0 - self.momentum) * mean
                var_of_all.value = self.momentum * var_of_all.value + (1.0 - self.momentum) * var
        else:
            mean, var = mean_of_all.value, var_of_all.value
        factor = scale * lax.rsqrt(var + self.epsilon)
        return scaled(x, factor, bias - factor * mean).astype(self.dtype)

    def _statistics(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean and variance (C,) of the batch, over all devices of the axis."""
        mean, square = moments(x)
        if self.axis_name is not None and not self.is_initializing():
            mean, square = lax.pmean((mean, square), self.axis_name)
        return mean, jnp.maximum(0.0, square - mean * mean)
