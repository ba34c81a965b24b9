"""LiteRT files compute the probabilities of the run in LiteRT's interpreter, or the export fails."""

import ast
import functools
import importlib.util
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from esc_jax.export import formats, tflite
from esc_jax.export.base import ExportError
from esc_jax.tasks import registry as tasks
from esc_jax.training.restore import Restored, restore
from tests.export.examples import example_of
from tests.export.factories import (
    CLASSES,
    noise,
    normalize_logits,
    probabilities,
    random_model,
    save_run,
    tiny_config,
)  # fmt: skip
from tests.export.isolation import isolated, write_wav

REASON = "needs ai-edge-litert and TensorFlow: pip install 'esc-jax[tflite]'"
NAMES = {"model.tflite", "features.tflite", "features_int8.tflite", "model.json", "example.py", "README.md"}


@pytest.fixture(scope="module")
def restored(restored, tmp_path_factory):
    """As the fixture of all formats, with a larger spectrogram for EfficientNet.

    TensorFlow's converter refuses a 1×1 convolution of a map of one point, to which it reduces 32 × 32.
    """

    @functools.cache
    def get(name: str) -> Restored:
        if name != "efficientnet":
            return restored(name)
        config = tiny_config(name)
        config.frontend.update(hop=128, mels=64)
        return restore(save_run(tmp_path_factory.mktemp(name), config, normalize_logits(random_model(config))))

    return get


@pytest.fixture(scope="module")
def exported(restored, tmp_path_factory):
    """Name of an architecture → its export."""
    pytest.importorskip("ai_edge_litert", reason=REASON)
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip(REASON)
    folders = {}

    def get(name: str) -> pathlib.Path:
        if name not in folders:
            folders[name] = formats.write(restored(name), "tflite", tmp_path_factory.mktemp("tflite") / name)
        return folders[name]

    return get


@pytest.mark.slow  # TensorFlow is imported in another process
@pytest.mark.parametrize("name", tflite.ARCHITECTURES)
def test_every_architecture_computes_the_same_probabilities(restored, exported, name):
    run, out, audio = restored(name), exported(name), noise(5)
    from esc_jax.export.tflite import write

    waveforms = audio.astype(np.float32) / 32768
    expected = probabilities(run.model, tasks.get("single_label"), audio)
    assert np.ptp(expected, axis=0).max() > 0.05  # far above the tolerance
    features = np.asarray(run.model.frontend(waveforms))
    for file, inputs in (("model.tflite", waveforms), ("features.tflite", features)):
        np.testing.assert_allclose(write.run(out / file, inputs), expected, atol=1e-4, rtol=0)

    about, int8 = json.loads((out / "model.json").read_text()), write.run(out / "features_int8.tflite", features)
    assert about["labels"] == list(CLASSES) and about["input"]["shape"] == [1, 8000]
    assert about["files"]["features.tflite"]["shape"] == [1, *features.shape[1:]]
    assert int8.shape == expected.shape
    np.testing.assert_allclose(int8.sum(-1), 1, atol=1e-5)
    assert (out / "features_int8.tflite").stat().st_size < (out / "features.tflite").stat().st_size


@pytest.mark.slow
def test_the_files_use_built_in_operators(exported):
    from ai_edge_litert.interpreter import Interpreter

    out = exported("efficientat")
    assert {path.name for path in out.iterdir()} == NAMES
    kinds = {node["op_name"] for node in Interpreter(str(out / "model.tflite"))._get_ops_details()}
    assert "DEPTHWISE_CONV_2D" in kinds and not any(kind.startswith(("Flex", "STABLEHLO", "CUSTOM")) for kind in kinds)
    card, about = (out / "README.md").read_text(), json.loads((out / "model.json").read_text())
    assert example_of(out) == (out / "example.py").read_text()
    agreement = about["files"]["features_int8.tflite"]["top1_agreement"]
    assert f"| `features_int8.tflite` | features | the same first class for {100 * agreement:.1f} %" in card
    assert ("measure it on your own clips" in card) == (agreement < 0.9)


@pytest.mark.slow
def test_the_example_needs_numpy_and_litert_only(exported):
    from esc_jax.export.tflite import write

    out, audio = exported("resnet"), noise(2)
    source = (out / "example.py").read_text()
    modules = [node for node in ast.walk(ast.parse(source)) if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = {node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in modules}
    assert names == {"ai_edge_litert.interpreter", "json", "numpy", "pathlib", "sys", "wave"}
    write_wav(out / "clip.wav", audio.reshape(-1, 1), 16_000)
    done = isolated(out, {"numpy", "ai_edge_litert", "flatbuffers", "backports"}, "clip.wav")
    (out / "clip.wav").unlink()
    assert done.returncode == 0, done.stderr[-3000:]
    lines = []
    for number, row in enumerate(write.run(out / "model.tflite", audio.astype(np.float32) / 32768)):
        best = ", ".join(f"{CLASSES[i]} {row[i]:.3f}" for i in row.argsort()[::-1][:3])
        lines.append(f"{number * 0.5:.1f} s: {best}")
    assert [line for line in done.stdout.splitlines() if " s: " in line] == lines


def test_different_outputs_fail(restored, tmp_path, monkeypatch):
    """A converter that leaves out the temperature, say. The file of another run stands for its result."""
    pytest.importorskip("ai_edge_litert", reason=REASON)
    from esc_jax.export.tflite import write

    monkeypatch.setattr(tflite, "_PACKAGES", ())  # TensorFlow may be missing
    monkeypatch.setattr(write, "_convert", lambda directory, functions: "2.0")
    monkeypatch.setattr(write, "run", lambda path, inputs: np.full((len(inputs), len(CLASSES)), 1 / 7))
    with pytest.raises(ExportError, match=r"model.tflite in LiteRT differ by .* more than 0.0001"):
        formats.write(restored("resnet"), "tflite", tmp_path / "new/out")
    assert list(tmp_path.iterdir()) == []


def test_a_converter_that_fails_is_one_sentence(restored, tmp_path, monkeypatch):
    pytest.importorskip("ai_edge_litert", reason=REASON)
    from esc_jax.export.tflite import write

    def fail(command, **options):
        return subprocess.CompletedProcess(command, 1, "", "Traceback\nValueError: no such operator\n")

    monkeypatch.setattr(tflite, "_PACKAGES", ())  # TensorFlow may be missing
    monkeypatch.setattr(write.subprocess, "run", fail)
    with pytest.raises(ExportError, match=r"cannot convert the model \(ValueError: no such operator\): use --format"):
        formats.write(restored("resnet"), "tflite", tmp_path / "out")


@pytest.mark.parametrize("package", ["ai_edge_litert", "tensorflow"])
def test_a_missing_package_is_named(restored, tmp_path, monkeypatch, package):
    for name in ("ai_edge_litert", "tensorflow"):
        monkeypatch.setitem(sys.modules, name, None if name == package else ast)
    with pytest.raises(ExportError, match=rf"needs the package {package}: pip install 'esc-jax\[tflite\]'"):
        formats.write(restored("resnet"), "tflite", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_another_architecture_is_refused(restored, tmp_path):
    with pytest.raises(ExportError, match=r"not for model.name=hubert: use --format=onnx"):
        formats.write(restored("hubert"), "tflite", tmp_path / "out")
