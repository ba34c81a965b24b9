"""Architecture: sizes, published parameter counts, training. Values are compared in tests/pretrained."""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esc_jax.models.efficientat import EfficientAT, InvertedResidual, head_width, layout
from esc_jax.models.encoder import Classifier
from esc_jax.models.heads import Mlp


def count(tree):
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def test_number_of_values_is_that_of_the_published_file():
    model = Classifier(EfficientAT(0.4), Mlp(527, head_width(0.4)))
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 32)))
    assert count(shapes) == 993_485 - 46  # of mn04_as_mAP_432.pt, less torch's 46 batch counters
    # The README of fschmid56/EfficientAT says 0.983 million, cut after three digits.
    assert int(count(shapes["params"]) / 1_000) == 983


def test_map_embedding_and_dtypes_in_bfloat16():
    model, features = EfficientAT(0.4, dtype=jnp.bfloat16), jnp.zeros((2, 500, 128))
    variables = jax.eval_shape(model.init, jax.random.key(0), features)
    train = functools.partial(model.apply, train=True, mutable=["batch_stats"])
    evaluated, (trained, changed) = (jax.eval_shape(run, variables, features) for run in (model.apply, train))
    for out in (evaluated, trained):
        assert (out.features.shape, out.features.dtype) == ((2, 16, 4, 384), jnp.bfloat16)
        assert (out.embedding.shape, out.embedding.dtype) == ((2, 384), jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert changed["batch_stats"] == variables["batch_stats"]


def test_gradient_of_a_block_agrees_with_finite_differences():
    spec = next(spec for spec in layout(0.1) if spec.squeeze and spec.residual)
    block = InvertedResidual(spec)
    x = jax.random.normal(jax.random.key(1), (2, 6, 5, spec.inputs))
    variables = jax.jit(functools.partial(block.init, train=True))(jax.random.key(0), x)
    direction = jax.tree.map(lambda a: jnp.cos(jnp.arange(a.size, dtype=a.dtype)).reshape(a.shape), variables["params"])
    weights = jax.random.normal(jax.random.key(2), x.shape)

    @jax.jit
    def loss(step):
        params = jax.tree.map(lambda p, d: p + step * d, variables["params"], direction)
        (y, _), _ = block.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
        return (weights * y).sum()

    step = 1e-3
    numeric = (loss(step) - loss(-step)) / (2 * step)
    # Central differences in float32 (a loss of order 10, rounding 1e-6): 1e-3 from rounding, as much from curvature.
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(0.0), numeric, rtol=1e-2, atol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("embedding", ["last", "bottlenecks", "blocks"])
def test_an_embedding_of_several_levels_starts_with_the_last(embedding):
    """Against the intermediate values that flax captures, averaged over time and frequency where they are maps."""
    x = jax.random.normal(jax.random.key(1), (2, 64, 32))
    model = EfficientAT(0.1, embedding)
    variables = jax.jit(EfficientAT(0.1).init)(jax.random.key(0), x)  # the weights do not depend on the option
    apply = functools.partial(model.apply, capture_intermediates=True, mutable=["intermediates"])
    encoded, captured = jax.jit(apply)(variables, x)
    values = captured["intermediates"]
    blocks = [values[f"block{number}"] for number in range(1, 16)]
    expected = [encoded.features.mean((1, 2))]
    if embedding == "bottlenecks":
        expected += [nn.relu(block["se"]["reduce"]["__call__"][0]) for block in blocks if "se" in block]
    if embedding == "blocks":
        expected += [block["__call__"][0][0].mean((1, 2)) for block in blocks]
    rest = {"bottlenecks": sum(s.squeeze for s in layout(0.1)), "blocks": sum(s.outputs for s in layout(0.1))}
    assert encoded.embedding.shape == (2, 96 + rest.get(embedding, 0))
    np.testing.assert_allclose(encoded.embedding, jnp.concatenate(expected, 1), rtol=1e-5, atol=1e-6)


def test_statistics_move_in_training_only():
    spec = layout(0.1)[0]
    block = InvertedResidual(spec)
    x = 1.0 + jax.random.normal(jax.random.key(1), (2, 6, 5, spec.inputs))
    variables = block.init(jax.random.key(0), x, train=False)
    _, trained = block.apply(variables, x, train=True, mutable=["batch_stats"])
    _, evaluated = block.apply(variables, x, train=False, mutable=["batch_stats"])
    jax.tree.map(np.testing.assert_array_equal, evaluated["batch_stats"], variables["batch_stats"])
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), trained["batch_stats"], variables["batch_stats"])
    assert all(jax.tree.leaves(changed))
