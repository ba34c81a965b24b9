"""Export of published classifiers, which no run of esc_jax has trained."""

import json

from jax import export as jax_export
import numpy as np
import pytest

import esc_jax
from esc_jax.cli import export
from esc_jax.models import model as models
from esc_jax.pretrained import hubert
from tests.training import helpers


@pytest.fixture
def published(tmp_path):
    """Folder of a small classifier as Hugging Face publishes it."""
    config = helpers.hubert("projected")
    model = models.create(config, ("blues", "jazz", "rock"))
    frontend = {"name": "raw", "sample_rate": 16_000, **config.frontend}
    hubert.write(tmp_path / "published", model.variables, config.model.encoder, model.classes, frontend)
    return tmp_path / "published"


@pytest.mark.slow
def test_the_program_of_a_published_classifier(published, tmp_path, capsys):
    out = tmp_path / "out"
    assert export.main([f"--model={published}", "--format=stablehlo", f"--out={out}"]) == 0
    about = json.loads((out / "model.json").read_text())
    assert about["labels"] == ["blues", "jazz", "rock"] and about["samples"] == 160_000
    assert about["measured"] == {"mean": None, "reason": "esc_jax has not measured these published weights"}
    card = (out / "README.md").read_text()
    assert "The weights are the published `published`, unchanged." in card and "Trained with esc_jax" not in card
    waveform = 0.1 * np.random.default_rng(0).standard_normal((1, 160_000)).astype(np.float32)
    program = jax_export.deserialize((out / "model.stablehlo").read_bytes())
    expected = esc_jax.load_classifier(published)(waveform[0], 16_000).vector
    # The classifier computes windows of 10 s that overlap; of exactly 10 s there is one.
    np.testing.assert_allclose(np.asarray(program.call(waveform))[0], expected, atol=1e-5)


def test_an_encoder_without_classes_is_refused(shared, tmp_path, capsys):
    pytest.importorskip("torch")
    encoder = shared / "reference/beats/tiny_beats_pretrained.pt"
    assert export.main([f"--model={encoder}", "--format=stablehlo", f"--out={tmp_path}/out"]) == 2
    assert "has no classes of its own" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.extended
def test_the_published_tagger_in_onnx(shared, tmp_path):
    """Its 527 probabilities on real recordings of ten seconds are those of the classifier."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("torch")
    out = tmp_path / "tagger"
    model = shared / "weights/efficientat/mn04_as_mAP_432.pt"
    assert export.main([f"--model={model}", "--format=onnx", f"--out={out}"]) == 0
    clips = np.load(shared / "reference/efficientat/mn04_as_reference.npz")["waveform_32k"].reshape(2, -1)
    session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    result = session.run(None, {"waveform": clips})[0]
    classifier = esc_jax.load_classifier(model)
    for waveform, probabilities in zip(clips, result, strict=True):
        np.testing.assert_allclose(probabilities, classifier(waveform, 32_000).vector, atol=1e-4)
    assert result.max() > 0.5
