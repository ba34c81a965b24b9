"""EfficientNet: published sizes, padding rules and modes; tests/pretrained/test_efficientnet.py compares numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esc_jax.models import efficientnet, heads
from esc_jax.models.efficientnet import EfficientNet
from esc_jax.models.encoder import Classifier

# torchvision's documentation of its EfficientNet_B…_Weights, `num_params`.
PUBLISHED = (5_288_548, 7_794_184, 9_109_994, 12_233_232, 19_341_616, 30_389_784, 43_040_704, 66_347_960)
# Of the networks that efficientnet-lite-pytorch 0.1.0 builds.
PUBLISHED_LITE = (4_652_008, 5_416_680, 6_092_072, 8_197_096, 13_006_568)


@pytest.mark.parametrize("variant", [0, 2])
def test_published_number_of_parameters(variant):
    width, depth, _ = efficientnet.VARIANTS[variant]
    for channels in (3, 1):
        model = Classifier(EfficientNet(width, depth, in_channels=channels), heads.Linear(1000))
        shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 64, 64), jnp.float32))
        count = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
        # One channel spares the stem two kernels of 3×3 for each output channel.
        stem = efficientnet.round_channels(32 * width)
        assert count == PUBLISHED[variant] - (3 - channels) * 9 * stem


@pytest.mark.parametrize("variant", range(5))
def test_published_number_of_parameters_of_lite(variant):
    width, depth, _ = efficientnet.LITE_VARIANTS[variant]
    lite = {"squeeze_excitation": False, "activation": "relu6", "scale_stem_and_top": False}
    model = Classifier(EfficientNet(width, depth, in_channels=3, **lite), heads.Linear(1000))
    shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 64, 64), jnp.float32))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == PUBLISHED_LITE[variant]


def test_lite_clips_activations_at_six():
    model = EfficientNet(0.25, 0.3, squeeze_excitation=False, activation="relu6", scale_stem_and_top=False)
    x = jax.random.normal(jax.random.key(1), (2, 33, 40))
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda s: rng.uniform(-1, 1, s.shape).astype(np.float32) ** 2, variables)
    out = jax.jit(model.apply)(variables, x)
    assert out.embedding.shape == (2, 1280)
    assert out.features.min() >= 0 and out.features.max() == 6


@pytest.mark.parametrize(
    ("rule", "size", "kernel", "stride", "expected"),
    [
        # By hand: SAME pads (⌈n/s⌉ − 1)·s + k − n zeros, the odd one after.
        ("tf", (64, 63), 3, 2, ((0, 1), (1, 1))),
        ("tf", (64, 63), 5, 2, ((1, 2), (2, 2))),
        ("tf", (64, 63), 5, 1, ((2, 2), (2, 2))),
        ("torch", (64, 63), 5, 2, ((2, 2), (2, 2))),
        ("transformers", (64, 63), 5, 2, ((1, 2), (1, 2))),
        ("transformers", (64, 63), 5, 1, ((2, 2), (2, 2))),
    ],
)
def test_padding_rules(rule, size, kernel, stride, expected):
    assert efficientnet.conv_pads(rule, size, kernel, stride) == expected


@pytest.fixture(scope="module")
def trained():
    """A small network, variables far from their start, and a batch."""
    model = EfficientNet(width_coefficient=0.25, depth_coefficient=0.3, drop_connect_rate=0.5)
    x = jax.random.normal(jax.random.key(1), (4, 33, 40))
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    variables = jax.tree.map(lambda s: rng.uniform(-0.1, 0.3, s.shape).astype(np.float32), shapes)
    stats = jax.tree.map(np.abs, variables["batch_stats"])
    return model, {"params": variables["params"], "batch_stats": stats}, x


def test_shapes_and_embedding(trained):
    model, variables, x = trained
    out = jax.jit(model.apply)(variables, x)
    assert out.features.shape == (4, 2, 2, 320)
    # Sums of four float32.
    np.testing.assert_allclose(out.embedding, np.asarray(out.features).mean((1, 2)), atol=1e-6)
    assert out.padding is None


def test_training_moves_statistics_and_drops_branches(trained):
    model, variables, x = trained
    assert any(spec.residual for spec in efficientnet.layout(model.width_coefficient, model.depth_coefficient))
    train = jax.jit(lambda key: model.apply(variables, x, train=True, mutable=["batch_stats"], rngs={"droppath": key}))
    (a, state), (b, _) = train(jax.random.key(3)), train(jax.random.key(4))
    assert not jnp.allclose(a.embedding, b.embedding)
    before, after = variables["batch_stats"]["stem"]["norm"], state["batch_stats"]["stem"]["norm"]
    y = jax.lax.conv_general_dilated(
        x[..., None],
        variables["params"]["stem"]["conv"]["kernel"],
        (2, 2),
        ((1, 1), (0, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    # momentum is the weight of the old average.
    np.testing.assert_allclose(after["mean"], 0.99 * before["mean"] + 0.01 * y.mean((0, 1, 2)), atol=1e-6)


def test_bfloat16_keeps_float32_weights_and_embedding(trained):
    model, variables, x = trained
    half = model.clone(dtype=jnp.bfloat16)
    fresh = jax.eval_shape(half.init, jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(fresh)} == {jnp.dtype("float32")}
    out = jax.jit(half.apply)(variables, x).embedding
    assert out.dtype == jnp.float32
    assert jnp.isfinite(out).all()
