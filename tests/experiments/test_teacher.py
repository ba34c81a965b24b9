"""The teacher of a distillation: which runs and encoders can be one, and what is said about it."""

import dataclasses
import json
import shutil
import types

import numpy as np
import pytest

from esc_jax import config as configs
from esc_jax.data.datasets import registry as datasets
from esc_jax.errors import ConfigError
from esc_jax.experiments import crossval, dataset, evaluate, probe, probe_heads, single, teacher
from esc_jax.export import formats
from esc_jax.inference.model_path import ModelPathError
from esc_jax.models import model as models
from esc_jax.pretrained import hubert
from esc_jax.report import runs
from esc_jax.tasks import registry as tasks
from esc_jax.training import packed, restore
from esc_jax.training.checkpoint import OtherDataError
from tests.training import helpers

TASK = tasks.get("single_label")


@pytest.fixture
def config(noise_clips, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "load", lambda config, check=None: noise_clips)
    config = helpers.resnet()
    config.experiment = "student"
    config.data.update(cache_dir=str(tmp_path / "cache"), test_fold=1)
    config.augment.mixup_alpha = 0.5
    config.train.update(batch_size=4, epochs=2, tensorboard=False)
    config.eval.update(batch_size=4, tta=2)
    return config


@pytest.fixture
def published(tmp_path, noise_clips):
    """Folder of a small encoder as Hugging Face publishes it."""
    config = helpers.hubert("projected")
    model = models.create(config, noise_clips.classes)
    frontend = {"name": "raw", "sample_rate": 16_000, **config.frontend}
    hubert.write(tmp_path / "published", model.variables, config.model.encoder, noise_clips.classes, frontend)
    return tmp_path / "published"


