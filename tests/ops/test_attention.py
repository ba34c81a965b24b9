"""Attention weights against automatic differentiation of the formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esc_jax.ops.attention import attention_weights

BATCH, TIME, HEADS, SIZE = 3, 7, 2, 4
PADDING = jnp.arange(TIME)[None] >= jnp.asarray([[7], [4], [0]])  # the last clip is all padding
# In bfloat16, the gradient of the scores and the weights that it is computed from are rounded to 8 bits.
TOLERANCE = {"float32": 1e-5, "bfloat16": 0.05}


def plain(query, key, gate, bias, padding):
    """The formula in float32, one clip, head and query after the other."""
    query, key = query.astype(jnp.float32), key.astype(jnp.float32)
    clips = []
    for b in range(BATCH):
        heads = []
        for h in range(HEADS):
            rows = []
            for q in range(TIME):
                scores = key[b, :, h] @ query[b, q, h]
                if bias is not None:
                    scores = scores + (bias[h, q] if gate is None else gate[b, h, q] * bias[h, q])
                if padding is not None:
                    scores = jnp.where(padding[b], -3e38, scores)
                powers = jnp.exp(scores - scores.max())
                rows.append(powers / powers.sum())
            heads.append(jnp.stack(rows))
        clips.append(jnp.stack(heads))
    return jnp.stack(clips)


def example(dtype="float32"):
    rng = np.random.default_rng(0)
    query, key = (jnp.asarray(rng.normal(size=(BATCH, TIME, HEADS, SIZE)), dtype) for _ in range(2))
    gate = jnp.asarray(rng.normal(size=(BATCH, HEADS, TIME)), jnp.float32)
    bias = jnp.asarray(rng.normal(size=(HEADS, TIME, TIME)), jnp.float32)
    return query, key, gate, bias, rng.normal(size=(BATCH, HEADS, TIME, TIME)).astype(np.float32)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("added", ["gated bias", "bias", "nothing"])
def test_values_and_gradients_are_those_of_the_formula(dtype, masked, added):
    query, key, gate, bias, factors = example(dtype)
    arguments = [query, key] + ([gate] if added == "gated bias" else []) + ([bias] if added != "nothing" else [])
    padding = PADDING if masked else None

    def total(function, *arguments):
        query, key, *rest = arguments
        gate, bias = {2: rest, 1: [None, *rest], 0: [None, None]}[len(rest)]
        weights = function(query, key, gate, bias, padding)
        return (weights.astype(jnp.float32) * factors).sum(), weights

    def run(function):
        return jax.jit(jax.value_and_grad(lambda *a: total(function, *a), range(len(arguments)), has_aux=True))

    (_, weights), gradients = run(attention_weights)(*arguments)
    (_, expected), expected_gradients = run(plain)(*arguments)
    assert weights.dtype == dtype
    np.testing.assert_allclose(weights.astype(jnp.float32), expected, atol=0.1 * TOLERANCE[dtype])
    for gradient, argument, other in zip(gradients, arguments, expected_gradients, strict=True):
        assert gradient.dtype == argument.dtype
        gradient, other = (np.asarray(x, np.float32) for x in (gradient, other))
        np.testing.assert_allclose(gradient, other, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
        assert np.abs(other).max() > 0.1
    if masked:
        assert np.all(np.asarray(weights.astype(jnp.float32))[1, :, :, 4:] == 0)


def test_products_have_the_dtype_of_the_inputs():
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in example("bfloat16")[:4]]
    function = jax.grad(lambda *a: attention_weights(*a, None).astype(jnp.float32).sum(), (0, 1, 2, 3))
    text = jax.jit(function).trace(*shapes).lower(lowering_platforms=("cuda",)).as_text()
    products = [line.rpartition("->")[0] for line in text.splitlines() if "stablehlo.dot_general" in line]
    assert len(products) >= 2 and all("f32>" not in line.replace("bf16>", "") for line in products)


def test_no_float32_array_of_all_pairs_is_kept_for_the_gradient():
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in example("bfloat16")[:4]]
    _, backward = jax.eval_shape(lambda *a: jax.vjp(lambda *b: attention_weights(*b, None), *a), *shapes)
    kept = [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(backward) if leaf.size == BATCH * HEADS * TIME * TIME]
    assert kept == [((BATCH, HEADS, TIME, TIME), jnp.bfloat16)]
