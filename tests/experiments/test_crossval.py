"""Cross-validation: pooled results, finished folds, failed folds."""

import csv
import dataclasses
import json

import numpy as np
import pytest

from esc_jax import config as configs
from esc_jax.data.datasets import registry as datasets
from esc_jax.data.rows import DataError
from esc_jax.errors import ConfigError
from esc_jax.evaluation import results
from esc_jax.experiments import artifacts, crossval, single, workdir
from esc_jax.tasks import registry as tasks
from esc_jax.training.loop import TrainError


@pytest.fixture
def runs(noise_clips, monkeypatch):
    """A config whose runs guess at random, the list of (fold, seed) that ran, and a set of folds to fail."""
    ran, failing = [], set()

    def run(config, folder, programs=None):
        fold, seed = config.data.test_fold, config.seed
        ran.append((fold, seed))
        if fold in failing:
            raise TrainError("the loss is nan")
        workdir.bind_workdir(folder, config)
        indices = np.flatnonzero(np.array(noise_clips.folds) == fold)
        views = np.random.default_rng(10 * fold + seed).dirichlet(np.ones(3), (2, len(indices)))
        part = results.fold_predictions(fold, seed, indices, views, 7, 60.0)
        task = tasks.get("single_label")
        outcome = results.results(config, task, noise_clips, [part], "split", parameters=11, step=3)
        artifacts.write_artifacts(folder, outcome, noise_clips, [part])
        return outcome

    monkeypatch.setattr(datasets, "load", lambda config, check=None: noise_clips)
    monkeypatch.setattr(single, "train_and_evaluate", run)
    config = configs.defaults("resnet")
    config.experiment = "guess"
    config.train.batch_size = 4
    return config, ran, failing


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_every_fold_and_seed_is_tested_once_and_pooled(runs, noise_clips, tmp_path):
    config, ran, _ = runs
    config.crossval.seeds = 2
    outcome = crossval.cross_validate(config, tmp_path)
    assert sorted(ran) == [(fold, seed) for fold in (1, 2, 3) for seed in (0, 1)]
    pooled, separate = rows(tmp_path / "predictions.csv"), []
    for fold in (1, 2, 3):
        for seed in (0, 1):
            separate += rows(tmp_path / f"fold{fold}_seed{seed}" / "predictions.csv")
    key = lambda row: (row["clip"], row["seed"])  # noqa: E731
    assert sorted(pooled, key=key) == sorted(separate, key=key) and len(pooled) == 24
    assert outcome.items() <= json.loads((tmp_path / "results.json").read_text()).items()
    shares = [np.mean([r["true"] == r["predicted"] for r in pooled if r["fold"] == str(f["fold"])
                       and r["seed"] == str(f["seed"])]) for f in outcome["folds"]]  # fmt: skip
    np.testing.assert_allclose([f["accuracy"] for f in outcome["folds"]], shares)
    assert outcome["accuracy"]["mean"] == pytest.approx(np.mean(shares))
    assert outcome["accuracy"]["std"] == pytest.approx(np.std(shares, ddof=1))
    assert np.sum(outcome["confusion"]) == 24 and outcome["parameters"] == 11 and outcome["failed"] == {}
    page = (tmp_path / "report.md").read_text()
    assert f"{100 * np.mean(shares):.2f} %" in page and "tested once, at the end" in page
    assert outcome["task"] == "single_label"


def test_a_finished_fold_is_not_run_again(runs, tmp_path):
    config, ran, _ = runs
    first = crossval.cross_validate(config, tmp_path)
    (tmp_path / "fold2" / "results.json").unlink()
    ran.clear()
    assert crossval.cross_validate(config, tmp_path) == first
    assert ran == [(2, 0)]


def test_a_fold_that_was_tested_with_other_views_is_tested_again(runs, tmp_path):
    """`--mode=evaluate` on a fold may have other views than the cross-validation, which names its own."""
    config, ran, _ = runs
    first = crossval.cross_validate(config, tmp_path)
    outcome = results.read_results(tmp_path / "fold2" / "results.json")
    for views in ({"tta_kind": "crops"}, {"tta_views": 3}):
        results.write_results(tmp_path / "fold2" / "results.json", outcome | views)
        ran.clear()
        assert crossval.cross_validate(config, tmp_path) == first and ran == [(2, 0)]


def test_a_mistake_in_the_last_fold_is_reported_before_the_first_is_trained(runs, noise_clips, tmp_path, monkeypatch):
    config, ran, _ = runs
    sizes = (2, 2, 8)
    folds = tuple(number for number, size in enumerate(sizes, 1) for _ in range(size))
    clips = dataclasses.replace(noise_clips, folds=folds)
    monkeypatch.setattr(datasets, "load", lambda config, check=None: clips)
    config.train.batch_size = 5
    with pytest.raises(ConfigError, match="batch_size=5 is larger than the number of training clips, 4"):
        crossval.cross_validate(config, tmp_path / "run")
    assert not ran and not (tmp_path / "run").exists()


def test_a_failed_fold_is_reported_and_the_others_are_kept(runs, tmp_path):
    config, ran, failing = runs
    failing.add(3)
    with pytest.raises(crossval.CrossvalError, match=r"1 of 3 runs failed \(fold3: the loss is nan\)"):
        crossval.cross_validate(config, tmp_path)
    outcome = json.loads((tmp_path / "results.json").read_text())
    assert [f["fold"] for f in outcome["folds"]] == [1, 2] and outcome["failed"] == {"fold3": "the loss is nan"}
    failing.clear()
    ran.clear()
    assert len(crossval.cross_validate(config, tmp_path)["folds"]) == 3 and ran == [(3, 0)]


def test_folds_that_do_not_exist_and_other_configs_are_errors(runs, tmp_path):
    config, _, failing = runs
    config.crossval.folds = (1, 9)
    with pytest.raises(DataError, match="no fold 9"):
        crossval.cross_validate(config, tmp_path)
    config.crossval.folds = (1,)
    crossval.cross_validate(config, tmp_path)
    config.optim.lr = 0.5
    with pytest.raises(configs.ConfigError, match="contains a run of another config: optim.lr"):
        crossval.cross_validate(config, tmp_path)
    failing.update((1, 2, 3))
    with pytest.raises(crossval.CrossvalError, match="every fold failed; fold1: the loss is nan"):
        crossval.cross_validate(config, tmp_path / "other")


def test_probabilities_are_read_from_the_file_of_a_run(runs, noise_clips, tmp_path):
    config, _, _ = runs
    config.data.test_fold = 2
    single.train_and_evaluate(config, tmp_path)
    part = results.read_predictions(tmp_path / "predictions.csv", noise_clips)
    views = np.random.default_rng(20).dirichlet(np.ones(3), (2, 4))
    np.testing.assert_allclose(part.plain, views[0], rtol=1e-8)  # nine digits
    np.testing.assert_allclose(part.averaged, views.mean(0), rtol=1e-8)
    np.testing.assert_array_equal(part.indices, [4, 5, 6, 7])
