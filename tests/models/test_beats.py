"""The BEATs encoder: parity with the published code from golden arrays, and what training it needs."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esc_jax.frontends.kaldi_fbank import KaldiFbank
from esc_jax.models.beats import Beats, distance_buckets, fold_padding
from esc_jax.models.encoder import Classifier
from esc_jax.models.heads import Linear
from esc_jax.pretrained import beats as pretrained

GOLDEN = pathlib.Path(__file__).parents[1] / "goldens" / "beats.npz"
TINY = {
    "embed_dim": 12,
    "encoder_layers": 2,
    "encoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 24,
    "encoder_attention_heads": 2,
    "conv_pos": 8,
    "conv_pos_groups": 2,
    "num_buckets": 16,
    "max_distance": 20,
}
FEATURES = jax.random.normal(jax.random.key(7), (3, 40, 32))


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN)


@pytest.fixture(scope="module")
def loaded(golden):
    arrays = {name.removeprefix("model/"): golden[name] for name in golden.files if name.startswith("model/")}
    label_dict = json.loads(str(golden["label_dict"]))
    return pretrained.from_arrays(json.loads(str(golden["cfg"])), arrays, label_dict)


def _classifier(loaded):
    return Classifier(Beats(**loaded.options), Linear(loaded.head["classes"]))


def test_golden_arrays_of_the_published_code(golden, loaded):
    model = Classifier(Beats(**loaded.options), Linear(loaded.head["classes"]))
    padding = np.arange(golden["waveform"].shape[1])[None] >= golden["padded_from"]

    @jax.jit
    def run(waveform, padding):
        logits, state = model.apply(loaded.variables, KaldiFbank()(waveform), mutable=["intermediates"])
        features = KaldiFbank()(jnp.where(padding, 0.0, waveform))
        padded = model.apply(loaded.variables, features, padding=padding, method="encode")
        padded_logits = model.apply(loaded.variables, features, padding=padding)
        return logits, state["intermediates"]["encoder"], padded.padding, padded_logits

    logits, intermediates, token_padding, padded_logits = run(golden["waveform"], padding)
    # Tolerance of float32 through all layers.
    np.testing.assert_allclose(intermediates["tokens"][0], golden["tokens"], atol=1e-4)
    assert len(intermediates["hidden"]) == 4
    for i, hidden in enumerate(intermediates["hidden"]):
        np.testing.assert_allclose(hidden, golden[f"hidden{i}"], atol=1e-4, err_msg=f"hidden{i}")
    np.testing.assert_allclose(jax.nn.sigmoid(logits), golden["output"], atol=1e-4)
    np.testing.assert_array_equal(token_padding, golden["token_padding_mask"])
    np.testing.assert_allclose(jax.nn.sigmoid(padded_logits), golden["output_padded"], atol=1e-4)
    attention = intermediates["layer_0"]["attention"]["attention"][0]
    assert attention.shape == (1, 4, 96, 96)
    np.testing.assert_allclose(attention.sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize("kind", ["finetuned", "pretrained"])
def test_reference_checkpoints(shared, kind):
    pytest.importorskip("torch")
    folder = shared / "reference/beats"
    reference = np.load(folder / "tiny_beats_reference.npz")
    loaded = pretrained.read(folder / f"tiny_beats_{kind}.pt")
    model = Beats(**loaded.options)
    params = {"params": loaded.variables["params"]["encoder"]}

    @jax.jit
    def run(waveform, padding):
        return model.apply(params, KaldiFbank()(waveform), padding=padding, mutable=["intermediates"])

    encoded, state = run(reference["waveform"], None)
    padded, _ = run(reference["waveform_padded"], reference["padding_mask"])
    np.testing.assert_allclose(state["intermediates"]["tokens"][0], reference[f"{kind}.tokens"], atol=1e-4)
    for i, hidden in enumerate(state["intermediates"]["hidden"]):
        np.testing.assert_allclose(hidden, reference[f"{kind}.hidden{i}"], atol=1e-4, err_msg=f"hidden{i}")
    np.testing.assert_allclose(encoded.features, reference[f"{kind}.encoder"], atol=1e-4)
    np.testing.assert_array_equal(padded.padding, reference[f"{kind}.token_padding_mask"])
    if kind == "pretrained":
        np.testing.assert_allclose(padded.features, reference["pretrained.output_padded"], atol=1e-4)
    else:
        head, params_head = Linear(7), {"params": loaded.variables["params"]["head"]}
        for output, embedding in (("output", encoded.embedding), ("output_padded", padded.embedding)):
            probabilities = jax.nn.sigmoid(head.apply(params_head, embedding))
            np.testing.assert_allclose(probabilities, reference[f"finetuned.{output}"], atol=1e-4, err_msg=output)


def _random(encoder):
    """Parameters of an encoder, drawn without compiling its initialization."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), FEATURES)
    return jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.standard_normal(leaf.shape), leaf.dtype), shapes)


@pytest.fixture(scope="module")
def tiny():
    return _random(Beats(**TINY))


