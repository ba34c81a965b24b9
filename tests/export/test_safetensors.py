"""A classifier in one file: the same predictions, no private paths, and files that are damaged or hostile."""

import dataclasses
import json
import struct

from flax import traverse_util
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from esc_jax.evaluation.novelty import Novelty
from esc_jax.export import formats
from esc_jax.inference import classifier as classifiers
from esc_jax.inference import embeddings
from esc_jax.tasks import registry as tasks
from esc_jax.training import packed
from esc_jax.training.checkpoint import CheckpointError
from tests.export.factories import ENCODERS, as_multi_label, noise, probabilities

# With random weights, a deep network of these makes 0.1 of the probabilities from 4e-4 of the weights.
CHAOTIC = ("efficientnet", "efficientat")


@pytest.mark.parametrize(
    "name", [name if name == "resnet" else pytest.param(name, marks=pytest.mark.extended) for name in ENCODERS]
)
def test_the_file_predicts_as_the_run(restored, tmp_path, name):
    run, audio = restored(name), noise(5)
    out = formats.write(run, "safetensors", tmp_path / "out")
    assert {path.name for path in out.iterdir()} == {"classifier.safetensors", "README.md"}
    # Two bytes for each value of a kernel, and names and options.
    assert (out / "classifier.safetensors").stat().st_size < 2.5 * run.model.parameter_count + 40_000
    for path in (out, out / "classifier.safetensors"):
        read = classifiers.restore_any(path)
        assert read.model.classes == run.model.classes and read.config.task == run.config.task
        weights, kept = (traverse_util.flatten_dict(x.model.variables, sep="/") for x in (run, read))
        assert weights.keys() == kept.keys()
        for key, value in weights.items():  # half precision has 11 bits
            np.testing.assert_allclose(kept[key], value, atol=1e-3 * np.abs(value).max(), rtol=0, err_msg=key)
        if name in CHAOTIC:
            continue
        expected = probabilities(run.model, tasks.get("single_label"), audio)
        assert np.ptp(expected, axis=0).max() > 0.02  # far above the tolerance
        np.testing.assert_allclose(probabilities(read.model, tasks.get("single_label"), audio), expected, atol=5e-3)
    encoder = embeddings.load_encoder(str(out))
    assert encoder.sample_rate == run.model.sample_rate


def test_calibration_detector_and_scores_are_kept(restored, tmp_path):
    limits, rng = (0.5, 0.4, 0.6, 0.5, 0.5, 0.5, 0.5), np.random.default_rng(0)
    run = as_multi_label(restored("resnet"), limits, temperature=2.0)
    x = rng.standard_normal((40, run.model.module.encoder.width * 2)).astype(np.float32)
    detector = Novelty.fit(x, np.arange(40)[:, None] % 7 == np.arange(7)).with_threshold(np.arange(40.0), "forty clips")
    quoted = {
        "metric": "mAP", "mean": 0.8, "std": None, "ci95": [0.7, 0.9], "clips": 40, "folds": [1, 2],
        "protocol": "holdout",
    }  # fmt: skip
    run = dataclasses.replace(
        run,
        novelty=detector.arrays(),
        meta=run.meta
        | {"novelty": detector.to_dict(), "cross_validation": quoted, "measured": {"mean": None, "reason": "r"}},
    )
    out = formats.write(run, "safetensors", tmp_path / "out")
    classifier = classifiers.load_classifier(out)
    np.testing.assert_array_equal(classifier.thresholds, limits)
    assert classifier.calibration.temperature == 2.0
    assert classifier.novelty.threshold == detector.threshold
    np.testing.assert_array_equal(classifier.novelty.score(x), detector.score(x))
    card = (out / "README.md").read_text()
    assert "Cross-validation of the same config: mAP **80.00 %** (95 % interval 70.0 to 90.0)" in card
    # The scores also go into an export of the file.
    again = formats.export(out, "stablehlo", tmp_path / "again")
    assert json.loads((again / "model.json").read_text())["cross_validation"]["mean"] == 0.8


def test_paths_of_this_machine_are_not_shared(restored, tmp_path):
    run = restored("resnet")
    with run.config.unlocked():
        run.config.data.dir, run.config.data.cache_dir = "/home/me/sounds", "/home/me/cache"
        run.config.model.pretrained, run.config.distill.teacher = "/home/me/a.pt", "/home/me/teacher"
        run.config.pretrain.teacher = "/home/me/runs/tokens"
    out = formats.write(run, "safetensors", tmp_path / "out")
    run.config.model.pretrained = run.config.distill.teacher = run.config.pretrain.teacher = ""
    for file in out.iterdir():
        assert b"/home/me" not in file.read_bytes()
    assert "the features of the teacher tokens were predicted" in (out / "README.md").read_text()
    assert "The teacher tokens: the licence of its weights" in (out / "README.md").read_text()
    assert classifiers.restore_any(out).config.model.pretrained == "a.pt"


@pytest.fixture
def file(restored, tmp_path):
    return formats.write(restored("resnet"), "safetensors", tmp_path / "out") / "classifier.safetensors"


def change(file, meta=None, arrays=None):
    """Writes the file again with other metadata or arrays."""
    with safetensors.safe_open(file, "numpy") as opened:
        old = json.loads(opened.metadata()["esc_jax"])
    content = safetensors.numpy.load_file(file) | (arrays or {})
    content = {name: array for name, array in content.items() if array is not None}
    safetensors.numpy.save_file(content, file, metadata={"esc_jax": json.dumps(old | (meta or {}))})


@pytest.mark.parametrize(
    ("meta", "arrays", "message"),
    [
        ({"packed": 2}, {}, "is damaged, or was written by another version"),
        ({"classes": ["a"]}, {}, "its arrays are not those of its config"),
        ({"classes": 3}, {}, "classes is 3, and must be a list of names"),
        ({"calibration": {"temperature": 0}}, {}, "calibration.temperature is 0"),
        ({}, {"params/other": np.zeros(3, np.float32)}, "its arrays are not those of its config"),
        ({}, {"params/head/classifier/bias": None}, "its arrays are not those of its config"),
        ({}, {"params/head/classifier/bias": np.full(7, np.nan, np.float32)}, "values that are not finite"),
        ({}, {"novelty/means": np.zeros((7, 3), np.float32)}, "of its detector of unfamiliar sounds do not belong"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(file, meta, arrays, message):
    change(file, meta, arrays)
    with pytest.raises(CheckpointError, match=message) as error:
        classifiers.load_classifier(file)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_damaged_file_and_other_files(file, tmp_path, run):
    content = file.read_bytes()
    file.write_bytes(content[:-100])
    done = run("predict", f"--model={file}", __file__, check=2)
    assert "Traceback" not in done.stderr and str(file) in done.stderr
    length = struct.unpack("<Q", content[:8])[0]
    for damaged in (b"", content[:20], content[:8] + b"{" * length + content[8 + length :]):
        file.write_bytes(damaged)
        assert not packed.is_packed(file)
    other = tmp_path / "other.safetensors"
    safetensors.numpy.save_file({"w": np.zeros(3, np.float32)}, other, metadata={"format": "pt"})
    assert not packed.is_packed(other)
