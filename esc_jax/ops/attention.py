"""Attention with a gradient that reads and writes few arrays of all pairs of tokens."""

from flax import linen as nn
import jax
import jax.numpy as jnp

from esc_jax.ops.barrier import cuda_barrier

Residuals = tuple[jax.Array | None, ...]
Gradients = tuple[jax.Array | None, ...]


@jax.custom_vjp
def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    gate: jax.Array | None,
    bias: jax.Array | None,
    padding: jax.Array | None,
    factors: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """out[b, q, h] = Σ_k w[b, h, q, k] · factors[b, h, q, k] · value[b, k, h], with the weights

        w[b, h, q, k] = softmax_k(Σ_d query[b, q, h, d] · key[b, k, h, d] + gate[b, h, q] · bias[h, q, k]).

    Scores and softmax are float32. The gradient is computed from the weights and the output:

        ds = w ⊙ (dw − Σ_k w ⊙ dw),  Σ_k w ⊙ dw = Σ_d out ⊙ d out

    and is rounded to the dtype of the inputs before it enters products, as the gradients of other products of the
    network. Automatic differentiation would keep the scores, and multiply the float32 gradient of the scores.

    Args:
        query, key, value: (B, T, heads, size); `query` is scaled.
        gate: (B, heads, T) float32; None: the bias is added as it is.
        bias: (heads, T, T) float32, or None.
        padding: (B, T), true where a token is padding and has no weight; or None.
        factors: (B, heads, T, T) of dropout, which have no gradient; or None.

    Returns:
        The output (B, T, heads, size), and w (B, heads, T, T) without a gradient, in the dtype of `query`. In a clip
        that is all padding, all tokens have equal weights.
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
) -> tuple[tuple[jax.Array, jax.Array], Residuals]:
    query, key, value = cuda_barrier(tuple(jnp.moveaxis(x, 2, 1) for x in (query, key, value)))
    scores = cuda_barrier(jnp.einsum("bhqd,bhkd->bhqk", query, key, preferred_element_type=jnp.float32))
    if bias is not None:
        scores = scores + (bias[None] if gate is None else gate[..., None] * bias[None])
    if padding is not None:
        # A finite number: the softmax over a clip that is all padding must not give NaN.
        scores = jnp.where(padding[:, None, None], jnp.finfo(jnp.float32).min, scores)
    weights = cuda_barrier(nn.softmax(scores, -1).astype(query.dtype))
    dropped = weights if factors is None else weights * factors
    out = cuda_barrier(jnp.moveaxis(jnp.einsum("bhqk,bhkd->bhqd", dropped, value),1,2))
    return (out, weights), (query, key, value, gate, bias, padding, factors, out, weights)


def _backward(residuals: Residuals, gradients: tuple[jax.Array, jax.Array]) -> Gradients:
    query, key, value, gate, bias, padding, factors, out, weights = residuals
    g, _ = gradients
    mean = jnp.moveaxis(cuda_barrier((out.astype(jnp.float32) * g.astype(jnp.float32)).sum(-1)), 1, -1)
    g = cuda_barrier(jnp.moveaxis(g, 2, 1))
    dropped = weights if factors is None else weights * factors
    dv = jnp.einsum("bhqk,bhqd->bhkd", dropped, g)
    dw = jnp.einsum("bhqd,bhkd->bhqk", g, value).astype(jnp.float32)
    if factors is not None:
        dw = dw * factors
    scores = weights.astype(jnp.float32) * (dw - mean[..., None])
    if padding is not None:
        scores = jnp.where(padding[:, None, None], 0.0, scores)
    dgate = None if gate is None or bias is None else (scores * bias[None]).sum(-1)
    rounded = cuda_barrier(scores.astype(query.dtype))
    dq = jnp.einsum("bhqk,bhkd->bhqd", rounded, key)
    dk = jnp.einsum("bhqk,bhqd->bhkd", rounded, query)
    dbias = None
    if bias is not None:
        scores = rounded.astype(jnp.float32)
        dbias = (scores if gate is None else scores * gate[..., None]).sum(0)
    dq, dk, dv = (jnp.moveaxis(x, 1, 2) for x in (dq, dk, dv))
    return dq, dk, dv, dgate, dbias, None, None


attend.defvjp(_forward, _backward)
