"""The layers of a model against each layer alone."""

from collections.abc import Mapping
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esc_jax.ops.eval_mode import eval_mode
from esc_jax.ops.transformer import TransformerLayer, apply_layers, scale_gradient
from esc_jax.runtime import devices

X = jnp.asarray(np.random.default_rng(3).standard_normal((8, 5, 8)), jnp.float32)
BIAS = jnp.asarray(np.random.default_rng(4).standard_normal((2, 5, 5)), jnp.float32)
PADDING = jnp.arange(5)[None] >= jnp.asarray([[5], [3], [4], [1], [2], [5], [5], [3]])
RATES = {"dropout": 0.2, "attention_dropout": 0.3, "activation_dropout": 0.1}
DEEP_NORM = {"norm_first": False, "deep_norm": True, "gated": True}


class Stack(nn.Module):
    """A module with nothing but layers."""

    fields: Mapping[str, Any] = nn.FrozenDict()
    options: Mapping[str, Any] = nn.FrozenDict()
    masked: bool = False
    layers: int = 3

    @nn.compact
    def __call__(self, x, train=False):
        layer = TransformerLayer(2, 12, self.layers, **self.fields, parent=None)
        bias, padding = (BIAS, PADDING) if self.masked else (None, None)
        return apply_layers(self, layer, x, bias, padding, train=train, **self.options)


def stack(fields=(), masked=False, **options):
    return Stack(nn.FrozenDict(fields), nn.FrozenDict(options), masked)


def parameters(module, x=X):
    """Random parameters, without compiling the initialization."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    return jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.standard_normal(leaf.shape), leaf.dtype), shapes)


def streams(seed):
    return {"dropout": jax.random.key(seed), "droppath": jax.random.key(seed + 1)}


def layers_alone(module, variables):
    """For each layer, the function x → output of the layer without dropout."""
    layer = TransformerLayer(2, 12, module.layers, **module.fields)
    arguments = (BIAS, PADDING) if module.masked else (None, None)
    params = [variables["params"][f"layer_{number}"] for number in range(module.layers)]
    return [lambda x, p=p: layer.apply({"params": p}, x, *arguments, False) for p in params]


@pytest.mark.parametrize(
    ("fields", "masked", "remat"), [(DEEP_NORM, True, False), ({}, False, True)], ids=["post-norm", "pre-norm, remat"]
)
def test_layers_follow_one_another(fields, masked, remat):
    module = stack(fields, masked, remat=remat, gradient=0.6, collect=True)
    variables = parameters(module)
    outputs, backward = jax.vjp(jax.jit(lambda x: module.apply(variables, x)), X)
    expected, pullbacks = [X], []
    for layer in layers_alone(module, variables):
        y, pullback = jax.vjp(jax.jit(layer), expected[-1])
        expected.append(y)
        pullbacks.append(pullback)
    assert len(outputs) == 3
    for output, y in zip(outputs, expected[1:], strict=True):
        np.testing.assert_allclose(output, y, atol=1e-5)

    (gradient,) = backward([*map(jnp.zeros_like, outputs[:-1]), jnp.cos(outputs[-1])])
    g = jnp.cos(expected[-1])
    for pullback in reversed(pullbacks):
        g = 0.6 * pullback(g)[0]
    np.testing.assert_allclose(gradient, g, atol=1e-5 * np.abs(g).max())


def test_the_last_output_alone():
    module = stack()
    variables = parameters(module)
    (output,) = module.apply(variables, X)
    np.testing.assert_array_equal(output, stack(collect=True).apply(variables, X)[-1])
    assert stack().clone(layers=0).apply({}, X) == []


def test_layer_drop_skips_a_layer_for_some_examples():
    module = stack(drop_rates=(0.0, 0.5, 1.0), collect=True)
    variables = parameters(module)
    run = jax.jit(lambda seed: module.apply(variables, X, train=True, rngs=streams(seed)))
    skips = []
    for seed in range(4):
        x, skipped = X, []
        for layer, output in zip(layers_alone(module, variables), run(seed), strict=True):
            skip = np.all(output == x, axis=(1, 2))
            np.testing.assert_allclose(output, np.where(skip[:, None, None], x, jax.jit(layer)(x)), atol=1e-5)
            skipped.append(skip)
            x = output
        skips.append(skipped)
    never, sometimes, always = np.stack(skips, 1)
    assert not never.any() and always.all()
    assert 6 < sometimes.sum() < 26  # of 32, outside with a probability of 2 in 10,000
    assert len(np.unique(sometimes, axis=0)) > 1  # another seed, other examples
    outputs = jax.jit(module.apply)(variables, X)
    assert not np.any(outputs[-1] == outputs[-2])  # none is skipped in evaluation


@pytest.mark.parametrize("remat", [False, True])
def test_layers_in_evaluation_mode_have_no_dropout(remat):
    module = stack(RATES, remat=remat, collect=True)
    variables = parameters(module)

    @jax.jit
    def run():
        with eval_mode(("layer_0", "layer_1").__contains__):
            return module.apply(variables, X, train=True, rngs=streams(0)), module.apply(variables, X)

    training, evaluation = run()
    np.testing.assert_allclose(training[1], evaluation[1], atol=1e-5)
    assert np.abs(training[2] - evaluation[2]).max() > 0.01


def test_draws_of_layers_do_not_depend_on_the_number_of_devices():
    module = stack(RATES, drop_rates=(0.4,) * 3)
    variables = parameters(module)

    def run(x):
        return module.apply(variables, x, train=True, rngs=streams(0))[-1]

    one, four = (
        np.asarray(jax.pmap(run, axis_name=devices.AXIS, devices=jax.devices()[:n])(X.reshape(n, -1, 5, 8)))
        for n in (1, 4)
    )
    np.testing.assert_allclose(four.reshape(X.shape), one.reshape(X.shape), atol=1e-5)


@pytest.mark.parametrize("norm_first", [True, False])
def test_layers_in_bfloat16_keep_the_type(norm_first):
    module = stack({"dtype": jnp.bfloat16, "norm_first": norm_first})
    x = X.astype(jnp.bfloat16)
    output = jax.eval_shape(lambda v: module.apply(v, x)[-1], parameters(module, x))
    assert output.dtype == jnp.bfloat16


def test_scale_gradient():
    value, slope = jax.value_and_grad(lambda x: jnp.sum(scale_gradient(x, 0.6) ** 2))(jnp.asarray([1.0, 2.0]))
    assert float(value) == 5.0
    np.testing.assert_allclose(slope, [1.2, 2.4], rtol=1e-6)  # one float32 product
