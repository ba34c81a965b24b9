"""Activation functions against the functions of flax and their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esc_jax.ops.activations import ACTIVATIONS


@pytest.mark.parametrize(("name", "approximate"), [("gelu", False), ("gelu_fast", True), ("gelu_accurate", True)])
def test_gelu_and_its_gradient_equal_jax(name, approximate):
    x = jnp.linspace(-6.0, 6.0, 101)
    value, backward = jax.vjp(ACTIVATIONS[name], x)
    expected, expected_backward = jax.vjp(lambda x: jax.nn.gelu(x, approximate=approximate), x)
    np.testing.assert_array_equal(value, expected)
    np.testing.assert_allclose(backward(jnp.cos(x))[0], expected_backward(jnp.cos(x))[0], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["gelu", "gelu_fast"])
def test_the_input_alone_is_kept_for_the_gradient(name):
    x = jax.ShapeDtypeStruct((33,), jnp.bfloat16)
    _, backward = jax.eval_shape(lambda x: jax.vjp(ACTIVATIONS[name], x), x)
    assert [leaf.dtype for leaf in jax.tree.leaves(backward) if leaf.shape == (33,)] == [jnp.bfloat16]
