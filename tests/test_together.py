"""Runs trained at once are the runs that they would be alone."""

import json

import jax
import numpy as np
import pytest

from esc_jax import build, crossval, evaluate
from esc_jax import config as configs
from esc_jax.data import clips as datasets
from esc_jax.training import checkpoint, loop, parallel


@pytest.fixture
def config(noise_clips, monkeypatch):
    """Three folds and two seeds: on the four devices of the tests, two runs on each of three."""
    monkeypatch.setattr(datasets, "load", lambda config: noise_clips)
    config = configs.defaults("resnet")
    config.experiment = "noise"
    config.data.update(sample_rate=noise_clips.sample_rate, clip_s=0.5)
    config.frontend.update(n_fft=512, hop=256, mels=16)
    config.model.encoder.update(stage_sizes=(1, 1), width=8)
    config.model.head.dropout = 0.2
    config.augment.update(roll=1.0, mixup_alpha=0.3, time_mask=3)
    # An ε this large keeps Adam from turning the rounding of gradients near 0 into whole steps.
    config.optim.update(schedule="constant", lr=0.01, eps=0.01, warmup_percent=0.0)
    config.train.update(batch_size=4, epochs=2, ema=0.9, start_share=0.25, tensorboard=False)
    config.eval.tta = 2
    config.crossval.seeds = 2
    return config


def together(config):
    config.crossval.vectorized = True
    return config


def weights(workdir):
    return build.restore(workdir).variables


def test_every_run_is_what_it_is_alone(config, noise_clips, tmp_path):
    expected = crossval.cross_validate(config, tmp_path / "alone")
    found = crossval.cross_validate(together(config), tmp_path / "together")
    assert len(found["folds"]) == 6 and found["parameters"] == expected["parameters"]
    for fold in found["folds"]:
        name = f"fold{fold['fold']}_seed{fold['seed']}"
        here, there = weights(tmp_path / "together" / name), weights(tmp_path / "alone" / name)
        for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(here), jax.tree.leaves(there), strict=True):
            # Four steps; sums are taken in another order, the largest weights are about 1.
            np.testing.assert_allclose(a, b, atol=1e-4, err_msg=f"{name} {path}")
        one, other = (
            evaluate.read_predictions(tmp_path / how / name / "predictions.csv", noise_clips)
            for how in ("together", "alone")
        )
        np.testing.assert_allclose(one.plain, other.plain, atol=1e-3)
        np.testing.assert_array_equal(one.indices, other.indices)
        assert checkpoint.read_meta(*checkpoint.find(tmp_path / "together" / name))["calibration"]["energy"] > -10
    # Seeds and folds do make a difference.
    kernels = [np.ravel(weights(tmp_path / "together" / f"fold{f}_seed{s}")["params"]["head"]["classifier"]["kernel"])
               for f in (1, 2) for s in (0, 1)]  # fmt: skip
    assert all(np.abs(a - b).max() > 1e-3 for i, a in enumerate(kernels) for b in kernels[:i] if i != 2)
    first = [json.loads(line) for line in (tmp_path / "together/together/metrics.jsonl").open()][0]
    alone = [json.loads((tmp_path / f"alone/fold{f}_seed{s}/metrics.jsonl").open().readline())
             for f in (1, 2, 3) for s in (0, 1)]  # fmt: skip
    assert first["loss"] == pytest.approx(np.mean([line["loss"] for line in alone]), rel=1e-4)


def test_an_interrupted_program_goes_on_to_the_same_bits(config, tmp_path, monkeypatch):
    config.crossval.seeds, config.train.checkpoint_epochs = 1, 1
    crossval.cross_validate(together(config), tmp_path / "whole")
    opened = loop.StopSignal.__enter__

    def stop(self):
        opened(self)
        self.received = True
        return self

    with monkeypatch.context() as patch:
        patch.setattr(loop.StopSignal, "__enter__", stop)
        with pytest.raises(loop.Interrupted):
            crossval.cross_validate(config, tmp_path / "cut")
    crossval.cross_validate(config, tmp_path / "cut")
    for fold in (1, 2, 3):
        one, other = (weights(tmp_path / name / f"fold{fold}") for name in ("cut", "whole"))
        jax.tree.map(np.testing.assert_array_equal, one, other)


def test_what_cannot_be_trained_at_once_is_refused(config, tmp_path):
    for change, sentence in (
        ({"protocol": "oracle", "train": {"start_share": 0.0}}, "config.protocol=oracle selects others"),
        ({"pretrain": {"method": "simclr"}}, "no probe and no pretraining"),
        ({"crossval": {"folds": (1, 2, 9)}}, "has no fold 9"),
    ):
        own = together(config).copy_and_resolve_references()
        own.update(change)
        with pytest.raises(ValueError, match=sentence):
            crossval.cross_validate(own, tmp_path / "refused")
    assert parallel.places(6) == (3, 2) and parallel.places(5) == (1, 5) and parallel.places(8) == (4, 2)
