"""Batch normalisation as one multiplication and one addition for each channel."""

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp


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
        shape = (1,) * (x.ndim - 1) + channels
        return (x * factor.reshape(shape) + (bias - factor * mean).reshape(shape)).astype(self.dtype)

    def _statistics(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean and variance (C,) of the batch, over all devices of the axis."""
        axes = tuple(range(x.ndim - 1))
        moments = x.mean(axes), (x * x).mean(axes)
        if self.axis_name is not None and not self.is_initializing():
            moments = lax.pmean(moments, self.axis_name)
        mean, square = moments
        return mean, jnp.maximum(0.0, square - mean * mean)
