"""Layers in a loop against the same layers one after the other."""

from collections.abc import Mapping
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esc_jax.models.encoder import Classifier
from esc_jax.models.heads import Linear
from esc_jax.models.hubert import Hubert
from esc_jax.ops.eval_mode import eval_mode
from esc_jax.ops.layer_loop import apply_layers, scale_gradient, use_loop
from esc_jax.ops.transformer import TransformerLayer
from esc_jax.runtime import devices

X = jnp.asarray(np.random.default_rng(3).standard_normal((4, 5, 8)), jnp.float32)
BIAS = jnp.asarray(np.random.default_rng(4).standard_normal((2, 5, 5)), jnp.float32)
PADDING = jnp.arange(5)[None] >= jnp.asarray([[5], [3], [4], [1]])
RATES = {"dropout": 0.2, "attention_dropout": 0.3, "activation_dropout": 0.1}
DEEP_NORM = {"norm_first": False, "deep_norm": True, "gated": True}


class Stack(nn.Module):
    """A module with nothing but layers."""

    layers: int = 4
    fields: Mapping[str, Any] = nn.FrozenDict()
    options: Mapping[str, Any] = nn.FrozenDict()
    masked: bool = False

    @nn.compact
    def __call__(self, x, train=False):
        layer = TransformerLayer(2, 12, self.layers, **self.fields, parent=None)
        bias, padding = (BIAS, PADDING[: len(x)]) if self.masked else (None, None)
        return apply_layers(self, layer, x, bias, padding, train=train, **self.options)


