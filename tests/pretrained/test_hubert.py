"""HuBERT checkpoints: against transformers on random weights, round trip, and bad input."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from esc_jax import config as configs
from esc_jax.frontends.raw import Raw
from esc_jax.inference import model_path
from esc_jax.models import heads
from esc_jax.models.encoder import Classifier
from esc_jax.models.hubert import Hubert
from esc_jax.pretrained import hubert, load
from esc_jax.pretrained.published import PretrainedError
from tests.pretrained.hostile import refusals
from tests.pretrained.trees import assert_equal_trees

OPTIONS = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "feat_proj_layer_norm": True,
    "weighted_layer_sum": True,
    "hidden_dropout": 0.05,
}
FRONTEND = {"name": "raw", "sample_rate": 16000, "normalize": True}
LABELS = ("dog", "rain", "sea waves")
POSITION = "encoder.pos_conv_embed.conv."


def build(loaded):
    return Classifier(Hubert(**loaded.options), heads.Projected(loaded.head["classes"], loaded.head["width"]))


def random_variables(model, seed=0):
    """Every parameter random, the norms' and biases' too, so that none of them can be mistaken for another."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 400), jnp.float32))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: rng.normal(size=s.shape, scale=0.1).astype(np.float32) + 0.2, shapes)


@pytest.fixture
def directory(tmp_path):
    model = Classifier(Hubert(**OPTIONS), heads.Projected(3, 8))
    hubert.write(tmp_path / "model", random_variables(model), OPTIONS, LABELS, FRONTEND)
    return tmp_path / "model"


def rewrite(directory: pathlib.Path, change) -> None:
    """The weights file again, after `change` has worked on its arrays."""
    arrays = safetensors.numpy.load_file(directory / "model.safetensors")
    change(arrays)
    safetensors.numpy.save_file(arrays, directory / "model.safetensors")


def configure(directory: pathlib.Path, **values) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_read_and_write_are_inverse(directory, tmp_path):
    loaded = hubert.read(directory)
    assert loaded.labels == LABELS
    assert loaded.head == {"name": "projected", "width": 8, "classes": 3}
    assert loaded.frontend == FRONTEND
    assert {name: loaded.options[name] for name in OPTIONS} == OPTIONS
    assert_equal_trees(loaded.variables, random_variables(build(loaded)))
    hubert.write(tmp_path / "again", loaded.variables, loaded.options, loaded.labels, loaded.frontend)
    again = hubert.read(tmp_path / "again")
    assert_equal_trees(again.variables, loaded.variables)
    for field in ("architecture", "options", "head", "frontend", "labels"):
        assert getattr(again, field) == getattr(loaded, field)
    for name in ("config.json", "preprocessor_config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (directory / name).read_bytes()


def test_old_and_new_weight_norm_names_and_both_prefixes(directory):
    expected = hubert.read(directory).variables

    def old_names(arrays):
        for name in list(arrays):
            old = name.replace("parametrizations.weight.original0", "weight_g")
            old = old.replace("parametrizations.weight.original1", "weight_v").removeprefix("hubert.")
            arrays[old] = arrays.pop(name)

    rewrite(directory, old_names)
    names = safetensors.numpy.load_file(directory / "model.safetensors")
    assert names[POSITION + "weight_g"].shape == (1, 1, 16)
    assert names[POSITION + "weight_v"].shape == (32, 8, 16)
    assert_equal_trees(hubert.read(directory).variables, expected)


def test_an_encoder_alone_has_no_head_and_no_mask_embedding_if_it_came_without(directory, tmp_path):
    def strip(arrays):
        for name in list(arrays):
            if not name.startswith("hubert.") or "masked_spec_embed" in name:
                del arrays[name]

    rewrite(directory, strip)
    (directory / "preprocessor_config.json").write_text('{"do_normalize": false, "sampling_rate": 16000}')
    loaded = hubert.read(directory)
    assert set(loaded.variables["params"]) == {"encoder"}
    assert loaded.head == {"name": "projected", "width": 8}
    assert loaded.labels is None
    assert not loaded.options["mask_embedding"]
    assert loaded.frontend == FRONTEND | {"normalize": False}
    hubert.write(tmp_path / "again", loaded.variables, loaded.options, None, loaded.frontend)
    again = hubert.read(tmp_path / "again")
    assert_equal_trees(again.variables, loaded.variables)
    assert (again.options, again.frontend) == (loaded.options, loaded.frontend)


def test_missing_unknown_and_misshapen_arrays_are_all_named(directory):
    def spoil(arrays):
        del arrays["hubert.encoder.layers.1.attention.q_proj.weight"]
        arrays["hubert.decoder.weight"] = np.zeros(3, np.float32)
        arrays["projector.bias"] = np.zeros(9, np.float32)

    rewrite(directory, spoil)
    with pytest.raises(PretrainedError) as error:
        hubert.read(directory)
    assert "missing hubert.encoder.layers.1.attention.q_proj.weight" in str(error.value)
    assert "not used hubert.decoder.weight" in str(error.value)
    assert "projector.bias (9,) for (8,)" in str(error.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "wav2vec2"}, "is a model of type wav2vec2, not hubert"),
        ({"do_stable_layer_norm": True}, "do_stable_layer_norm=True"),
        ({"num_hidden_layers": 3}, "has weights of 2 layers, and num_hidden_layers=3"),
        ({"num_attention_heads": 5}, "config.json has an invalid option num_attention_heads=5: it must be a divisor"),
        ({"conv_dim": [16] * 6}, "conv_dim=.* it must be 7 numbers"),
        ({"conv_kernel": 3}, "conv_kernel=3: it must be whole numbers"),
        ({"classifier_proj_size": None}, "width=None: it must be a whole number"),
        ({"id2label": {"a": "dog"}}, "names 0 classes in config.json"),
        ({"id2label": {"0": "dog", "1": "rain"}}, "names 2 classes in config.json and has weights for 3"),
    ],
)
def test_a_config_that_does_not_fit_is_explained(directory, config, message):
    configure(directory, **config)
    with pytest.raises(PretrainedError, match=message):
        hubert.read(directory)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git-LFS pointer"),
        (None, "truncated"),
        (b"", "truncated"),
    ],
)
def test_weights_that_are_none_are_explained(directory, content, message):
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000] if content is None else content)
    with pytest.raises(PretrainedError, match=message) as error:
        hubert.read(directory)
    assert "\n" not in str(error.value)


