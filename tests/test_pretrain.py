"""Both stages from one command: what is learned without labels, what is left, and going on in either stage."""

import json

import jax
import numpy as np
import pytest

from esc_jax import build, pretrain
from esc_jax import config as configs
from esc_jax.data import folds
from esc_jax.training import diagnostics, loop

TINY = ["--config=tests/configs/tiny.py", "--config.pretrain.method=simclr", "--config.pretrain.batch_size=16"]
TINY += ["--config.pretrain.epochs=4", "--config.pretrain.watch_epochs=2", "--config.train.epochs=1"]


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_one_command_runs_both_stages_and_reports_them(thorough, run, tmp_path):
    printed = run("main", *TINY, f"--workdir={tmp_path}").stdout
    found = json.loads((tmp_path / "results.json").read_text())
    history = lines(tmp_path / "pretrain" / "metrics.jsonl")
    assert [line["epoch"] for line in history] == [1, 2, 3, 4] and [line["step"] for line in history][-1] == 12
    assert ["knn_accuracy" in line for line in history] == [False, True, False, True]
    assert set(found["pretrain"]) == {
        "method", "probe_accuracy", "pretext_accuracy", "knn_accuracy", "effective_rank"
    }  # fmt: skip
    assert found["pretrain"]["pretext_accuracy"] == history[-1]["pretext_accuracy"]
    assert "pretrained (simclr)" in printed and (tmp_path / "curves.png").exists()
    # A second start finds both stages done.
    (tmp_path / "results.json").unlink()
    run("main", *TINY, f"--workdir={tmp_path}")
    again = json.loads((tmp_path / "results.json").read_text())
    assert again["pretrain"] == found["pretrain"] and again["folds"] == found["folds"]
    assert run("main", *TINY, f"--workdir={tmp_path}", "--mode=evaluate").stdout == printed


def small(clips, **changes):
    config = configs.defaults("resnet")
    config.data.update(sample_rate=clips.sample_rate, clip_s=0.5)
    config.frontend.update(n_fft=512, hop=256, mels=16)
    config.model.encoder.update(stage_sizes=(1, 1), width=8)
    config.pretrain.update(method="simclr", batch_size=4, epochs=4, watch_epochs=4, background=0.3)
    config.pretrain.augment.update(crop_s=0.4, speed_octaves=0.1, gain_db=6.0, freq_mask=3)
    config.train.tensorboard = False
    config.pretrain.update(changes)
    model, frontend, variables = build.build(config, 3)
    split = folds.split(clips.folds, clips.sources, "holdout", 3)
    return (config, clips, split, model.encoder, frontend, variables)


def learn(tmp_path, config, *rest):
    return pretrain.pretrain(config, tmp_path, *rest)


def test_an_interrupted_stage_ends_in_the_same_bits(thorough, noise_clips, tmp_path, monkeypatch):
    whole, history = learn(tmp_path / "whole", *small(noise_clips, checkpoint_epochs=1))
    opened = loop.StopSignal.__enter__

    def stop(self):
        opened(self)
        self.received = True  # as if a signal came in the first step
        return self

    with monkeypatch.context() as patch:
        patch.setattr(loop.StopSignal, "__enter__", stop)
        with pytest.raises(loop.Interrupted):
            learn(tmp_path / "cut", *small(noise_clips, checkpoint_epochs=1))
    cut, again = learn(tmp_path / "cut", *small(noise_clips, checkpoint_epochs=1))
    jax.tree.map(np.testing.assert_array_equal, cut, whole)
    drop = {"seconds"}
    assert [{k: v for k, v in line.items() if k not in drop} for line in again] == [
        {k: v for k, v in line.items() if k not in drop} for line in history
    ]


def test_labels_and_the_test_fold_have_no_say(noise_clips, tmp_path):
    import dataclasses

    learned, _ = learn(tmp_path / "one", *small(noise_clips))
    others = [i for i, fold in enumerate(noise_clips.folds) if fold == 3]
    loud = dataclasses.replace(
        noise_clips,
        labels=noise_clips.labels[::-1].copy(),
        fetch=lambda i: noise_clips.fetch(i) * 0 if i in others else noise_clips.fetch(i),
    )
    again, _ = learn(tmp_path / "two", *small(loud))
    jax.tree.map(np.testing.assert_array_equal, learned, again)
    before = small(noise_clips)[-1]["params"]["encoder"]["stem"]["kernel"]
    assert float(np.abs(learned["params"]["encoder"]["stem"]["kernel"] - before).max()) > 0


def test_a_solved_task_is_said(noise_clips, tmp_path, caplog):
    config, *rest = small(noise_clips, background=0.0)
    config.pretrain.augment.update(crop_s=0.0, speed_octaves=0.0, gain_db=0.0, freq_mask=0)  # two equal views
    learn(tmp_path, config, *rest)
    assert "the pretext task is solved (100.0 % of views" in caplog.text and "pretrain.background" in caplog.text


def test_effective_rank_counts_directions():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((10, 10)))[0]
    for directions in (1, 4, 10):
        spread = np.zeros((4000, 10))
        spread[:, :directions] = np.linalg.qr(rng.standard_normal((4000, directions)))[0]
        x = (spread - spread.mean(0)) @ basis
        assert diagnostics.effective_rank(x) == pytest.approx(directions, rel=0.01)


def test_knn_accuracy_looks_into_the_other_folds():
    x = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    labels = np.repeat(np.arange(3), 4)
    assert diagnostics.knn_accuracy(x, labels, [1, 2] * 6, 3, k=2) == 1.0
    # Each class in a fold of its own: its own kind is never among the neighbours.
    assert diagnostics.knn_accuracy(x, labels, labels, 3, k=2) == 0.0
    assert diagnostics.knn_accuracy(x, labels, [1] * 12, 3, k=3) == 1.0
