"""HuBERT: published sizes, masks and modes; tests/pretrained/test_hubert.py compares the numbers with transformers."""

import functools
import re

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esc_jax.models import heads
from esc_jax.models.encoder import Classifier
from esc_jax.models.hubert import Hubert, frame_count
from esc_jax.ops.transformer import Attention

TINY = functools.partial(
    Hubert,
    hidden_size=32,
    num_attention_heads=4,
    intermediate_size=48,
    conv_dim=(16,) * 7,
    num_conv_pos_embeddings=16,
    num_conv_pos_embedding_groups=4,
)


@pytest.fixture(scope="module")
def waveform():
    return jax.random.normal(jax.random.key(1), (2, 4000))


@pytest.fixture(scope="module")
def variables(waveform):
    return jax.jit(TINY().init)(jax.random.key(0), waveform)


def _count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_distilhubert_has_the_published_number_of_parameters():
    model = Classifier(Hubert(), heads.Projected(50))
    shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 16000), jnp.float32))
    assert _count(shapes) == 23_701_682


@pytest.mark.parametrize(("samples", "frames"), [(400, 1), (719, 1), (720, 2), (16_000, 49), (80_000, 249)])
def test_frames_of_the_published_convolutions(samples, frames):
    model = Hubert()
    assert frame_count(samples, model.conv_kernel, model.conv_stride) == frames
    shape = jax.eval_shape(
        lambda x: TINY().init_with_output(jax.random.key(0), x)[0].features,
        jax.ShapeDtypeStruct((1, samples), jnp.float32),
    ).shape
    assert shape == (1, frames, 32)


def test_embedding_is_the_mean_over_valid_frames(waveform, variables):
    padding = jnp.arange(4000)[None] >= jnp.array([[4000], [1800]])
    out = jax.jit(TINY().apply)(variables, waveform, padding=padding)
    # By hand: 1800 samples are 359, 179, 89, 44, 21, 10, 5 frames; 4000 are 12.
    np.testing.assert_array_equal(out.padding.sum(1), [0, 12 - 5])
    # Sums of twelve float32.
    np.testing.assert_allclose(out.embedding[1], np.asarray(out.features)[1, :5].mean(0), atol=1e-6)
    np.testing.assert_allclose(out.embedding[0], np.asarray(out.features)[0].mean(0), atol=1e-6)


def test_padded_frames_do_not_affect_the_embedding(waveform, variables):
    padding = jnp.arange(4000)[None] >= jnp.array([[4000], [1800]])
    frames = jnp.array([[0.0] * 12, [0.0] * 5 + [1.0] * 7])

    @jax.jit
    def encode(noise):
        def disturb(next_method, args, kwargs, context):
            out = next_method(*args, **kwargs)
            return out + noise * frames[..., None] if context.module.name == "conv_6" else out

        with nn.intercept_methods(disturb):
            return TINY().apply(variables, waveform, padding=padding).embedding

    np.testing.assert_array_equal(encode(0.0), encode(100.0))


@pytest.mark.parametrize("samples", [1, 399])
def test_a_clip_shorter_than_a_frame_gives_one_frame(samples, variables):
    waveform = jnp.ones((2, samples))
    out = jax.jit(TINY().apply)(variables, waveform, padding=jnp.ones((2, samples), bool))
    assert out.features.shape == (2, 1, 32)
    assert not out.padding.any()
    assert jnp.isfinite(out.embedding).all()


def test_weighted_layer_sum_with_one_dominant_weight_is_that_layer(waveform, variables):
    apply = jax.jit(TINY(weighted_layer_sum=True).apply)
    for layers, weights in ((2, [-200.0, -200.0, 200.0]), (0, [200.0, -200.0, -200.0])):
        # Without layers only their input is left.
        expected = jax.jit(TINY(num_hidden_layers=layers).apply)(variables, waveform)
        params = variables["params"] | {"layer_weights": jnp.array(weights)}
        # The same operations, fused in another way.
        np.testing.assert_allclose(apply({"params": params}, waveform).features, expected.features, atol=1e-6)


def test_dropout_and_layerdrop_act_in_training_only(waveform, variables):
    def encode(train, seeds=(0,), **fields):
        @jax.jit
        def apply(seed):
            rngs = {"dropout": jax.random.key(seed), "droppath": jax.random.key(2)}
            return TINY(**fields).apply(variables, waveform, train=train, rngs=rngs).embedding

        return [apply(seed) for seed in seeds]

    first, second = encode(True, (1, 2))
    assert not jnp.allclose(first, second)
    # All layers dropped: what is left is the input of the first one. Equal but for the fusion.
    (none,) = encode(False, num_hidden_layers=0)
    (dropped,) = encode(True, layerdrop=1.0, hidden_dropout=0.0)
    np.testing.assert_allclose(dropped, none, atol=1e-6)


@pytest.mark.slow
def test_remat_changes_no_gradient(waveform, variables):
    def gradient(model):
        return jax.jit(jax.grad(lambda v: jnp.square(model.apply(v, waveform).embedding).sum()))(variables)

    expected, result = gradient(TINY()), gradient(TINY(remat=True))
    # The same operations, fused in another way.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-3), expected, result)


def test_bfloat16_computes_near_float32_and_keeps_float32_weights(waveform, variables):
    model = TINY(dtype=jnp.bfloat16)
    fresh = jax.eval_shape(model.init, jax.random.key(0), waveform)
    assert {leaf.dtype for leaf in jax.tree.leaves(fresh)} == {jnp.dtype("float32")}
    out, expected = (jax.jit(m.apply)(variables, waveform).embedding for m in (model, TINY()))
    assert out.dtype == jnp.float32
    # Eight bits of mantissa, through eleven layers, on values of size one.
    np.testing.assert_allclose(out, expected, atol=0.1)


def test_scores_of_bfloat16_are_float32():
    x = jnp.ones((1, 5, 8), jnp.bfloat16)
    attention = Attention(heads=2, gated=False, dropout=0.0, init_gain=None, dtype=jnp.bfloat16)
    program = jax.jit(lambda x: attention.init_with_output(jax.random.key(0), x, None, None, False)[0])
    products = re.findall(r"dot_general.*-> tensor<1x2x5x5x(\w+)>", program.lower(x).as_text())
    assert products == ["f32"]
