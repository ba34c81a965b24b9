"""Against the batch normalization of flax."""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esc_jax.ops.batch_norm import BatchNorm


def example(rows=(4, 6, 5)):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(2.0, 3.0, size=(*rows, 3)), jnp.float32)
    variables = {
        "params": {"scale": jnp.array([0.5, 1.0, 2.0]), "bias": jnp.array([1.0, 0.0, -1.0])},
        "batch_stats": {"mean": jnp.array([1.0, 2.0, 3.0]), "var": jnp.array([1.0, 4.0, 9.0])},
    }
    return x, variables


@pytest.mark.parametrize("rows", [(4, 6, 5), (2, 3, 5), (3, 5, 7), (1,)])  # 8, 2 or 1 blocks of rows; a single row
def test_value_gradient_and_statistics_equal_flax(rows):
    x, variables = example(rows)
    weights = jnp.cos(jnp.arange(x.size, dtype=jnp.float32)).reshape(x.shape)

    def run(apply):
        def loss(params, x):
            y, changed = apply({**variables, "params": params}, x)
            return (weights * y).sum(), (y, changed)

        return jax.value_and_grad(loss, (0, 1), has_aux=True)(variables["params"], x)

    result = run(lambda v, x: BatchNorm(0.9, 1e-3).apply(v, x, True, mutable=["batch_stats"]))
    expected = run(lambda v, x: nn.BatchNorm(False, momentum=0.9, epsilon=1e-3).apply(v, x, mutable=["batch_stats"]))
    # The gradient's three terms cancel; float32 sums over 120 values of order 10.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), result, expected)


def test_evaluation_uses_the_running_statistics():
    x, variables = example()
    stats, params = variables["batch_stats"], variables["params"]
    shape = (1, 1, 1, 3)
    expected = (x - stats["mean"].reshape(shape)) / np.sqrt(stats["var"] + 1e-5).reshape(shape)
    expected = expected * params["scale"].reshape(shape) + params["bias"].reshape(shape)
    np.testing.assert_allclose(BatchNorm().apply(variables, x, False), expected, rtol=1e-5, atol=1e-5)  # float32


def test_devices_share_one_batch():
    x, variables = example()
    whole, changed = BatchNorm().apply(variables, x, True, mutable=["batch_stats"])
    step = functools.partial(BatchNorm(axis_name="batch").apply, train=True, mutable=["batch_stats"])
    parts, shared = jax.vmap(lambda part: step(variables, part), axis_name="batch")(x[:, None])
    # The same mean in two steps of float32 summation.
    np.testing.assert_allclose(parts[:, 0], whole, rtol=1e-5, atol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, jnp.broadcast_to(b, a.shape), rtol=1e-5),
        shared,
        jax.tree.map(lambda a: a[None], changed),
    )
