"""The data set of a run and its task."""

import dataclasses

import numpy as np
import pytest
import soundfile

from esc_jax import config as configs
from esc_jax.data import folds
from esc_jax.data.rows import DataError
from esc_jax.errors import ConfigError
from esc_jax.experiments import artifacts, crossval, dataset, probe, single
from esc_jax.tasks import registry as tasks
from esc_jax.tasks.multi_label import MultiLabel
from esc_jax.tasks.single_label import SingleLabel
from esc_jax.training.checkpoint import OtherDataError


@pytest.mark.parametrize(("missing", "named"), [([], ""), ([0], "a"), ([0, 2], "a, c")])
def test_classes_that_are_tested_and_not_trained_are_named(noise_clips, caplog, missing, named):
    """`missing` classes have no clip outside of the test fold."""
    labels = noise_clips.labels.copy()
    outside = np.array(noise_clips.folds) != 1
    labels[outside & np.isin(labels, missing)] = 1
    clips = dataclasses.replace(noise_clips, labels=labels)
    split = folds.split(clips.folds, clips.sources, "holdout", 1)
    with caplog.at_level("WARNING"):
        dataset.log_split(tasks.get("single_label"), clips, split)
    assert caplog.messages == ([f"no training clip has one of the test classes {named}"] if missing else [])


@pytest.mark.parametrize(("fold", "part"), [(2, "validation fold"), (3, "training folds")])
def test_a_part_without_any_class_is_refused(noise_clips, fold, part):
    """Nothing could be selected on it, or learned from it."""
    labels = noise_clips.labels[:, None] == np.arange(3)
    labels[np.array(noise_clips.folds) == fold] = False
    clips = dataclasses.replace(noise_clips, labels=labels)
    split = folds.split(clips.folds, clips.sources, "validation", 1)
    with pytest.raises(DataError, match=f"no clip of the {part} has a class"):
        dataset.check_split(configs.defaults("resnet"), tasks.get("multi_label"), clips, split)


def test_a_calibration_share_without_any_class_is_refused(noise_clips):
    """Of data with few labelled clips. It would end the training with its last epoch."""
    labels = np.zeros((12, 3), bool)
    labels[::4] = True
    clips = dataclasses.replace(noise_clips, labels=labels, task="multi_label")
    split = folds.split(clips.folds, clips.sources, "holdout", 1)
    split = dataclasses.replace(split, train=(4, 5, 8, 9), calibration=(6, 7, 10, 11))
    config = configs.defaults("resnet")
    config.train.update(batch_size=4, calibration_share=0.5)
    with pytest.raises(DataError, match="no clip that train.calibration_share=0.5 holds out has a class: raise it"):
        dataset.check_split(config, tasks.get("multi_label"), clips, split)
    dataset.check_split(config, tasks.get("multi_label"), clips, dataclasses.replace(split, calibration=(6, 8)))


def test_a_head_from_a_probe_needs_two_training_folds(noise_clips):
    """Of three folds, the protocol `validation` leaves one."""
    config = configs.defaults("resnet")
    config.train.update(batch_size=4, head_from_probe=True)
    for protocol in ("holdout", "all"):
        split = folds.split(noise_clips.folds, noise_clips.sources, protocol, 1)
        dataset.check_split(config, tasks.get("single_label"), noise_clips, split)
    split = folds.split(noise_clips.folds, noise_clips.sources, "validation", 1)
    with pytest.raises(ConfigError, match="config.train.head_from_probe needs at least two training folds"):
        dataset.check_split(config, tasks.get("single_label"), noise_clips, split)


@pytest.fixture
def config(tmp_path):
    """Of a network without hidden blocks, on files in class folders."""
    config = configs.defaults("resnet")
    config.data.update(
        name="folder", dir=str(tmp_path / "sounds"), sample_rate=16_000, clip_s=0.5, folds=3, test_fold=1
    )
    config.data.cache_dir = str(tmp_path / "cache")
    config.frontend.update(n_fft=512, hop=256, mels=16)
    config.model.encoder.update(stage_sizes=(1,), width=8)
    config.train.update(batch_size=4, epochs=1, tensorboard=False)
    config.eval.update(batch_size=4, tta=0)
    rng = np.random.default_rng(0)
    for number in range(12):
        path = tmp_path / f"sounds/{'ab'[number % 2]}/{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.1 * rng.standard_normal(8000), 16_000)
    return config


def prepared(tmp_path):
    return set((tmp_path / "cache/prepared").rglob("index.json"))


