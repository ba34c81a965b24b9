"""The patch transformer against torch's layers, and its grid, positions and regularisation."""

import jax
from jax import export
import jax.numpy as jnp
import numpy as np
import pytest

from esc_jax.models.masked import MaskedPredictor, VisiblePredictor
from esc_jax.models.patch_transformer import PatchTransformer, grid_positions, sinusoidal_positions
from esc_jax.models.resnet import ResNet
from esc_jax.ops import patches


def spectrograms(frames=48, bins=32, batch=3, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((batch, frames, bins)), jnp.float32)


def small(**options):
    return PatchTransformer(**({"layers": 2, "width": 16, "heads": 2, "ffn": 32, "table": (3, 2)} | options))


@pytest.mark.parametrize("stride", [8, 5, 3])
def test_patches_equal_a_loop(stride):
    x = np.asarray(spectrograms(37, 20))
    rows, columns = patches.patch_grid(37, 20, 8, stride)
    assert (rows, columns) == (len(range(0, 37 - 7, stride)), len(range(0, 20 - 7, stride)))
    result = patches.extract_patches(jnp.asarray(x), 8, stride)
    for row, column in np.ndindex(rows, columns):
        expected = x[:, row * stride : row * stride + 8, column * stride : column * stride + 8].reshape(3, 64)
        np.testing.assert_array_equal(result[:, row, column], expected)


@pytest.mark.parametrize("stride", [5, 8])
def test_patches_are_not_gathered_in_exports(stride):
    """The batch size of an exported program is a symbol, and the patches leave frames and bins over."""
    x = jax.ShapeDtypeStruct(export.symbolic_shape("batch, 37, 20"), jnp.float32)
    program = jax.make_jaxpr(lambda x: patches.extract_patches(x, 8, stride))(x)
    assert "slice" in str(program) and "gather" not in str(program)


def test_patches_to_pixels_inverts_the_extraction():
    mask = np.random.default_rng(0).random((2, 4, 2)) < 0.5
    pixels = np.asarray(patches.patches_to_pixels(jnp.asarray(mask), 8, (37, 20)))
    extracted = np.asarray(patches.extract_patches(jnp.asarray(pixels, jnp.float32), 8))
    np.testing.assert_array_equal(extracted.all(-1), mask)
    np.testing.assert_array_equal(extracted.any(-1), mask)
    assert not pixels[:, 32:].any() and not pixels[:, :, 16:].any()


def test_equals_torchs_encoder():
    torch = pytest.importorskip("torch")
    module, x = small(), spectrograms()
    params = jax.tree.map(
        lambda p: np.random.default_rng(p.size).standard_normal(p.shape).astype(np.float32) * 0.2,
        module.init(jax.random.key(0), x)["params"],
    )
    layer = torch.nn.TransformerEncoderLayer(
        16, 2, 32, dropout=0.0, activation=torch.nn.GELU(approximate="tanh"), batch_first=True, norm_first=True
    )
    encoder = torch.nn.TransformerEncoder(layer, 2, norm=torch.nn.LayerNorm(16), enable_nested_tensor=False)
    state = {"norm.weight": params["last"]["scale"], "norm.bias": params["last"]["bias"]}
    for i in range(2):
        layer_params, prefix = params[f"layer_{i}"], f"layers.{i}."
        qkv = [layer_params["attention"][name] for name in ("query", "key", "value")]
        state[f"{prefix}self_attn.in_proj_weight"] = np.concatenate([p["kernel"].T for p in qkv])
        state[f"{prefix}self_attn.in_proj_bias"] = np.concatenate([p["bias"] for p in qkv])
        linear = {"self_attn.out_proj": layer_params["attention"]["out"], "linear1": layer_params["intermediate"]}
        for name, p in (linear | {"linear2": layer_params["output"]}).items():
            state |= {f"{prefix}{name}.weight": p["kernel"].T, f"{prefix}{name}.bias": p["bias"]}
        for name, p in (("norm1", layer_params["attention_norm"]), ("norm2", layer_params["output_norm"])):
            state |= {f"{prefix}{name}.weight": p["scale"], f"{prefix}{name}.bias": p["bias"]}
    encoder.load_state_dict({name: torch.tensor(value) for name, value in state.items()})
    tokens = (
        np.asarray(patches.extract_patches(x, 16)) @ params["patch_embedding"]["kernel"]
        + params["patch_embedding"]["bias"]
    )
    tokens = (tokens + params["position"]).reshape(3, 6, 16)
    expected = encoder.eval()(torch.tensor(tokens)).detach().numpy()
    result = module.apply({"params": params}, x)
    # float32 through two layers on either side.
    np.testing.assert_allclose(result.features.reshape(3, 6, 16), expected, atol=1e-4)
    np.testing.assert_allclose(result.embedding, expected.mean(1), atol=1e-4)


