"""Attention weights with a gradient that reads and writes few arrays of all pairs of tokens."""

from flax import linen as nn
import jax
import jax.numpy as jnp

from esc_jax.ops.barrier import cuda_barrier

Residuals = tuple[jax.Array, jax.Array, jax.Array | None, jax.Array | None, jax.Array | None, jax.Array]


@jax.custom_vjp
def attention_weights(
    query: jax.Array, key: jax.Array, gate: jax.Array | None, bias: jax.Array | None, padding: jax.Array | None
) -> jax.Array:
    """w[b, h, q, k] = softmax_k(Σ_d query[b, q, h, d] · key[b, k, h, d] + gate[b, h, q] · bias[h, q, k]).

    Scores and softmax are float32. The gradient is computed from the weights:

        ds = w ⊙ (dw − Σ_k w ⊙ dw)

    and is rounded to the dtype of the inputs before it enters products, as the gradients of other products of the
    network. Automatic differentiation would keep the scores, and multiply the float32 gradient of the scores.

    Args:
        query, key: (B, T, heads, size), scaled.
        gate: (B, heads, T) float32; None: the bias is added as it is.
        bias: (heads, T, T) float32, or None.
        padding: (B, T), true where a token is padding and has no weight; or None.

    Returns:
        (B, heads, T, T) in the dtype of `query`. In a clip that is all padding, all tokens have equal weights.
    """
    return _forward(query, key, gate, bias, padding)[0]


def _forward(
    query: jax.Array, key: jax.Array, gate: jax.Array | None, bias: jax.Array | None, padding: jax.Array | None
) -> tuple[jax.Array, Residuals]:
    # XLA for CUDA would store the gated bias as an operand of the product.
    scores = cuda_barrier(jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32))
    if bias is not None:
        scores = scores + (bias[None] if gate is None else gate[..., None] * bias[None])
    if padding is not None:
        # A finite number: the softmax over a clip that is all padding must not give NaN.
        scores = jnp.where(padding[:, None, None], jnp.finfo(jnp.float32).min, scores)
    weights = cuda_barrier(nn.softmax(scores, -1).astype(query.dtype))
    return weights, (query, key, gate, bias, padding, weights)


def _backward(
    residuals: Residuals, g: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array | None, jax.Array | None, None]:
    query, key, gate, bias, padding, weights = residuals
    w, g = weights.astype(jnp.float32), g.astype(jnp.float32)
    scores = w * (g - (w * g).sum(-1, keepdims=True))
    if padding is not None:
        scores = jnp.where(padding[:, None, None], 0.0, scores)
    rounded = cuda_barrier(scores.astype(query.dtype))
    query_gradient = jnp.einsum("bhqk,bkhd->bqhd", rounded, key)
    key_gradient = jnp.einsum("bhqk,bqhd->bkhd", rounded, query)
    if bias is None:
        return query_gradient, key_gradient, None, None, None
    scores = rounded.astype(jnp.float32)
    if gate is None:
        return query_gradient, key_gradient, None, scores.sum(0), None
    return query_gradient, key_gradient, (scores * bias[None]).sum(-1), (scores * gate[..., None]).sum(0), None


attention_weights.defvjp(_forward, _backward)
