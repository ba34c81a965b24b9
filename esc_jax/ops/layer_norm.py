"""Layer normalization whose backward pass uses the statistics of the forward pass."""

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from esc_jax.ops.barrier import cuda_barrier


class LayerNorm(nn.Module):
    """y = scale · (x − m) / √(v + ε) + bias over the last axis of (…, C), with m = mean(x) and v = mean((x − m)²).

    Parameters are those of `flax.linen.LayerNorm`. Statistics are float32. v has no gradient with respect to m, as
    Σ (x − m) = 0.

    Attributes:
        dtype: of the result.
        epsilon: ε.
    """

    dtype: jnp.dtype = jnp.float32
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        x = x.astype(jnp.float32)
        mean = x.mean(-1, keepdims=True)
        # Not E[x²] − mean², which loses digits if the mean is large.
        variance = jnp.square(x - lax.stop_gradient(mean)).mean(-1, keepdims=True)
        # Else, XLA for CUDA computes both again in the backward pass, and stores the normalized array in float32.
        mean, rate = cuda_barrier((mean, lax.rsqrt(variance + self.epsilon)))
        scale, bias = (lax.broadcast_in_dim(p, x.shape, (x.ndim - 1,)) for p in (scale, bias))
        return ((x - mean) * rate * scale + bias).astype(self.dtype)
