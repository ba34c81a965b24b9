"""Against XLA's own pooling and its gradient."""

from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esc_jax.ops.max_pool import max_pool


def value_and_gradient(pool, x, weights):
    out, transpose = jax.vjp(pool, x)
    return out, transpose(weights)[0]


def check(x, window, strides, pads):
    x = jnp.asarray(x, jnp.float32)
    xla = lambda x: nn.max_pool(x, window, strides, pads)  # noqa: E731
    weights = np.random.default_rng(1).standard_normal(jax.eval_shape(xla, x).shape).astype(np.float32)
    result = jax.jit(lambda x, w: value_and_gradient(lambda x: max_pool(x, window, strides, pads), x, w))(x, weights)
    expected = jax.jit(lambda x, w: value_and_gradient(xla, x, w))(x, weights)
    np.testing.assert_array_equal(result[0], expected[0])
    # Sums of up to nine numbers of order 1, in another order.
    np.testing.assert_allclose(result[1], expected[1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("values", ["distinct", "ties"])
def test_equals_xlas(values):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 13, 10, 5)) if values == "distinct" else rng.integers(0, 3, (2, 13, 10, 5))
    check(x, (3, 3), (2, 2), ((1, 1), (1, 1)))


@settings(max_examples=8)
@given(
    size=st.tuples(st.integers(4, 9), st.integers(4, 9)),
    window=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    data=st.data(),
)
def test_any_window(size, window, strides, data):
    pads = tuple(tuple(data.draw(st.integers(0, min(2, n - 1))) for _ in range(2)) for n in window)
    check(np.random.default_rng(0).integers(0, 6, (1, *size, 2)), window, strides, pads)