def parameters(module, x):
    """Random parameters, without compiling the initialization."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    return jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.standard_normal(leaf.shape), leaf.dtype), shapes)


def streams(seed):
    return {"dropout": jax.random.key(seed), "droppath": jax.random.key(seed + 1)}


def gradient(module, loop, train=True):
    """(variables, x, seed) → outputs, and gradients of all arrays."""

    def loss(variables, x, seed):
        with use_loop(loop):
            output = module.apply(variables, x, train=train, rngs=streams(seed))
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(output)), output

    return jax.grad(loss, argnums=(0, 1), has_aux=True)


def products(function, *arguments):
    """Number of matrix products in the program."""
    return jax.jit(function).lower(*arguments).as_text().count("stablehlo.dot_general")


@pytest.mark.parametrize(
    ("fields", "options", "masked"),
    [
        (DEEP_NORM, {"gradient": 0.6}, True),
        ({"attention_dropout": 0.3}, {"drop_rates": (0.3,) * 4, "remat": True}, True),
        ({}, {"drop_rates": (0.1, 0.3, 0.5, 0.7), "collect": True}, False),
    ],
    ids=["post-norm", "remat", "pre-norm"],
)
def test_a_loop_equals_a_sequence(fields, options, masked):
    module = Stack(fields=nn.FrozenDict(fields), options=nn.FrozenDict(options), masked=masked)
    variables = parameters(module, X)

    @jax.jit
    def run(variables, x, seed):
        return [gradient(module, loop)(variables, x, seed) for loop in (False, True)]

    sequence, loop = run(variables, X, 0)
    assert len(loop[1]) == (4 if options.get("collect") else 1)
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(sequence))
    # The same float32 operations, fused otherwise: rounding, relative to the largest value.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * scale), sequence, loop)
    if "drop_rates" in options:  # another seed gives other values
        assert np.abs(run(variables, X, 5)[1][1][-1] - loop[1][-1]).max() > 0.01


def test_a_model_whose_stream_and_hidden_states_reach_the_loop():
    encoder = Hubert(
        hidden_size=8, num_hidden_layers=4, num_attention_heads=2, intermediate_size=12, conv_dim=(4, 4),
        conv_kernel=(10, 3), conv_stride=(5, 2), num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
        weighted_layer_sum=True, layerdrop=0.2,
    )  # fmt: skip
    module, x = Classifier(encoder, Linear(3)), jnp.sin(jnp.arange(200.0)).reshape(2, 100)
    variables = parameters(module, x)

    @jax.jit
    def run(variables):
        results = []
        for loop in (False, True):
            with use_loop(loop):
                results.append(module.apply(variables, x, train=True, rngs=streams(0)))
        return results

    sequence, loop = run(variables)
    assert np.abs(sequence).max() > 0.01
    np.testing.assert_allclose(sequence, loop, atol=1e-5)


def test_the_program_of_a_loop_does_not_grow_with_the_depth():
    counts = {}
    for layers in (4, 8):
        module = Stack(layers=layers, fields=nn.FrozenDict(DEEP_NORM | RATES), masked=True)
        variables = parameters(module, X)
        for loop in (False, True):
            counts[layers, loop] = products(gradient(module, loop), variables, X, 0)
    assert counts[4, True] == counts[8, True] < counts[4, False]
    assert counts[8, False] == 2 * counts[4, False]


def test_fewer_layers_and_collected_intermediates_need_no_loop():
    few, many = Stack(layers=3), Stack(layers=4)
    with use_loop(True):
        assert products(few.apply, parameters(few, X), X) == 3 * 8  # products of a layer
        assert products(many.apply, parameters(many, X), X) == 8
        shapes = jax.eval_shape(lambda v: many.apply(v, X, mutable=["intermediates"])[1], parameters(many, X))
    attention = shapes["intermediates"]["layer_3"]["attention"]["attention"][0]
    assert attention.shape == (4, 2, 5, 5)
    # On CPU, without the context: one after the other.
    assert products(many.apply, parameters(many, X), X) == 4 * 8


LOWER = frozenset(f"layer_{i}" for i in range(4))


def partly_frozen(module, loop):
    """variables → gradients with `LOWER` frozen, and the output."""

    def loss(variables):
        layers = {k: jax.lax.stop_gradient(v) if k in LOWER else v for k, v in variables["params"].items()}
        with use_loop(loop), eval_mode(LOWER.__contains__):
            output = module.apply({"params": layers}, X, train=True, rngs=streams(0))
        return jnp.sum(jnp.sin(output[-1])), output[-1]

    return jax.grad(loss, has_aux=True)


def test_frozen_layers_have_a_loop_without_a_backward_pass():
    module = Stack(layers=8, fields=nn.FrozenDict(DEEP_NORM | RATES), masked=True)
    variables = parameters(module, X)
    forward = products(lambda v: _applied(module, v), variables)
    backward = products(lambda v: jax.grad(lambda v: jnp.sum(jnp.sin(_applied(module, v))))(v), variables)
    assert products(partly_frozen(module, True), variables) == forward + backward


@pytest.mark.slow
def test_frozen_layers_run_in_evaluation_mode():
    module = Stack(layers=8, fields=nn.FrozenDict({"dropout": 0.3}))
    variables = parameters(module, X)
    sequence, loop = jax.jit(lambda v: [partly_frozen(module, loop)(v) for loop in (False, True)])(variables)
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(sequence))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * scale), sequence, loop)
    kernels = [loop[0]["params"][f"layer_{i}"]["output"]["kernel"] for i in (3, 4)]
    assert not np.any(kernels[0]) and np.any(kernels[1])


def _applied(module, variables):
    with use_loop(True):
        return module.apply(variables, X, train=True, rngs=streams(0))[-1]


def test_draws_do_not_depend_on_the_number_of_devices():
    module = Stack(fields=nn.FrozenDict(RATES), options=nn.FrozenDict({"drop_rates": (0.4,) * 4}))
    variables = parameters(module, X)

    def run(x):
        with use_loop(True):
            return module.apply(variables, x, train=True, rngs=streams(0))[-1]

    one, four = (
        np.asarray(jax.pmap(run, axis_name=devices.AXIS, devices=jax.devices()[:n])(X.reshape(n, -1, 5, 8)))
        for n in (1, 4)
    )
    np.testing.assert_allclose(four.reshape(X.shape), one.reshape(X.shape), atol=1e-5)


@pytest.mark.parametrize("norm_first", [True, False])
def test_a_loop_in_bfloat16_keeps_the_type(norm_first):
    module = Stack(fields=nn.FrozenDict({"dtype": jnp.bfloat16, "norm_first": norm_first}))
    x = X.astype(jnp.bfloat16)
    with use_loop(True):
        output = jax.eval_shape(lambda v: module.apply(v, x)[-1], parameters(module, x))
    assert output.dtype == jnp.bfloat16


def test_scale_gradient():
    value, slope = jax.value_and_grad(lambda x: jnp.sum(scale_gradient(x, 0.6) ** 2))(jnp.asarray([1.0, 2.0]))
    assert float(value) == 5.0
    np.testing.assert_allclose(slope, [1.2, 2.4], rtol=1e-6)  # one float32 product