def test_positions_are_stretched_for_longer_clips_and_cut_for_shorter_ones():
    table = sinusoidal_positions(3, 2, 16)
    np.testing.assert_allclose(np.square(table).sum(-1), 8.0, rtol=1e-5)  # sin² + cos², eight frequencies
    ramp = jnp.broadcast_to(jnp.arange(3.0)[:, None, None], (3, 2, 16))
    np.testing.assert_array_equal(grid_positions(ramp, 4, 3, 2)[0], ramp)
    np.testing.assert_array_equal(grid_positions(ramp, 4, 2, 2)[0], ramp[:2])
    longer = grid_positions(ramp, 4, 6, 2)[0]
    assert longer.shape == (6, 2, 16)
    np.testing.assert_allclose(longer[:, 0, 0], [0, 0.25, 0.75, 1.25, 1.75, 2], rtol=1e-6)  # half a row at the ends
    drawn = grid_positions(ramp, 40, 1, 2, jax.random.key(1))
    assert drawn.shape == (40, 1, 2, 16) and set(drawn[:, 0, 0, 0].tolist()) == {0, 1, 2}


@pytest.mark.parametrize(
    "frames", [pytest.param(5, marks=pytest.mark.slow), 16, pytest.param(100, marks=pytest.mark.slow)]
)
def test_any_length_gives_an_embedding(frames):
    module = small()
    variables = module.init(jax.random.key(0), spectrograms())
    result = module.apply(variables, spectrograms(frames))
    assert result.embedding.shape == (3, 16) and np.isfinite(result.embedding).all()


@pytest.mark.slow
def test_patchout_keeps_a_share_of_whole_patches_and_evaluation_all():
    module = small(patchout=0.5, stride=8, layers=0, table=(5, 3))
    x = spectrograms()
    variables = module.init(jax.random.key(0), x)
    whole = module.apply(variables, x)
    some = module.apply(variables, x, train=True, rngs={"droppath": jax.random.key(1)})
    assert whole.features.shape == (3, 5, 3, 16) and some.features.shape == (3, 8, 16)  # 15 / 2, rounded to even
    kept = []
    for tokens, all_tokens in zip(some.features, whole.features.reshape(3, 15, 16), strict=True):
        same = np.abs(np.asarray(tokens)[:, None] - np.asarray(all_tokens)[None]).max(-1) < 1e-6
        assert (same.sum(1) == 1).all() and (np.diff(same.argmax(1)) > 0).all()  # each once, in their order
        kept.append(tuple(same.argmax(1)))
    assert len(set(kept)) == 3


@pytest.mark.slow
def test_a_layer_is_skipped_more_often_the_deeper_it_is():
    module = small(drop_path=1.0)  # the last layer always, the first half of the time
    x = spectrograms(batch=64)
    variables = module.init(jax.random.key(0), x)
    without = {"params": {k: v for k, v in variables["params"].items() if k != "layer_1"}}
    both = [small(layers=n).apply(without, x).embedding for n in (0, 1)]
    result = module.apply(variables, x, train=True, rngs={"droppath": jax.random.key(2)}).embedding
    skipped, kept = (np.abs(np.asarray(result - other)).max(-1) < 1e-5 for other in both)
    assert (skipped ^ kept).all() and 16 < skipped.sum() < 48


def test_has_the_published_size():
    shapes = jax.eval_shape(PatchTransformer().init, jax.random.key(0), jnp.zeros((1, 496, 128)))["params"]
    count = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    layer = 4 * (256 * 256 + 256) + 2 * 256 * 1024 + 1024 + 256 + 4 * 256
    assert count == 6 * layer + 256 * 256 + 256 + 31 * 8 * 256 + 2 * 256 == 4_868_352


@pytest.mark.parametrize(
    "encoder",
    [
        pytest.param(small(), marks=pytest.mark.slow),
        pytest.param(small(stride=8), marks=pytest.mark.slow),
        ResNet((1, 1), 8),
        pytest.param(ResNet((1, 1, 1, 1), 4), marks=pytest.mark.slow),
    ],
    ids=["same", "finer", "8", "32"],
)
def test_masked_patches_are_replaced_and_every_patch_is_predicted(encoder):
    x = spectrograms(70, 35)  # four by two patches, and a rest
    mask = jnp.asarray(np.random.default_rng(0).random((3, 4, 2)) < 0.5)
    model = MaskedPredictor(encoder=encoder, vocabulary_size=5, clip_dim=7)
    variables = model.init(jax.random.key(0), x, mask)
    result = model.apply(variables, x, mask)
    assert result.logits.shape == (3, 4, 2, 5) and result.clip.shape == (3, 7)
    # Masked patches do not affect the prediction.
    other = jnp.where(patches.patches_to_pixels(mask, 16, (70, 35)), 7.0, x)
    jax.tree.map(np.testing.assert_array_equal, model.apply(variables, other, mask), result)
    unlike = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), model.apply(variables, x, ~mask), result)
    assert unlike.logits > 0 and unlike.clip > 0
    encoder_variables = {name: tree["encoder"] for name, tree in variables.items()}
    encoded = model.apply(variables, x, method="encode").embedding
    np.testing.assert_array_equal(encoded, encoder.apply(encoder_variables, x).embedding)


