"""Vectorized runs equal the same runs one by one."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from esc_jax import config as configs
from esc_jax.data.datasets import registry as datasets
from esc_jax.errors import ConfigError
from esc_jax.evaluation import novelty, results
from esc_jax.experiments import crossval, evaluate, probe, single, vectorized
from esc_jax.experiments.run import prepare
from esc_jax.runtime import devices
from esc_jax.training import checkpoint, loop
from esc_jax.training.restore import restore
from tests.training import helpers


@pytest.fixture
def config(noise_clips, monkeypatch):
    """Three folds of noise, and a network of two blocks."""
    monkeypatch.setattr(datasets, "load", lambda config, check=None: noise_clips)
    config = helpers.resnet()
    config.experiment = "noise"
    config.model.head.dropout = 0.2
    config.augment.update(roll=1.0, mixup_alpha=0.3, time_mask=3)
    # An ε this large keeps Adam from turning the rounding of gradients near 0 into whole steps.
    config.optim.update(schedule="constant", lr=0.01, eps=0.01, warmup_percent=0.0)
    config.train.update(batch_size=4, epochs=2, ema=0.9, wise_ft_alpha=0.75, tensorboard=False)
    config.eval.tta = 2
    config.crossval.vectorized = True
    return config


def weights(workdir):
    return restore(workdir).model.variables


@pytest.mark.slow
def test_a_vectorized_run_equals_a_run_alone(config, noise_clips, tmp_path, monkeypatch):
    runs = {}
    for name, fold, seed in (("first", 1, 0), ("other fold", 2, 0), ("other seed", 2, 5)):
        runs[name] = config.copy_and_resolve_references()
        runs[name].data.test_fold, runs[name].seed = fold, seed
    alone = {name: single.train_and_evaluate(one, tmp_path / "alone" / name) for name, one in runs.items()}
    monkeypatch.setattr(devices, "run_layout", lambda count: (1, count))  # all on one device
    vectorized.train(runs, tmp_path / "vectorized")
    for name in runs:
        here, there = weights(tmp_path / "vectorized" / name), weights(tmp_path / "alone" / name)
        for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(here), jax.tree.leaves(there), strict=True):
            # Four steps. Sums have another order; the largest weights are about 1.
            np.testing.assert_allclose(a, b, atol=1e-4, err_msg=f"{name} {path}")
        one, other = (
            results.read_predictions(tmp_path / how / name / "predictions.csv", noise_clips)
            for how in ("vectorized", "alone")
        )
        np.testing.assert_allclose(one.plain, other.plain, atol=1e-3)
        np.testing.assert_array_equal(one.indices, other.indices)
        outcome = json.loads((tmp_path / "vectorized" / name / "results.json").read_text())
        assert outcome["parameters"] == alone[name]["parameters"] and outcome["folds"][0]["epochs"] == 2
        detectors = [novelty.restore(restore(tmp_path / how / name)) for how in ("vectorized", "alone")]
        assert detectors[0].threshold == pytest.approx(detectors[1].threshold, abs=1e-2)
        np.testing.assert_allclose(detectors[0].means, detectors[1].means, atol=1e-2)
    kernels = [
        np.ravel(weights(tmp_path / "vectorized" / name)["params"]["head"]["classifier"]["kernel"]) for name in runs
    ]
    assert all(np.abs(a - b).max() > 1e-3 for i, a in enumerate(kernels) for b in kernels[:i])
    first = json.loads((tmp_path / "vectorized/vectorized/metrics.jsonl").open().readline())
    losses = [json.loads((tmp_path / "alone" / name / "metrics.jsonl").open().readline())["loss"] for name in runs]
    assert first["loss"] == pytest.approx(np.mean(losses), rel=1e-4)


@pytest.mark.extended
def test_interrupted_runs_resume_to_the_same_bits(config, noise_clips, tmp_path, monkeypatch):
    config.train.checkpoint_epochs = 1  # each fold is on a device of its own
    crossval.cross_validate(config, tmp_path / "whole")
    enter = loop.StopSignal.__enter__

    def stop(self):
        enter(self)
        self.received = True
        return self

    with monkeypatch.context() as patch:
        patch.setattr(loop.StopSignal, "__enter__", stop)
        with pytest.raises(loop.Interrupted):
            crossval.cross_validate(config, tmp_path / "cut")
    with monkeypatch.context() as patch:
        patch.setattr(
            datasets, "load", lambda config, check=None: dataclasses.replace(noise_clips, fingerprint="other")
        )
        with pytest.raises(checkpoint.OtherDataError, match="was trained on other data than data.dir contains"):
            crossval.cross_validate(config, tmp_path / "cut")
    crossval.cross_validate(config, tmp_path / "cut")
    for fold in (1, 2, 3):
        one, other = (weights(tmp_path / name / f"fold{fold}") for name in ("cut", "whole"))
        jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.slow
def test_a_fold_with_damaged_results_is_tested_again(config, tmp_path):
    """From its checkpoint, which has no position in the data."""
    first = crossval.cross_validate(config, tmp_path)
    (tmp_path / "fold2" / "results.json").write_text("{")
    again = crossval.cross_validate(config, tmp_path)
    assert [fold["correct"] for fold in again["folds"]] == [fold["correct"] for fold in first["folds"]]
    assert again["confusion"] == first["confusion"]


@pytest.mark.slow
def test_only_a_finished_run_is_tested_again_and_only_on_its_data(config, noise_clips, tmp_path, monkeypatch):
    config.crossval.vectorized, config.data.test_fold = False, 1
    with monkeypatch.context() as patch:
        patch.setattr(loop.StopSignal, "agree", lambda self, number, last, steps: setattr(self, "stop", True) or True)
        with pytest.raises(loop.Interrupted):
            single.train_and_evaluate(config, tmp_path)
    with pytest.raises(ConfigError, match="stopped at step 1 of 4: finish the run first"):
        evaluate.evaluate_again(config, tmp_path)
    single.train_and_evaluate(config, tmp_path)
    with pytest.raises(ConfigError, match="contains the run of one fold"):
        crossval.cross_validate(config, tmp_path)
    before = (tmp_path / "results.json").read_text()
    monkeypatch.setattr(
        datasets, "load", lambda config, check=None: dataclasses.replace(noise_clips, fingerprint="other")
    )
    with pytest.raises(checkpoint.OtherDataError, match="was trained on other data than data.dir contains"):
        evaluate.evaluate_again(config, tmp_path)
    assert (tmp_path / "results.json").read_text() == before


def test_a_warning_names_classes_without_training_clips(config, noise_clips, tmp_path, monkeypatch, caplog):
    config.data.test_fold = 1
    prepare(config, tmp_path)
    assert "no training clip" not in caplog.text
    labels = np.where(np.array(noise_clips.folds) == 1, 0, 1)  # the first class is in the test fold only
    monkeypatch.setattr(datasets, "load", lambda config, check=None: dataclasses.replace(noise_clips, labels=labels))
    prepare(config, tmp_path)
    assert f"no training clip has one of the test classes {noise_clips.classes[0]}" in caplog.text


def test_a_probe_of_other_data_is_an_error(config, noise_clips, tmp_path, monkeypatch):
    config.crossval.vectorized, config.data.test_fold, config.method = False, 1, "probe"
    config.data.cache_dir = str(tmp_path / "cache")
    probe.probe_and_evaluate(config, tmp_path / "run")
    before = (tmp_path / "run/results.json").read_text()
    monkeypatch.setattr(
        datasets, "load", lambda config, check=None: dataclasses.replace(noise_clips, fingerprint="other")
    )
    with pytest.raises(checkpoint.OtherDataError, match="was trained on other data than data.dir contains"):
        probe.probe_and_evaluate(config, tmp_path / "run")
    assert (tmp_path / "run/results.json").read_text() == before
    assert len(list((tmp_path / "cache/embeddings").iterdir())) == 1  # refused before any pass over those data


def test_folds_with_other_numbers_of_batches_are_an_error(config, noise_clips, tmp_path, monkeypatch):
    """Six, nine and nine clips train the three folds, in batches of four. Nothing is written."""
    clips = dataclasses.replace(noise_clips, folds=(1,) * 6 + (2,) * 3 + (3,) * 3)
    monkeypatch.setattr(datasets, "load", lambda config, check=None: clips)
    with pytest.raises(ConfigError, match="needs folds with the same number of training batches"):
        crossval.cross_validate(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_options_that_vectorized_runs_do_not_support_are_errors(config, tmp_path):
    for change, sentence in (
        ({"protocol": "oracle", "train": {"wise_ft_alpha": 1.0}}, "requires config.protocol=holdout, not oracle"),
        ({"train": {"accumulate": 3}}, "train.batch_size=4 is not divisible by config.train.accumulate=3"),
        ({"pretrain": configs.pretrain_defaults("simclr")}, "vectorized does not support pretraining"),
        ({"crossval": {"folds": (1, 2, 9)}}, "has no fold 9"),
    ):
        changed = config.copy_and_resolve_references()
        with changed.unlocked():
            changed.update(change)
        with pytest.raises(ValueError, match=sentence):
            crossval.cross_validate(changed, tmp_path / "run")
        assert not (tmp_path / "run").exists()
    assert devices.run_layout(6) == (3, 2) and devices.run_layout(5) == (1, 5) and devices.run_layout(8) == (4, 2)
