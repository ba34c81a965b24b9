"""Dropout: its rate and its mean."""

import jax
import jax.numpy as jnp
import numpy as np

from esc_jax.ops.dropout import Dropout


def test_dropout_has_its_rate_and_keeps_the_mean():
    x = jnp.ones((64, 1000))
    y = Dropout(0.3).apply({}, x, train=True, rngs={"dropout": jax.random.key(0)})
    assert abs(float((y == 0).mean()) - 0.3) < 0.01
    np.testing.assert_allclose(y[y != 0], 1 / 0.7, rtol=1e-6)
    assert len(np.unique(np.asarray(y), axis=0)) == 64
    np.testing.assert_array_equal(Dropout(0.3).apply({}, x, train=False), x)