def test_initialization():
    encoder = Beats(**TINY | {"encoder_layers": 1})
    params = jax.jit(encoder.init)(jax.random.key(0), FEATURES)["params"]
    norms = np.linalg.norm(params["position"]["direction"], axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(params["position"]["magnitude"], norms, rtol=1e-5)  # the initial kernel is the direction
    # Xavier with deep norm's gain (8·1)^(-1/4) on the values, none on the queries; 256 draws: within a fifth.
    attention = params["layer_0"]["attention"]
    assert np.std(attention["query"]["kernel"]) == pytest.approx(0.25, rel=0.2)
    assert np.std(attention["value"]["kernel"]) == pytest.approx(0.25 * 8**-0.25, rel=0.2)


@pytest.mark.slow
def test_remat_keeps_less_and_gives_the_same_gradient():
    encoder = Beats(**TINY)
    variables = _random(encoder)

    def loss(variables, remat):
        return jnp.sum(jnp.sin(encoder.clone(remat=remat).apply(variables, FEATURES).embedding))

    def residual_size(remat):
        pullback = jax.eval_shape(lambda v: jax.vjp(lambda v: loss(v, remat), v)[1], variables)
        return sum(leaf.size for leaf in jax.tree.leaves(pullback))

    weights = sum(leaf.size for leaf in jax.tree.leaves(variables))
    assert residual_size(True) - weights < 0.5 * (residual_size(False) - weights)
    plain, remat = jax.jit(lambda v: [jax.grad(loss)(v, remat) for remat in (False, True)])(variables)
    scale = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(plain))
    assert scale > 0.1
    # The same float32 operations, fused otherwise: rounding, relative to the largest gradient.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * max(1, scale)), plain, remat)


def test_bfloat16_computes_with_float32_parameters(tiny):
    @jax.jit
    def run(variables):
        return [Beats(**TINY, dtype=d).apply(variables, FEATURES).embedding for d in (jnp.float32, jnp.bfloat16)]

    full, half = run(tiny)
    shapes = jax.eval_shape(Beats(**TINY, dtype=jnp.bfloat16).init, jax.random.key(0), FEATURES)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, full, atol=0.1)  # bfloat16 keeps eight bits, through two layers of unit variance
    assert np.abs(half - full).max() > 0


def test_dropout_and_layerdrop_act_in_training_only(tiny):
    rates = dict.fromkeys(("dropout", "attention_dropout", "activation_dropout", "dropout_input"), 0.3)

    @jax.jit
    def run(seed):
        rngs = {"dropout": jax.random.key(seed), "droppath": jax.random.key(seed)}
        trained, evaluated = (
            Beats(**TINY, **rates).apply(tiny, FEATURES, train=train, rngs=rngs).embedding for train in (True, False)
        )
        dropping = Beats(**TINY, encoder_layerdrop=1.0)
        _, state = dropping.apply(tiny, FEATURES, train=True, rngs=rngs, mutable=["intermediates"])
        return trained, evaluated, state["intermediates"]["hidden"]

    (trained, evaluated, hidden), (other, same, _) = run(0), run(1)
    np.testing.assert_array_equal(evaluated, same)
    assert np.abs(trained - other).max() > 0.01
    np.testing.assert_array_equal(hidden[0], hidden[-1])


def test_padded_tokens_are_ignored_and_clips_of_padding_alone_are_finite():
    options = TINY | {"encoder_layers": 1, "deep_norm": False, "layer_norm_first": True, "gru_rel_pos": False}
    encoder = Beats(**options, relative_position_embedding=False)
    variables = _random(encoder)
    assert "relative_bias" not in variables["params"]
    padding = jnp.arange(6560)[None] >= jnp.asarray([6560, 3280, 0])[:, None]
    run = jax.jit(lambda x: encoder.apply(variables, x, padding=padding))
    encoded, other = run(FEATURES), run(FEATURES.at[1:, 20:].set(3.0))
    assert encoded.features.shape == (3, 4, 16)
    np.testing.assert_array_equal(encoded.padding, [[False] * 4, [False, False, True, True], [True] * 4])
    # Frames from 20 on reach clip 1 in padded tokens only.
    np.testing.assert_allclose(encoded.embedding[1], other.embedding[1], atol=1e-6)
    np.testing.assert_array_equal(encoded.embedding[2], np.zeros(16))


def test_clip_shorter_than_a_patch(tiny):
    @jax.jit
    def run(short):
        filled = jnp.concatenate([short, jnp.broadcast_to(short[:, 4:], (3, 11, 32))], 1)
        return [Beats(**TINY).apply(tiny, x).embedding for x in (short, filled)]

    short, filled = run(FEATURES[:, :5])
    np.testing.assert_allclose(short, filled, atol=1e-6)


def test_distance_buckets_are_t5s():
    buckets = distance_buckets(200, 32, 80)
    assert buckets[10, 10] == 0
    assert buckets[10, 9] == 1 and buckets[10, 3] == 7  # one distance each, below a quarter of the buckets
    assert buckets[9, 10] == 17  # keys after the query: the other half
    # By hand: 8 + floor(8·ln(20/8)/ln(80/8)) = 8 + floor(3.18); beyond max_distance the last bucket of the half.
    assert buckets[20, 0] == 11 and buckets[0, 20] == 27
    assert buckets[199, 0] == 15 and buckets[0, 199] == 31


def test_fold_padding_cuts_to_a_multiple_and_needs_all():
    padding = jnp.asarray([[False, False, True, True, True, True, True]])
    np.testing.assert_array_equal(fold_padding(padding, 3), [[False, True, True]])
    np.testing.assert_array_equal(fold_padding(padding[:, 1:], 3), [[False, True, True]])
