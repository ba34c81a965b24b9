"""Layer normalization against flax.linen.LayerNorm."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esc_jax.ops.layer_norm import LayerNorm

SHAPE = (3, 5, 16)


def values_and_gradients(module, variables, x, factors):
    def total(variables, x):
        y = module.apply(variables, x)
        return (y.astype(jnp.float32) * factors).sum(), y

    (_, y), gradients = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(variables, x)
    return y, gradients


@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_values_and_gradients_are_those_of_flax(offset):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=SHAPE) + offset, jnp.float32)
    factors = rng.normal(size=SHAPE).astype(np.float32)
    module, reference = LayerNorm(epsilon=1e-3), nn.LayerNorm(epsilon=1e-3, use_fast_variance=False)
    variables = jax.tree.map(
        lambda p: p + rng.normal(size=p.shape).astype(np.float32), module.init(jax.random.key(0), x)
    )
    assert jax.tree.structure(variables) == jax.tree.structure(reference.init(jax.random.key(0), x))
    # Numbers of 300 in float32 have an error of 3e-5, relative to their deviations of 1.
    tolerance = 1e-5 if offset == 0 else 1e-3
    for value, other in zip(
        jax.tree.leaves(values_and_gradients(module, variables, x, factors)),
        jax.tree.leaves(values_and_gradients(reference, variables, x, factors)),
        strict=True,
    ):
        np.testing.assert_allclose(value, other, atol=tolerance, rtol=tolerance)


def test_statistics_of_bfloat16_inputs_are_float32():
    x = jnp.asarray(np.random.default_rng(0).normal(size=SHAPE) + 4, jnp.bfloat16)
    module = LayerNorm(jnp.bfloat16)
    y = module.apply(module.init(jax.random.key(0), x), x)
    assert y.dtype == jnp.bfloat16
    exact = np.asarray(x, np.float64)
    exact = (exact - exact.mean(-1, keepdims=True)) / np.sqrt(exact.var(-1, keepdims=True) + 1e-5)
    # Rounding to bfloat16 has a relative error of at most 2⁻⁹; statistics in bfloat16 would have errors of 0.03.
    np.testing.assert_allclose(np.asarray(y, np.float64), exact, rtol=2**-8, atol=1e-4)
