"""Training on every clip, and calibration from held-out clips, from the command line."""

import json

import numpy as np
import pytest

from esc_jax.experiments import crossval_quote
from esc_jax.training.restore import restore

TINY = "--config=tests/configs/tiny.py"


def read(workdir):
    return json.loads((workdir / "results.json").read_text())


@pytest.fixture(scope="module")
def cross_validated(run, tmp_path_factory):
    """A trained cross-validation of two folds."""
    workdir = tmp_path_factory.mktemp("crossval") / "run"
    settings = ("--config.train.epochs=1", "--config.crossval.folds=(1,2)", "--mode=crossval")
    run("main", TINY, *settings, f"--workdir={workdir}")
    return workdir


@pytest.mark.slow
def test_a_cross_validation_calibrates_each_fold_with_the_others(cross_validated):
    fitted = read(cross_validated)["calibration"]
    assert fitted["fitted_on"] == "the held-out predictions of the other folds"
    assert set(fitted["temperature"]) == {"1", "2"} and all(t > 0 for t in fitted["temperature"].values())


@pytest.mark.slow
def test_a_model_of_every_clip_takes_score_and_temperature_from_the_cross_validation(cross_validated, run, tmp_path):
    settings = ("--config.train.epochs=1", "--config.protocol=all", f"--from_crossval={cross_validated}")
    printed = run("main", TINY, *settings, f"--workdir={tmp_path}").stdout
    results, pooled = read(tmp_path), read(cross_validated)
    assert results["crossval"]["accuracy"] == pooled["accuracy"] and results["crossval"]["folds"] == [1, 2]
    assert "trained on every clip; not tested. Cross-validation of this config over folds 1, 2" in printed
    assert results["data"]["split"].startswith("train 60 clips (folds 1, 2, 3, 4, 5)")
    meta = restore(tmp_path).meta
    assert meta["calibration"]["fitted_on"] == crossval_quote.FITTED_ON and meta["calibration"]["temperature"] > 0
    assert meta["novelty"]["fitted_on"] == "training clips" and np.isfinite(meta["novelty"]["threshold"])
    again = run("main", TINY, *settings[:2], f"--workdir={tmp_path}", "--mode=evaluate").stdout
    assert "not tested. Cross-validation of this config" in again and read(tmp_path)["folds"] == []


@pytest.mark.slow
def test_held_out_training_clips_fit_the_calibration_of_a_single_run(run, tmp_path):
    run("main", TINY, "--config.train.epochs=1", "--config.train.calibration_share=0.25", f"--workdir={tmp_path}")
    results = read(tmp_path)
    assert results["calibration"]["fitted_on"] == "12 held-out clips of the training folds"
    assert results["data"]["split"].startswith("train 36 clips (folds 1, 2, 3, 4), calibration 12 clips")


@pytest.mark.slow
@pytest.mark.parametrize("balance", ["loss", pytest.param("sampling", marks=pytest.mark.extended)])
def test_a_run_with_balanced_classes(run, tmp_path, balance):
    run("main", TINY, "--config.train.epochs=1", f"--config.train.class_balance={balance}", f"--workdir={tmp_path}")
    assert read(tmp_path)["folds"][0]["total"] == 12
