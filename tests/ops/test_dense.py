"""The linear layer against that of flax."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esc_jax.ops.dense import Dense


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5), (2, 1, 3, 5)])
def test_values_and_gradients_are_those_of_flax(shape):
    x = jax.random.normal(jax.random.key(0), shape)
    variables = nn.Dense(4).init(jax.random.key(1), x)
    variables["params"]["bias"] += jnp.arange(4.0)

    def loss(layer):
        return lambda variables, x: jnp.sin(layer.apply(variables, x)).sum()

    assert Dense(4).apply(variables, x).shape == (*shape[:-1], 4)
    result, expected = (jax.value_and_grad(loss(layer), (0, 1))(variables, x) for layer in (Dense(4), nn.Dense(4)))
    # The same sums of at most six products in another order.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), result, expected)