@pytest.mark.extended
def test_a_cross_validation_with_the_runs_of_another_as_teachers(config, tmp_path):
    """Each fold has the teacher with its test fold. The results, the report and the model card name the teacher."""
    config.experiment = "big"
    crossval.cross_validate(config, tmp_path / "runs/teachers")
    config.experiment, config.distill.teacher = "student", str(tmp_path / "runs/teachers")
    outcome = crossval.cross_validate(config, tmp_path / "runs/students")
    assert outcome["teacher"] == "big in fold3"
    assert json.loads((tmp_path / "runs/students/fold2/results.json").read_text())["teacher"] == "big in fold2"
    found, _ = runs.find(tmp_path / "runs")
    assert sorted(run.label for run in found) == ["students, teacher: big in fold3", "teachers"]
    card = formats.export(tmp_path / "runs/students/fold2", "stablehlo", tmp_path / "export") / "README.md"
    assert "The outputs of the teacher big in fold2 were further targets." in card.read_text()
    # A test of the finished run keeps the mark.
    config.data.test_fold = 2
    evaluate.evaluate_again(config, tmp_path / "runs/students/fold2")
    assert json.loads((tmp_path / "runs/students/fold2/results.json").read_text())["teacher"] == "big in fold2"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data.test_fold": 2}, "was trained with clips of the test fold 2: take a run with"),
        ({"protocol": "validation"}, "was trained on 4 clips that this run holds out: train the teacher with the same"),
        ({"train.calibration_share": 0.3}, "clips? that this run holds out"),
        ({"task": "multi_label"}, "is of the task single_label, and the run of the task multi_label"),
        ({"data.sample_rate": 8000}, "has the sample rate 16000 Hz: set config.data.sample_rate to it"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(config, tmp_path, noise_clips, change, message):
    single.train_and_evaluate(config, tmp_path / "run")
    config.distill.teacher = str(tmp_path / "run")
    config.update_from_flattened_dict(change)
    task = TASK if config.task == "auto" else tasks.get(config.task)
    with pytest.raises(ConfigError, match=message):
        teacher.load(config, task, noise_clips, dataset.split_clips(config, noise_clips))


def test_a_teacher_that_was_selected_on_the_test_fold_is_refused(config, tmp_path):
    config.protocol = "oracle"
    single.train_and_evaluate(config, tmp_path / "run")
    config.distill.teacher, config.protocol = str(tmp_path / "run"), "holdout"
    with pytest.raises(ConfigError, match="was selected on its test fold"):
        single.train_and_evaluate(config, tmp_path / "student")
    assert not (tmp_path / "student").exists()


@pytest.mark.extended
def test_a_run_does_not_go_on_with_another_teacher(config, tmp_path):
    for seed in (0, 1):
        config.seed = seed
        single.train_and_evaluate(config, tmp_path / f"teacher{seed}")
    config.distill.teacher = str(tmp_path / "teacher0")
    single.train_and_evaluate(config, tmp_path / "student")
    shutil.rmtree(tmp_path / "teacher0")
    (tmp_path / "teacher1").rename(tmp_path / "teacher0")
    with pytest.raises(OtherDataError, match="was started with another distill.teacher, or its weights have changed"):
        single.train_and_evaluate(config, tmp_path / "student")


def test_teachers_are_checked_before_anything_is_written(config, tmp_path, monkeypatch):
    """In a cross-validation, those of all folds, before the first is trained."""
    row = types.SimpleNamespace
    layout = types.SimpleNamespace(rows=[row(fold=fold, src_file=str(fold)) for fold in (1, 2, 3)], fingerprint="noise")
    load = datasets.load

    def checked(data, check=None):
        check(layout, None)
        return load(data)

    single.train_and_evaluate(config, tmp_path / "run")  # its test fold is 1
    monkeypatch.setattr(datasets, "load", checked)
    config.distill.teacher = str(tmp_path / "run")
    with pytest.raises(ConfigError, match="was trained with clips of the test fold 2"):
        crossval.cross_validate(config, tmp_path / "students")
    config.distill.teacher = str(tmp_path / "nothing")
    for entry in (single.train_and_evaluate, crossval.cross_validate):
        with pytest.raises(ConfigError, match="nothing: no such run or published encoder"):
            entry(config, tmp_path / "students")
    packed.save(restore.restore(tmp_path / "run"), tmp_path / "exported.safetensors")
    config.distill.teacher = str(tmp_path / "exported.safetensors")
    with pytest.raises(ModelPathError, match="config.distill.teacher=.* is an exported classifier"):
        single.train_and_evaluate(config, tmp_path / "students")
    config.distill.teacher, config.model.pretrained = "", str(tmp_path / "run")
    for entry in (single.train_and_evaluate, crossval.cross_validate, probe.probe_and_evaluate):
        with pytest.raises(ModelPathError, match="config.model.pretrained=.* is a classifier that esc_jax has trained"):
            entry(config, tmp_path / "students")
    config.distill.teacher, config.model.pretrained = str(tmp_path / "nothing"), ""
    config.method = "probe"
    with pytest.raises(ConfigError, match="config.distill.teacher=.* is not available with config.method=probe"):
        probe.probe_and_evaluate(config, tmp_path / "students")
    assert not (tmp_path / "students").exists()


def test_a_teacher_of_every_clip_teaches_no_run_that_is_tested(config, tmp_path, noise_clips):
    config.protocol = "all"
    single.train_and_evaluate(config, tmp_path / "run")
    config.distill.teacher = str(tmp_path / "run")
    split = dataset.split_clips(config, noise_clips)
    assert teacher.load(config, TASK, noise_clips, split).model.classes == noise_clips.classes
    config.protocol = "holdout"
    with pytest.raises(ConfigError, match="was trained on every clip, with those of the test fold among them"):
        teacher.load(config, TASK, noise_clips, split)
    config.protocol = "all"
    other = noise_clips.subset([0, 1], "two")
    with pytest.raises(ConfigError, match="has other classes than the data"):
        teacher.load(config, TASK, other, split)
    other = dataclasses.replace(noise_clips, fingerprint="other")
    with pytest.raises(ConfigError, match="distill.teacher=.* was trained on other data than data.dir contains: take"):
        teacher.load(config, TASK, other, split)


def test_the_background_of_a_teacher_may_differ(config, tmp_path, noise_clips):
    single.train_and_evaluate(config, tmp_path / "run")
    config.distill.teacher = str(tmp_path / "run")
    clips = dataclasses.replace(noise_clips, background=dataclasses.replace(noise_clips, fingerprint="background"))
    split = dataset.split_clips(config, clips)
    assert teacher.load(config, TASK, clips, split).model.classes == noise_clips.classes


@pytest.mark.slow
def test_a_published_encoder_gets_a_probe_on_the_training_clips(config, published, noise_clips, tmp_path):
    config.distill.teacher = str(published)
    split = dataset.split_clips(config, noise_clips)
    taught = teacher.load(config, TASK, noise_clips, split)
    assert taught.name == "published (LibriSpeech)"
    audio = noise_clips.read(range(12)).astype(np.float32) / 32768
    features = taught.model.frontend(audio)
    x = np.asarray(taught.model.module.apply(taught.model.variables, features, method="encode").embedding)
    head = probe_heads.fit_split(TASK, x[None], noise_clips, split)
    logits = taught.model.module.apply(taught.model.variables, features)
    np.testing.assert_allclose(logits, x @ head.kernel + head.bias, atol=1e-4)
    assert taught.temperature == pytest.approx(head.calibration.temperature, rel=1e-3)


def test_ways_that_exclude_a_teacher_are_refused(config, tmp_path):
    config.distill.teacher = "somewhere"
    config.augment.mixup_on = "spectrogram"
    with pytest.raises(ConfigError, match="distill.teacher gets mixed waveforms: set config.augment.mixup_on"):
        configs.check(config)
    config.augment.mixup_on, config.crossval.vectorized = "waveform", True
    with pytest.raises(ConfigError, match="crossval.vectorized=True does not support config.distill.teacher"):
        crossval.cross_validate(config, tmp_path / "run")
