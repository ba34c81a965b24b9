"""Runs of a cross-validation share their programs."""

import collections

import pytest

from esc_jax.data.datasets import registry as datasets
from esc_jax.experiments import crossval, single
from esc_jax.objectives.supervised import Supervised
from esc_jax.training import step as steps
from tests.training import helpers


@pytest.fixture
def config(noise_clips, monkeypatch):
    """Folds of noise, and a network of one block."""
    monkeypatch.setattr(datasets, "load", lambda config, check=None: noise_clips)
    config = helpers.resnet()
    config.model.encoder.stage_sizes = (1,)
    config.train.update(batch_size=4, epochs=1, tensorboard=False)
    config.crossval.folds = (1, 2)
    config.eval.tta = 2
    return config


@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param({"train.class_balance": "loss"}, marks=pytest.mark.slow),
        pytest.param({"distill.teacher": "crossval"}, marks=pytest.mark.slow),
    ],
    ids=["labels", "class weights", "teachers"],
)
def test_a_step_is_traced_once_for_all_folds(config, tmp_path, monkeypatch, changes):
    """Also with class weights or teachers, which differ from fold to fold: the results are those of single runs."""
    if "distill.teacher" in changes:
        crossval.cross_validate(config, tmp_path / "teachers")
        changes = {"distill.teacher": str(tmp_path / "teachers")}
    config.update_from_flattened_dict(changes)
    traces = []

    def loss(*args, original=Supervised._forward):
        traces.append("train")
        return original(*args)

    def features(*args, original=steps._features):
        traces.append(f"test with {args[2].count} views")
        return original(*args)

    monkeypatch.setattr(Supervised, "_forward", loss)
    monkeypatch.setattr(steps, "_features", features)
    crossval.cross_validate(config, tmp_path / "together")
    together = collections.Counter(traces)
    assert together["train"] and together["test with 1 views"] and together["test with 2 views"]
    for fold in (1, 2):
        traces.clear()
        config.data.test_fold = fold
        single.train_and_evaluate(config, tmp_path / f"fold{fold}")
        assert together == collections.Counter(traces)
        one, other = (
            (folder / "predictions.csv").read_text()
            for folder in (tmp_path / f"fold{fold}", tmp_path / "together" / f"fold{fold}")
        )
        assert one == other
