"""Attention with a gradient that reads and writes few arrays of all pairs of tokens."""

from flax import linen as nn
import jax
import jax.numpy as jnp

from esc_jax.ops.barrier import cuda_barrier

Arrays = tuple[jax.Array | None, ...]


@jax.custom_vjp
def dot_product_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    gate: jax.Array | None = None,
    bias: jax.Array | None = None,
    padding: jax.Array | None = None,
    factors: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Attention with a gated bias and dropout; returns the output and the weights.

        w[b, h, q, k] = softmax_k(Σ_d query[b, q, h, d] · key[b, k, h, d] + gate[b, h, q] · bias[h, q, k])
        out[b, q, h, d] = Σ_k w[b, h, q, k] · factors[b, h, q, k] · value[b, k, h, d]

    Scores and softmax are float32. The gradient of the scores s is computed from the weights and the output,

        ds = w ⊙ (dw − Σ_k w ⊙ dw),  Σ_k w ⊙ dw = Σ_d out ⊙ d out,

    and is rounded to the dtype of the inputs before it enters products, as the gradients of other products of the
    network. `out` is kept in float32, since the difference is small. Automatic differentiation would keep the scores,
    and multiply the float32 gradient of the scores.

    Args:
        query, key, value: (B, T, heads, size); `query` is scaled.
        gate: (B, heads, T) float32, not used without a bias; None: the bias is added as it is.
        bias: (heads, T, T) float32, or None.
        padding: (B, T), true where a token is padding and has no weight; or None.
        factors: (B, heads, T, T), the factors of dropout on the weights, without gradient; or None.

    Returns:
        The output (B, T, heads, size), and the weights (B, heads, T, T) before dropout, without gradient. Both have the
        dtype of `query`. In a clip that is all padding, all tokens have equal weights.
    """
    return _forward(query, key, value, gate, bias, padding, factors)[0]


def _forward(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    gate: jax.Array | None,
    bias: jax.Array | None,
    padding: jax.Array | None,
    factors: jax.Array | None,
) -> tuple[tuple[jax.Array, jax.Array], Arrays]:
    # One copy of each in this order serves the products of both passes.
    query, key, value = (jnp.moveaxis(x, 2, 1) for x in (query, key, value))
    # XLA for CUDA would store the gated bias as an operand of the product.
    scores = cuda_barrier(jnp.einsum("bhqd,bhkd->bhqk", query, key, preferred_element_type=jnp.float32))
    if bias is not None:
        scores = scores + (bias[None] if gate is None else gate[..., None] * bias[None])
    if padding is not None:
        # A finite number: the softmax over a clip that is all padding must not give NaN.
        scores = jnp.where(padding[:, None, None], jnp.finfo(jnp.float32).min, scores)
    weights = cuda_barrier(nn.softmax(scores, -1).astype(query.dtype))
    dropped = weights if factors is None else weights * factors
    out = jnp.moveaxis(jnp.einsum("bhqk,bhkd->bhqd", dropped, value, preferred_element_type=jnp.float32), 1, 2)
    return (out.astype(query.dtype), weights), (query, key, value, gate, bias, padding, factors, out, weights)


def _backward(residuals: Arrays, gradients: tuple[jax.Array, jax.Array]) -> Arrays:
    query, key, value, gate, bias, padding, factors, out, weights = residuals
    assert query is not None and key is not None and value is not None and out is not None and weights is not None
    d_out = gradients[0]
    mean = jnp.moveaxis((out * d_out.astype(jnp.float32)).sum(-1), 2, 1)
    d_out = jnp.moveaxis(d_out, 2, 1)
    dropped = weights if factors is None else weights * factors
    d_value = jnp.einsum("bhqk,bhqd->bhkd", dropped, d_out)
    d_weights = jnp.einsum("bhqd,bhkd->bhqk", d_out, value)
    if factors is not None:
        d_weights = d_weights * factors
    d_scores = weights.astype(jnp.float32) * (d_weights.astype(jnp.float32) - mean[..., None])
    if padding is not None:
        d_scores = jnp.where(padding[:, None, None], 0.0, d_scores)
    d_gate = None if gate is None or bias is None else (d_scores * bias[None]).sum(-1)
    rounded = cuda_barrier(d_scores.astype(query.dtype))
    d_query = jnp.einsum("bhqk,bhkd->bhqd", rounded, key)
    d_key = jnp.einsum("bhqk,bhqd->bhkd", rounded, query)
    d_bias = None
    if bias is not None:
        d_scores = rounded.astype(jnp.float32)
        d_bias = (d_scores if gate is None else d_scores * gate[..., None]).sum(0)
    d_query, d_key, d_value = (jnp.moveaxis(x, 1, 2) for x in (d_query, d_key, d_value))
    return d_query, d_key, d_value, d_gate, d_bias, None, None


dot_product_attention.defvjp(_forward, _backward)
