"""Scores of attention against automatic differentiation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esc_jax.ops import transformer


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradient_of_scores_is_that_of_the_product(dtype):
    rng = np.random.default_rng(0)
    query, key = (jnp.asarray(rng.normal(size=(2, 7, 3, 4)), dtype) for _ in range(2))
    weights = rng.normal(size=(2, 3, 7, 7)).astype(np.float32)

    def plain(query, key):
        return (jnp.einsum("bqhd,bkhd->bhqk", query.astype(jnp.float32), key.astype(jnp.float32)) * weights).sum()

    value, gradients = jax.jit(jax.value_and_grad(plain, (0, 1)))(query, key)
    ours = jax.jit(jax.value_and_grad(lambda q, k: (transformer.attention_scores(q, k) * weights).sum(), (0, 1)))
    result, results = ours(query, key)
    np.testing.assert_allclose(result, value, rtol=1e-5)
    for gradient, expected in zip(results, gradients, strict=True):
        assert gradient.dtype == dtype
        tolerance = 1e-5 if dtype == "float32" else 0.05  # the gradient of the scores is rounded to 8 bits
        gradient, expected = np.asarray(gradient, np.float32), np.asarray(expected, np.float32)
        np.testing.assert_allclose(gradient, expected, atol=tolerance, rtol=tolerance)


def test_products_of_the_gradient_have_the_dtype_of_the_inputs():
    shape = jax.ShapeDtypeStruct((2, 7, 3, 4), jnp.bfloat16)
    program = jax.jit(jax.grad(lambda q, k: transformer.attention_scores(q, k).sum(), (0, 1))).trace(shape, shape)
    text = program.lower(lowering_platforms=("cuda",)).as_text()
    products = [line.rpartition("->")[0] for line in text.splitlines() if "stablehlo.dot_general" in line]
    assert len(products) >= 2 and all("f32>" not in line.replace("bf16>", "") for line in products)