def test_a_coarse_feature_predicts_all_patches_that_it_covers():
    # An encoder of means over 32 × 32 and a head that scales them: each patch depends on its own mean.
    class Means(ResNet):
        def __call__(self, x, *, train=False, padding=None):
            from esc_jax.models.encoder import Encoded

            cells = patches.extract_patches(x, 32).mean(-1, keepdims=True)
            return Encoded(cells.mean((1, 2)), cells)

    model = MaskedPredictor(encoder=Means(), vocabulary_size=2)
    x = spectrograms(128, 64)
    none = jnp.zeros((3, 8, 4), bool)
    kernel = jnp.arange(1.0, 9.0).reshape(1, 8)  # of the sub-patch (2 × 2) and the token
    params = {"hidden_patch": jnp.zeros((16, 16)), "head": {"kernel": kernel, "bias": jnp.zeros(8)}}
    result = np.asarray(model.apply({"params": params}, x, none).logits)
    cells = np.asarray(patches.extract_patches(x, 32).mean(-1))
    for row, column, token in np.ndindex(8, 4, 2):
        number = 4 * (row % 2) + 2 * (column % 2) + token + 1
        np.testing.assert_allclose(result[:, row, column, token], cells[:, row // 2, column // 2] * number, rtol=1e-5)


def visible_predictor():
    """A model, its variables, spectrograms with a grid of four by two patches, and a mask of three patches in each."""
    x = spectrograms(70, 35)
    mask = np.zeros((3, 8), bool)
    for row, which in enumerate([(0, 3, 7), (1, 2, 4), (5, 6, 7)]):
        mask[row, list(which)] = True
    model = VisiblePredictor(encoder=small(), vocabulary_size=5, num_masked=3, layers=1, clip_dim=7)
    mask = jnp.asarray(mask.reshape(3, 4, 2))
    return model, model.init(jax.random.key(0), x, mask), x, mask


@pytest.mark.slow
def test_masked_patches_do_not_reach_an_encoder_of_visible_patches():
    model, variables, x, mask = visible_predictor()
    result = np.asarray(model.apply(variables, x, mask).logits)
    assert result.shape == (3, 4, 2, 5)
    # Masked patches do not affect the prediction, and all visible patches do.
    other = jnp.where(patches.patches_to_pixels(mask, 16, (70, 35)), 7.0, x)
    np.testing.assert_array_equal(model.apply(variables, other, mask).logits, result)
    for row, column in np.ndindex(4, 2):
        one = np.zeros((1, 4, 2), bool)
        one[0, row, column] = True
        changed = jnp.where(patches.patches_to_pixels(jnp.asarray(one), 16, (70, 35)), 7.0, x)
        same = (np.asarray(model.apply(variables, changed, mask).logits) == result).all((1, 2, 3))
        np.testing.assert_array_equal(same, np.asarray(mask)[:, row, column])
    encoder_variables = {name: tree["encoder"] for name, tree in variables.items()}
    encoded = model.apply(variables, x, method="encode").embedding
    np.testing.assert_array_equal(encoded, small().apply(encoder_variables, x).embedding)


@pytest.mark.slow
def test_visible_patches_are_encoded_as_a_clip_of_them_alone():
    model, variables, x, mask = visible_predictor()
    encoder_variables, head = {"params": variables["params"]["encoder"]}, variables["params"]["clip_head"]
    visible = jnp.asarray([np.flatnonzero(~row) for row in np.asarray(mask).reshape(3, 8)])
    encoded = small().apply(encoder_variables, x, visible=visible)
    result = encoded.features
    prediction = model.apply(variables, x, mask).clip
    np.testing.assert_allclose(prediction, encoded.embedding @ head["kernel"] + head["bias"][None], atol=1e-6)
    everything = small().apply(encoder_variables, x, visible=jnp.tile(jnp.arange(8), (3, 1)))
    assert result.shape == (3, 5, small().width)
    # All patches as `visible` give the feature map; a subset is encoded differently than among all.
    whole = small().apply(encoder_variables, x).features.reshape(3, 8, -1)
    np.testing.assert_array_equal(everything.features, whole)
    assert np.abs(np.asarray(result - jnp.take_along_axis(whole, visible[..., None], 1))).max() > 1e-3
    for example, which in enumerate(np.asarray(visible)):
        turned = (
            small().apply(encoder_variables, x[example : example + 1], visible=jnp.asarray(which[::-1][None])).features
        )
        # Attention depends on the order of the tokens only through rounding.
        np.testing.assert_allclose(turned[0, ::-1], result[example], atol=1e-5)
