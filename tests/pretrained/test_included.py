"""The classifier that is a file of the package: its entry in the catalog, its card, and the commands that use it."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile

import esc_jax
from esc_jax import config as configs
from esc_jax.cli import weights as command
from esc_jax.experiments import teacher
from esc_jax.inference import model_path
from esc_jax.pretrained import catalog, fetch, merge
from esc_jax.pretrained.published import PretrainedError

WEIGHTS = catalog.CATALOG[catalog.DEFAULT]
MAX_BYTES = 3_000_000


@pytest.fixture(scope="module")
def classifier():
    return esc_jax.load_classifier(WEIGHTS.name)


def test_the_file_is_that_of_its_entry():
    contents = WEIGHTS.path.read_bytes()
    assert len(contents) == WEIGHTS.size <= MAX_BYTES
    assert hashlib.sha256(contents).hexdigest() == WEIGHTS.sha256


def test_a_name_is_the_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert model_path.packed_file(WEIGHTS.name) == WEIGHTS.path and not model_path.is_published(WEIGHTS.name)
    assert command.main(["get", WEIGHTS.name]) == 0
    assert capsys.readouterr().out == f"{WEIGHTS.name}: {WEIGHTS.path}\n"
    assert command.main(["list"]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith(WEIGHTS.name))
    assert line.endswith("in the package")
    (tmp_path / WEIGHTS.name).mkdir()  # a folder comes before a name
    assert model_path.packed_file(WEIGHTS.name) is None


def test_the_card_states_score_teacher_and_licence():
    card = WEIGHTS.path.with_suffix(".md").read_text(encoding="utf-8")
    assert "Cross-validation of the same config: accuracy **" in card and "95 % interval" in card
    assert "further targets" in card and "AudioSet" in card and "no commercial use" in card


def test_the_classifier_of_the_package(classifier):
    assert len(classifier.classes) == 50 and classifier.sample_rate == WEIGHTS.sample_rate
    assert classifier.calibration.temperature and classifier.novelty is not None
    assert 5e5 < classifier.model.parameter_count < 1.5e6
    config = classifier.config
    assert config.protocol == "all" and not config.model.pretrained and config.distill.teacher
    assert config.data.dir == config.data.cache_dir == "" and "/" not in config.distill.teacher


def test_a_command_without_a_model_uses_it(classifier, environment, tmp_path):
    """In a process of its own that may not download anything."""
    rate = 8_000  # is resampled
    path = tmp_path / "noise.wav"
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(6 * rate), rate)
    done = subprocess.run(
        [sys.executable, "-m", "esc_jax", "predict", "--offline", f"--json={tmp_path}/out.json", str(path)],
        env=environment | {"ESC_JAX_CACHE": str(tmp_path / "empty")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (
        f"esc_jax: without --model, the classifier is {WEIGHTS.name} (ESC-50, 50 classes, CC BY-NC 3.0)\n"
        in done.stderr
    )
    (recording,) = json.loads((tmp_path / "out.json").read_text())["files"]
    best = classifier.timeline(path).probabilities.argmax(1)
    assert [window["top"][0]["class"] for window in recording["windows"]] == [classifier.classes[k] for k in best]


def test_training_does_not_start_from_it():
    for read in (merge.identify, lambda path: merge.read("resnet", path)):
        with pytest.raises(PretrainedError, match="is a trained classifier and not an encoder to start from"):
            read(WEIGHTS.name)
    config = configs.load("resnet18_distilled")
    config.distill.teacher = WEIGHTS.name
    with pytest.raises(configs.ConfigError, match="no such run or published encoder"):
        teacher.check(config)
    assert fetch.resolve(WEIGHTS.name) == str(WEIGHTS.path)


def test_clips_of_esc50_have_their_class(classifier, shared):
    """They trained the model: a file that was read wrongly would know one in fifty."""
    paths = sorted((shared / "esc50/audio").iterdir())[::20]
    labels = (shared / "esc50/meta/esc50.csv").read_text().splitlines()[1:]
    names = {row.split(".")[0]: row.split(",")[3] for row in labels}
    correct = [classifier(*soundfile.read(path)).labels[0] == names[path.stem] for path in paths]
    assert len(correct) >= 50 and np.mean(correct) > 0.9
