"""Exported folders load in transformers, and in esc_jax again."""

import dataclasses

from flax import traverse_util
import numpy as np
import pytest
import soundfile

from esc_jax.export import base, formats
from esc_jax.inference.classifier import SoundClassifier
from esc_jax.pretrained import efficientnet, hubert, merge
from esc_jax.pretrained.load import initialize
from esc_jax.pretrained.published import PretrainedError
from esc_jax.tasks import registry as tasks
from tests.export.examples import example_of
from tests.export.factories import (
    CLASSES,
    as_multi_label,
    logits,
    noise,
    probabilities,
    random_model,
    save_run,
    tiny_config,
    with_model,
)

READERS = {"hubert": hubert.read, "efficientnet": efficientnet.read}


def assert_same_tree(actual, expected):
    actual, expected = traverse_util.flatten_dict(actual), traverse_util.flatten_dict(expected)
    assert actual.keys() == expected.keys()
    for path, array in expected.items():
        np.testing.assert_array_equal(actual[path], array, err_msg="/".join(path))


def test_averaged_weights_are_exported(tmp_path):
    config = tiny_config("hubert")
    average = random_model(config, seed=1).variables
    out = formats.export(save_run(tmp_path / "run", config, ema=average), "huggingface", tmp_path / "out")
    assert_same_tree(hubert.read(out).variables["params"], average["params"])


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "efficientnet" else name for name in READERS]
)
def test_import_of_an_export_is_the_identity(restored, tmp_path, name):
    run = restored(name)
    out = formats.write(run, "huggingface", tmp_path / "first")
    checkpoint = READERS[name](out)
    assert checkpoint.labels == CLASSES
    assert checkpoint.frontend == run.config.frontend.to_dict() | {"sample_rate": 16_000}
    for collection, tree in checkpoint.variables.items():
        assert_same_tree(tree, run.model.variables[collection])
    # Load it with model.pretrained, as a run does, and export it again.
    config = tiny_config(name)
    config.model.pretrained = str(out)
    config, model = initialize(config, CLASSES)
    again = formats.write(dataclasses.replace(run, config=config, model=model), "huggingface", tmp_path / "second")
    for file in ("config.json", "model.safetensors", "preprocessor_config.json"):
        assert (again / file).read_bytes() == (out / file).read_bytes()
    assert_same_tree(merge.read(name, str(again)).variables, checkpoint.variables)


def run_example(out, audio, monkeypatch):
    """The variables of the model card's example after it ran on a clip."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    soundfile.write(out / "clip.wav", audio, 16_000)
    monkeypatch.chdir(out)
    variables = {}
    exec(example_of(out), variables)
    return variables


@pytest.mark.parametrize(("name", "head"), [("hubert", "SequenceClassification"), ("efficientnet", "ForImageClass")])
def test_transformers_computes_the_same_logits(restored, tmp_path, monkeypatch, capsys, name, head):
    torch = pytest.importorskip("torch")
    audio, run = noise(2)[:1], restored(name)
    out = formats.write(run, "huggingface", tmp_path / "out")
    variables = run_example(out, audio[0], monkeypatch)
    assert head in type(variables["model"]).__name__
    assert list(variables["model"].config.id2label.values()) == list(CLASSES)
    expected = logits(run.model, audio)
    inputs = variables["inputs"] if name == "hubert" else {"pixel_values": variables["pixel_values"]}
    with torch.no_grad():
        actual = variables["model"](**inputs).logits.numpy()
    # The libraries sum in a different order. The features of the example are computed by librosa.
    np.testing.assert_allclose(actual, expected, atol=1e-4, rtol=0)
    shares = probabilities(run.model, tasks.get("single_label"), audio)[0]
    np.testing.assert_allclose(variables["probabilities"], shares, atol=1e-4, rtol=0)
    assert np.ptp(expected) > 0.05  # far above the tolerance
    assert capsys.readouterr().out.startswith(CLASSES[int(expected[0].argmax())])


def test_a_multi_label_model_in_transformers(restored, tmp_path, monkeypatch, capsys):
    """Its example prints the classes above their thresholds; pipelines take the sigmoid."""
    pytest.importorskip("torch")
    audio, limits = noise(2)[:1], (0.5, 0.4, 0.6, 0.5, 0.5, 0.5, 0.5)
    run = as_multi_label(restored("hubert"), limits)
    out = formats.write(run, "huggingface", tmp_path / "out")
    variables = run_example(out, audio[0], monkeypatch)
    assert variables["model"].config.problem_type == "multi_label_classification"
    shares = probabilities(run.model, tasks.get("multi_label"), audio)[0]
    np.testing.assert_allclose(variables["probabilities"], shares, atol=1e-4, rtol=0)
    detected = [name for name, share, limit in zip(CLASSES, shares, limits, strict=True) if share >= limit]
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == detected != []
    assert hubert.read(out).labels == CLASSES


def test_padding_is_masked_as_in_transformers(restored, tmp_path, monkeypatch):
    audio, run = noise(2)[0, :5000], with_model(restored("hubert"), mask_padding=True)
    out = formats.write(run, "huggingface", tmp_path / "out")
    variables = run_example(out, audio, monkeypatch)
    inputs = variables["inputs"]
    assert inputs["attention_mask"].sum() == 5000 and inputs["input_values"].shape == (1, 8000)
    unmasked = with_model(run, mask_padding=False)
    vectors = [SoundClassifier(one)(audio, 16_000).vector for one in (run, unmasked)]
    np.testing.assert_allclose(vectors[0], variables["probabilities"], atol=1e-4, rtol=0)
    assert np.abs(vectors[1] - vectors[0]).max() > 0.01


def test_a_width_that_transformers_rounds_differently_is_refused(tmp_path):
    config = tiny_config("efficientnet")
    config.model.encoder.width_coefficient = 0.25
    options, variables = config.model.encoder.to_dict(), random_model(config).variables
    with pytest.raises(PretrainedError, match=r"width_coefficient=0.25"):
        efficientnet.write(tmp_path, variables, options, CLASSES, {"name": "log_mel"})
    assert list(tmp_path.iterdir()) == []


def test_a_spectrogram_that_transformers_pads_differently_is_refused(restored, tmp_path):
    config = tiny_config("efficientnet")
    config.model.encoder.same_padding = "tf"
    run = dataclasses.replace(restored("efficientnet"), config=config)
    # Both paddings are equal for 32 frames of 32 bins.
    assert formats.write(run, "huggingface", tmp_path / "out").is_dir()
    with pytest.raises(base.ExportError, match=r"spectrograms of 38 × 32 .* --format=stablehlo"):
        formats.write(with_model(run, clip_s=0.6), "huggingface", tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


def test_lite_is_refused_before_its_padding_is(restored, tmp_path):
    config = tiny_config("efficientnet")
    config.model.encoder.update(same_padding="tf", activation="relu6")
    run = dataclasses.replace(with_model(restored("efficientnet"), clip_s=0.6), config=config)
    with pytest.raises(PretrainedError, match="transformers has no EfficientNet-Lite"):
        formats.write(run, "huggingface", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["efficientat", "patch_transformer"])
def test_an_architecture_without_class_is_refused(restored, tmp_path, name):
    """transformers has MobileNetV1 and V2; those of EfficientAT are V3, and the hub's V3 are read with timm."""
    with pytest.raises(
        base.ExportError, match=f"transformers has no class for model.name={name} .* use --format=stablehlo"
    ):
        formats.write(restored(name), "huggingface", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