@pytest.mark.parametrize(
    "entry",
    [
        single.train_and_evaluate,
        pytest.param(probe.probe_and_evaluate, marks=pytest.mark.slow),
        pytest.param(crossval.cross_validate, marks=pytest.mark.slow),
    ],
)
def test_other_data_are_refused_before_they_are_prepared(config, tmp_path, entry):
    if entry is probe.probe_and_evaluate:
        config.method = "probe"
    entry(config, tmp_path / "run")
    before = prepared(tmp_path)
    results = (tmp_path / "run/results.json").read_text()
    soundfile.write(tmp_path / "sounds/a/new.wav", np.full(8000, 0.1), 16_000)
    with pytest.raises(OtherDataError, match="run was trained on other data than data.dir contains|fold1 was trained"):
        entry(config, tmp_path / "run")
    assert prepared(tmp_path) == before and (tmp_path / "run/results.json").read_text() == results


def test_another_background_is_refused_before_it_is_prepared(config, tmp_path):
    config.data.background = str(tmp_path / "background")
    (tmp_path / "background").mkdir()
    soundfile.write(tmp_path / "background/x.wav", np.full(8000, 0.1), 16_000)
    single.train_and_evaluate(config, tmp_path / "run")
    before = prepared(tmp_path)
    soundfile.write(tmp_path / "background/y.wav", np.full(8000, 0.2), 16_000)
    with pytest.raises(OtherDataError, match="was trained on other data than data.background contains"):
        single.train_and_evaluate(config, tmp_path / "run")
    assert prepared(tmp_path) == before


@pytest.mark.parametrize("method", ["train", "probe"])
def test_a_test_fold_that_does_not_exist_is_refused_before_the_preparation(config, tmp_path, method):
    config.method, config.data.test_fold = method, 7
    entry = probe.probe_and_evaluate if method == "probe" else single.train_and_evaluate
    with pytest.raises(DataError, match="data.test_fold=7: this data set has folds 1, 2 and 3; choose one of them"):
        entry(config, tmp_path / "run")
    config.crossval.folds = (7,)
    with pytest.raises(DataError, match="this data set has no fold 7"):
        crossval.cross_validate(config, tmp_path / "run")
    assert not prepared(tmp_path) and not (tmp_path / "run").exists()


class Levels(SingleLabel):
    """Ordered classes, with a metric of its own: 1 − mean distance / largest distance."""

    name = "levels"
    metric = "closeness"
    metric_label = "closeness"

    def clip_scores(self, labels, scores):
        return 1.0 - np.abs(self.decide(scores) - labels) / (scores.shape[-1] - 1)

    def calibration_pairs(self, labels, scores):
        return self.confidence(scores), (self.decide(scores) == labels).astype(np.float64)

    def fold_metrics(self, labels, scores, views, thresholds=None):
        return {"closeness": self.score(labels, scores), "closeness_tta": None, "total": len(labels)}


class Tags(MultiLabel):
    """Any number of classes."""

    name = "tags"


@pytest.fixture
def new_tasks(monkeypatch):
    """Two tasks more, of class indices and of any number of classes."""
    for task in (Levels(), Tags()):
        monkeypatch.setitem(tasks.TASKS, task.name, task)


def test_a_new_task_gets_labels_of_the_form_that_it_declares(config, new_tasks, tmp_path):
    shapes = {}
    for name in ("levels", "tags"):
        config.task = name
        loaded, task, clips = dataset.load(config)
        assert loaded.task == task.name == name
        shapes[name] = clips.labels.shape
    assert shapes == {"levels": (12,), "tags": (12, 2)}
    (tmp_path / "several.csv").write_text("file,label\nsounds/a/0.wav,a;b\nsounds/b/1.wav,b\nsounds/a/2.wav,a\n")
    config.data.update(name="csv", dir=str(tmp_path / "several.csv"))
    assert dataset.load(config)[2].labels.shape == (3, 2)
    config.task = "levels"
    with pytest.raises(ConfigError, match=r"^config.task=levels: the clips of this data set have any number of class"):
        dataset.load(config)


def test_a_run_of_a_new_task(config, new_tasks, tmp_path):
    """A subclass without the accuracy of its base class is trained, tested, calibrated and summarized."""
    config.task = "levels"
    results = single.train_and_evaluate(config, tmp_path / "run")
    labels = [line.split(",") for line in (tmp_path / "run/predictions.csv").read_text().splitlines()]
    column = {name: place for place, name in enumerate(labels[0])}
    right = [row[column["true"]] == row[column["predicted"]] for row in labels[1:]]
    assert results["closeness"]["mean"] == pytest.approx(np.mean(right))  # of two classes, the accuracy
    text = artifacts.summary(results)
    assert "  closeness  " in text and "accuracy" not in text