def test_odd_files_are_explained(directory):
    rewrite(directory, lambda arrays: arrays.update({"classifier.bias": np.zeros((), np.float32)}))
    with pytest.raises(PretrainedError, match="of another shape classifier.weight"):
        hubert.read(directory)
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors").mkdir()
    with pytest.raises(PretrainedError, match="model.safetensors cannot be read"):
        hubert.read(directory)
    (directory / "config.json").write_text("[1]")
    with pytest.raises(PretrainedError, match="config.json is not a JSON object"):
        hubert.read(directory)


def test_missing_files_and_paths_are_explained(directory):
    with pytest.raises(PretrainedError, match="does not exist"):
        hubert.read(directory / "nothing" / "here")
    (directory / "model.safetensors").unlink()
    with pytest.raises(PretrainedError, match="neither model.safetensors nor pytorch_model.bin"):
        hubert.read(directory)
    (directory / "config.json").unlink()
    with pytest.raises(PretrainedError, match="no readable config.json"):
        hubert.read(directory)


def test_a_hub_id_without_network_says_what_to_do(monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")

    def offline(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(PretrainedError, match=r"ntu-spml/distilhubert .* download the directory .* and give its path"):
        hubert.read("ntu-spml/distilhubert")


def test_what_transformers_cannot_hold_is_refused(directory, tmp_path):
    loaded = hubert.read(directory)
    with pytest.raises(PretrainedError, match="model.head.name=projected and frontend.name=raw"):
        hubert.write(tmp_path, loaded.variables, loaded.options, LABELS, {"name": "log_mel"})
    with pytest.raises(PretrainedError, match="2 labels were given for a head of 3 classes"):
        hubert.write(tmp_path, loaded.variables, loaded.options, LABELS[:2], FRONTEND)


def randomise(torch, model):
    """Biases, norms and layer weights away from 0 and 1."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or "bias" in name or name == "layer_weights":
                parameter.add_(torch.randn_like(parameter) * 0.2)


@pytest.mark.parametrize("full", [True, False])
def test_logits_of_transformers(tmp_path, full):
    """Random weights: DistilHuBERT, 0.4 s and 5 s in one padded batch and 30 s; a small one with every option on."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = {"num_hidden_layers": 2, "feat_proj_layer_norm": False}
    if not full:
        names = ("hidden_size", "num_attention_heads", "intermediate_size", "conv_dim", "feat_proj_layer_norm")
        config = {name: OPTIONS[name] for name in names} | {"num_hidden_layers": 3, "conv_bias": True}
        config |= {"use_weighted_layer_sum": True, "num_conv_pos_embeddings": 15, "num_conv_pos_embedding_groups": 4}
    config = transformers.HubertConfig(**config, num_labels=50)
    model = transformers.HubertForSequenceClassification(config).eval()
    randomise(torch, model)
    model.save_pretrained(tmp_path)
    loaded = hubert.read(tmp_path)
    if full:
        assert sum(a.size for a in jax.tree.leaves(loaded.variables)) == 23_701_682
    apply = jax.jit(build(loaded).apply)
    rng = np.random.default_rng(0)
    for lengths in [(6400, 80_000), (480_000,)] if full else [(6400, 20_000)]:
        padding = np.arange(max(lengths))[None] >= np.array(lengths)[:, None]
        waveform = np.asarray(Raw()(rng.normal(size=padding.shape).astype(np.float32), padding))
        with torch.no_grad():
            mask = torch.tensor(~padding).long()
            expected = model(torch.tensor(waveform), attention_mask=mask).logits.numpy()
        # On logits of size one, float32 leaves about 1e-6.
        np.testing.assert_allclose(apply(loaded.variables, waveform, padding=padding), expected, atol=1e-4, rtol=0)


def test_transformers_loads_what_is_written(directory):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    loaded = hubert.read(directory)
    model, info = transformers.HubertForSequenceClassification.from_pretrained(directory, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert [model.config.id2label[i] for i in range(3)] == list(LABELS)
    rng = np.random.default_rng(0)
    clips = [rng.normal(size=n).astype(np.float32) for n in (4000, 2500)]
    extractor = transformers.AutoFeatureExtractor.from_pretrained(directory)
    inputs = extractor(clips, padding=True, sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        expected = model.eval()(**inputs).logits.numpy()
    padding = np.arange(4000)[None] >= np.array([[4000], [2500]])
    waveform = Raw()(np.stack([clips[0], np.pad(clips[1], (0, 1500))]), padding)
    # As above; here the waveform is also computed by both sides.
    result = jax.jit(build(loaded).apply)(loaded.variables, waveform, padding=padding)
    np.testing.assert_allclose(result, expected, atol=1e-4, rtol=0)


def test_a_pytorch_bin_is_the_same_checkpoint(directory):
    torch = pytest.importorskip("torch")
    expected = hubert.read(directory).variables
    arrays = safetensors.numpy.load_file(directory / "model.safetensors")
    torch.save({name: torch.tensor(a) for name, a in arrays.items()}, directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()
    assert_equal_trees(hubert.read(directory).variables, expected)


def test_a_layer_sum_can_be_switched_on_for_a_checkpoint_without(tmp_path):
    options = OPTIONS | {"weighted_layer_sum": False}
    model = Classifier(Hubert(**options), heads.Projected(3, 8))
    hubert.write(tmp_path / "model", random_variables(model), options, LABELS, FRONTEND | {"normalize": False})
    config = configs.defaults("hubert", "projected", "raw")
    config.data.update(sample_rate=16_000, clip_s=0.1)
    config.model.head.width = 8
    config.model.pretrained = str(tmp_path / "model")
    config.model.encoder.weighted_layer_sum = True
    config.model.overrides = ("encoder.weighted_layer_sum", "frontend.normalize")
    _, model = load.initialize(config, LABELS)
    assert model.frontend.normalize and model.variables["params"]["encoder"]["layer_weights"].shape == (3,)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "least"), [("config.json", 100), pytest.param("preprocessor_config.json", 15, marks=pytest.mark.extended)]
)
def test_every_value_of_a_config_of_a_stranger(directory, name, least):
    """It is allowed, or not used, or refused in one sentence before anything is built."""
    path = directory / name
    good = json.loads(path.read_text())
    number = refusals(
        lambda: hubert.read(str(directory)),
        lambda key, value: path.write_text(json.dumps(good | {key: value})),
        [key for key in good if key not in hubert._FIXED],  # those have one value
    )
    assert number >= least


def test_json_that_is_nested_or_large(directory):
    path = directory / "config.json"
    path.write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(PretrainedError, match="is not valid JSON"):
        hubert.read(directory)
    with path.open("wb") as file:
        file.truncate((16 << 20) + 1)
    with pytest.raises(PretrainedError, match="it is larger than 16 MiB"):
        hubert.read(directory)


def test_arrays_of_a_type_that_numpy_does_not_have(directory):
    """A safetensors file by hand: header, and bytes of an eight-bit float."""
    content = json.dumps({"hubert.encoder.layer_norm.bias": {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}})
    header = content.encode()
    (directory / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(PretrainedError) as error:
        hubert.read(directory)
    assert "\n" not in str(error.value)


def shard(directory):
    """Splits the weights of a directory in two files with an index."""
    arrays = safetensors.numpy.load_file(directory / "model.safetensors")
    names = sorted(arrays)
    places = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(places.values()):
        part = {name: arrays[name] for name in names if places[name] == file}
        safetensors.numpy.save_file(part, directory / file, metadata={"format": "pt"})
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    (directory / "model.safetensors").unlink()
    return index, places


def test_shards_are_the_same_checkpoint(directory):
    whole = hubert.read(directory)
    shard(directory)
    assert model_path.is_published(directory)
    assert_equal_trees(hubert.read(directory).variables, whole.variables)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index, places: (index.parent / "model-00002-of-00002.safetensors").unlink(), "a shard that its index"),
        (lambda index, places: index.write_text(json.dumps({"weight_map": places | {"a": "../b"}})), "outside of its"),
        (lambda index, places: index.write_text("{}"), "has no weight_map"),
        (
            lambda index, places: index.write_text(
                json.dumps({"weight_map": places | {"x": "model-00001-of-00002.safetensors"}})
            ),
            "the shards lack x",
        ),
    ],
)
def test_shards_that_are_not_complete(directory, change, message):
    change(*shard(directory))
    with pytest.raises(PretrainedError, match=message):
        hubert.read(directory)
