"""Attention against automatic differentiation of the formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esc_jax.ops.attention import dot_product_attention

BATCH, TIME, HEADS, SIZE = 3, 7, 2, 4
PADDING = jnp.arange(TIME)[None] >= jnp.asarray([[7], [4], [0]])  # the last clip is all padding
# In bfloat16, the gradient of the scores and the weights that it is computed from are rounded to 8 bits.
TOLERANCE = {"float32": 1e-5, "bfloat16": 0.05}


def plain(query, key, value, gate, bias, padding, factors):
    """The formula in float32, one clip, head and query after the other."""
    query, key, value = (x.astype(jnp.float32) for x in (query, key, value))
    out = np.zeros((BATCH, TIME, HEADS, SIZE)).tolist()
    weights = np.zeros((BATCH, HEADS, TIME)).tolist()
    for b, h, q in np.ndindex(BATCH, HEADS, TIME):
        scores = key[b, :, h] @ query[b, q, h]
        if bias is not None:
            scores = scores + (bias[h, q] if gate is None else gate[b, h, q] * bias[h, q])
        if padding is not None:
            scores = jnp.where(padding[b], -3e38, scores)
        powers = jnp.exp(scores - scores.max())
        w = powers / powers.sum()
        weights[b][h][q] = w
        out[b][q][h] = (w if factors is None else w * factors[b, h, q].astype(jnp.float32)) @ value[b, :, h]
    return jnp.asarray(out), jnp.asarray(weights)


def example(dtype="float32"):
    rng = np.random.default_rng(0)
    query, key, value = (jnp.asarray(rng.normal(size=(BATCH, TIME, HEADS, SIZE)), dtype) for _ in range(3))
    gate = jnp.asarray(rng.normal(size=(BATCH, HEADS, TIME)), jnp.float32)
    bias = jnp.asarray(rng.normal(size=(HEADS, TIME, TIME)), jnp.float32)
    factors = jnp.asarray(rng.choice([0.0, 1.25], size=(BATCH, HEADS, TIME, TIME)), dtype)
    return query, key, value, gate, bias, factors


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("added", ["gated bias", "bias", "nothing"])
@pytest.mark.parametrize("dropout", [False, True])
def test_values_and_gradients_are_those_of_the_formula(dtype, masked, added, dropout):
    *arguments, gate, bias, factors = example(dtype)
    arguments += {"gated bias": [gate, bias], "bias": [bias], "nothing": []}[added]
    padding = PADDING if masked else None
    weighting = np.random.default_rng(1).normal(size=(BATCH, TIME, HEADS, SIZE)).astype(np.float32)

    def total(function, *arguments):
        query, key, value, *rest = arguments
        gate, bias = {2: rest, 1: [None, *rest], 0: [None, None]}[len(rest)]
        out, weights = function(query, key, value, gate, bias, padding, factors if dropout else None)
        return (out.astype(jnp.float32) * weighting).sum(), (out, weights)

    def run(function):
        return jax.jit(jax.value_and_grad(lambda *a: total(function, *a), range(len(arguments)), has_aux=True))

    (_, values), gradients = run(dot_product_attention)(*arguments)
    (_, expected), expected_gradients = run(plain)(*arguments)
    for value, other, scale in zip(values, expected, (1.0, 0.1), strict=True):
        assert value.dtype == dtype
        np.testing.assert_allclose(value.astype(jnp.float32), other, atol=scale * TOLERANCE[dtype])
    for gradient, argument, other in zip(gradients, arguments, expected_gradients, strict=True):
        assert gradient.dtype == argument.dtype
        gradient, other = (np.asarray(x, np.float32) for x in (gradient, other))
        np.testing.assert_allclose(gradient, other, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
        assert np.abs(other).max() > 0.1
    if masked:
        assert np.all(np.asarray(values[1].astype(jnp.float32))[1, :, :, 4:] == 0)


def shapes():
    return [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in example("bfloat16")[:5]]


def test_products_have_the_dtype_of_the_inputs():
    function = jax.grad(lambda *a: dot_product_attention(*a)[0].astype(jnp.float32).sum(), range(5))
    text = jax.jit(function).trace(*shapes()).lower(lowering_platforms=("cuda",)).as_text()
    products = [line.rpartition("->")[0] for line in text.splitlines() if "stablehlo.dot_general" in line]
    assert len(products) == 6 and all("f32>" not in line.replace("bf16>", "") for line in products)


def test_no_float32_array_of_all_pairs_is_kept_for_the_gradient():
    _, backward, _ = jax.eval_shape(
        lambda *a: jax.vjp(lambda *b: dot_product_attention(*b), *a, has_aux=True), *shapes()
    )
    kept = [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(backward) if leaf.size == BATCH * HEADS * TIME * TIME]
    assert kept == [((BATCH, HEADS, TIME, TIME), jnp.bfloat16)]
