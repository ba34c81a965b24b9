"""Both stages from one command: what is learned without labels, what is left, and going on in either stage."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

from esc_jax import build
from esc_jax import config as configs
from esc_jax.data import folds, pipeline, synthetic
from esc_jax.data.clips import Clips
from esc_jax.evaluation import diagnostics
from esc_jax.experiments import pretrain, probe
from esc_jax.frontends import registry as frontends
from esc_jax.inference import embeddings
from esc_jax.models import heads
from esc_jax.models.encoder import Classifier
from esc_jax.models.masked import MaskedPredictor, VisiblePredictor
from esc_jax.models.patch_transformer import PatchTransformer
from esc_jax.ops import patches
from esc_jax.tokenizers import kmeans
from esc_jax.tokenizers.targets import Targets
from esc_jax.training import loop, optim, pretrain_step
from esc_jax.training import state as states

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
        "method", "seconds", "probe_accuracy", "pretext_accuracy", "knn_accuracy", "effective_rank"
    }  # fmt: skip
    assert found["pretrain"]["pretext_accuracy"] == history[-1]["pretext_accuracy"]
    assert "pretrained (simclr)" in printed and (tmp_path / "curves.png").exists()
    # A second start finds both stages done.
    (tmp_path / "results.json").unlink()
    run("main", *TINY, f"--workdir={tmp_path}")
    again = json.loads((tmp_path / "results.json").read_text())
    assert again["pretrain"] == found["pretrain"] and again["folds"] == found["folds"]
    assert run("main", *TINY, f"--workdir={tmp_path}", "--mode=evaluate").stdout == printed


def small(clips, mask=None, tokens=None, **changes):
    config = configs.defaults("resnet")
    config.data.update(sample_rate=clips.sample_rate, clip_s=0.5)
    config.frontend.update(n_fft=512, hop=256, mels=16)
    config.model.encoder.update(stage_sizes=(1, 1), width=8)
    config.pretrain.update(method="simclr", batch_size=4, epochs=4, watch_epochs=4, background=0.3)
    config.pretrain.mask.update({"patch": 8} | (mask or {}))
    config.pretrain.tokens.update({"clusters": 6} | (tokens or {}))
    config.pretrain.augment.update(crop_s=0.4, speed_octaves=0.1, gain_db=6.0, freq_mask=3)
    config.train.tensorboard = False
    config.pretrain.update(changes)
    model, frontend, variables = build.build(config, 3)
    split = folds.split(clips.folds, clips.sources, "holdout", 3)
    return (config, clips, split, model.encoder, frontend, variables)


def learn(tmp_path, config, *rest):
    return pretrain.pretrain(config, tmp_path, *rest)


def test_an_interrupted_stage_ends_in_the_same_bits(patient, noise_clips, tmp_path, monkeypatch):
    whole, history, _ = learn(tmp_path / "whole", *small(noise_clips, checkpoint_epochs=1))
    opened = loop.StopSignal.__enter__

    def stop(self):
        opened(self)
        self.received = True  # as if a signal came in the first step
        return self

    with monkeypatch.context() as patch:
        patch.setattr(loop.StopSignal, "__enter__", stop)
        with pytest.raises(loop.Interrupted):
            learn(tmp_path / "cut", *small(noise_clips, checkpoint_epochs=1))
    cut, again, _ = learn(tmp_path / "cut", *small(noise_clips, checkpoint_epochs=1))
    jax.tree.map(np.testing.assert_array_equal, cut, whole)
    drop = {"seconds"}
    assert [{k: v for k, v in line.items() if k not in drop} for line in again] == [
        {k: v for k, v in line.items() if k not in drop} for line in history
    ]


@pytest.mark.parametrize("method", ["simclr", "masked"])
def test_labels_and_the_test_fold_have_no_say(noise_clips, tmp_path, method):
    heard = set()

    def fetch(i):
        heard.add(noise_clips.filenames[i])
        return noise_clips.fetch(i)

    learned, _, _ = learn(tmp_path / "one", *small(dataclasses.replace(noise_clips, fetch=fetch), method=method))
    # Folds 1 and 2 alone: fold 3, the last four files, is the test's.
    assert heard == {f"{i}.wav" for i in range(8)}
    others = dataclasses.replace(noise_clips, labels=noise_clips.labels[::-1].copy())
    again, _, _ = learn(tmp_path / "two", *small(others, method=method))
    jax.tree.map(np.testing.assert_array_equal, learned, again)
    before = small(noise_clips)[-1]["params"]["encoder"]["stem"]["kernel"]
    assert float(np.abs(learned["params"]["encoder"]["stem"]["kernel"] - before).max()) > 0


def test_rounds_predict_what_the_one_before_has_learned(thorough, noise_clips, tmp_path):
    parts = small(noise_clips, method="masked", rounds=2, epochs=2)
    learned, history, about = learn(tmp_path, *parts)
    assert [t["round"] for t in about["tokenizers"]] == [1, 2] and len(history) == 2
    assert all(t["clusters"] == 6 and 0 < t["entropy_bits"] <= np.log2(6) for t in about["tokenizers"])
    widths = [kmeans.Codebook.load(f / "tokenizer.npz").centroids.shape[1] for f in (tmp_path / "round1", tmp_path)]
    assert widths == [64, 16]  # patches of 8 × 8, then the features of the encoder's last stage
    # Either round's tokens are drawn, and all of it is found again.
    assert (tmp_path / "round1" / "tokens.png").exists() and (tmp_path / "tokens.png").exists()
    again = learn(tmp_path, *parts)
    jax.tree.map(np.testing.assert_array_equal, again.variables, learned)
    assert again.history == history and again.about == about


def test_a_run_of_ours_can_teach(noise_clips, untrained, tmp_path):
    config, *rest = small(noise_clips, method="masked", epochs=1, tokens={"teacher": str(untrained)}, clip_weight=1.0)
    _, history, about = learn(tmp_path, config, *rest)
    assert 0 < history[-1]["clip_error"] < 10
    assert kmeans.Codebook.load(tmp_path / "tokenizer.npz").centroids.shape == (6, 16)
    assert about["tokenizers"][0]["used"] > 1
    config.data.sample_rate = 8000
    with pytest.raises(configs.ConfigError, match="teacher was trained at 16000 Hz: set config.data.sample_rate=16000"):
        learn(tmp_path / "other", config, *rest)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"batch_size": 9}, "config.pretrain.batch_size=9, and there are 8 training clips"),
        (
            {"mask": {"share": 0.05}},
            "mask.share=0.05 of 6 patches .8 × 8. hides nothing, so there is nothing to predict",
        ),
        ({"mask": {"share": 0.99}}, "mask.share=0.99 of 6 patches .8 × 8. leaves nothing to predict it from"),
        ({"mask": {"patch": 64}}, "of 0 patches"),
        ({"mask": {"predictor": 1}}, "mask.predictor=1 needs an encoder that sees the visible patches alone: model.na"),
        ({"tokens": {"clusters": 200}}, "tokens.clusters=200, and the training clips have 64 patches"),
    ],
)
def test_what_cannot_be_predicted_is_said_before_anything_starts(noise_clips, tmp_path, changes, said):
    with pytest.raises(configs.ConfigError, match=said):
        learn(tmp_path / "stage", *small(noise_clips, method="masked", **changes))
    assert not (tmp_path / "stage").exists()


@pytest.mark.parametrize(
    "option, said",
    [
        ("pretrain.batch_size=1", "config.pretrain.batch_size=1 is out of range: it goes from 2"),
        ("pretrain.temperature=0", "config.pretrain.temperature=0.0 is out of range"),
        ("pretrain.mask.kind=blocks", "choose one of random, block, time, frequency; did you mean block?"),
        ("pretrain.tokens.clusters=1000000", "config.pretrain.tokens.clusters=1000000, and the training clips have"),
    ],
)
def test_the_command_says_so_too(run, tmp_path, option, said):
    method = "--config.pretrain.method=masked"
    done = run("main", *TINY, method, f"--config.{option}", f"--workdir={tmp_path / 'run'}", check=2)
    # Before it, who trains on what; and, of the first command that needs the data, the preparation.
    assert said in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr and not (tmp_path / "run").exists()


def contrastive(config, encoder, frontend):
    """SimCLR: (model, its inputs, the step of an optimizer, what the step gets beside state and batch)."""
    model = Classifier(encoder=encoder, head=heads.Mlp(classes=8, width=16, dropout=0.0))
    make = functools.partial(pretrain_step.simclr_step, model, frontend, config=config)
    return model, (np.zeros((1, 26, 16), np.float32),), make, ()


def predictive(config, encoder, frontend):
    """The same of masked prediction."""
    encoder = PatchTransformer(
        patch=8, stride=4, layers=1, width=16, heads=2, ffn=16, table=(4, 2), drop_path=0.5, dropout=0.1
    )
    return guessing(config, frontend, MaskedPredictor(encoder=encoder, tokens=6, size=8))


def visible(config, encoder, frontend):
    """The same where the encoder sees the visible patches alone, here one of six."""
    config.pretrain.mask.share, config.pretrain.clip_weight = 0.8, 2.0
    encoder = PatchTransformer(patch=8, stride=8, layers=1, width=16, heads=2, ffn=16, table=(4, 2), drop_path=0.5)
    return guessing(config, frontend, VisiblePredictor(encoder=encoder, tokens=6, hidden=5, layers=1, clip=64))


def guessing(config, frontend, model):
    """A model of masked prediction with what it needs."""
    inputs = np.zeros((1, 26, 16), np.float32), np.zeros((1, *patches.patch_grid(26, 16, 8)), bool)
    make = functools.partial(pretrain_step.masked_step, model, frontend, config=config, targets=Targets(8))
    centroids = np.random.default_rng(0).standard_normal((6, 64)).astype(np.float32)
    return model, inputs, make, ({"teacher": {}, "centroids": centroids},)


@pytest.mark.parametrize("task", [contrastive, predictive, visible])
def test_steps_are_the_same_on_any_number_of_devices(noise_clips, task):
    config, _, _, encoder, frontend, _ = small(noise_clips, batch_size=8)
    model, inputs, make, fixed = task(config, encoder, frontend)
    found = []
    for devices in (1, 2, 4):
        variables = {"batch_stats": {}} | jax.jit(model.init)(jax.random.key(0), *inputs)
        optimizer = optim.build(config.pretrain.optim, variables["params"], 20, 1)
        state = devices.replicate(states.create(variables, optimizer, ema=False), devices)
        step = devices.pmap_step(make(optimizer=optimizer), devices, fixed=fixed)
        batches = pipeline.train_batches(noise_clips, range(12), 8, seed=0)
        lines = []
        for _ in range(20):
            state, metrics = step(state, next(batches))
            shown = ("loss", "pretext_accuracy", "clip_error")
            lines.append([float(metrics[name]) for name in shown if name in metrics])
        found.append(lines)
    # Sums over the batch are taken in another order: rounding grows a little with every step.
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5)
    np.testing.assert_allclose(found[2], found[0], rtol=1e-5)
    assert len({line[0] for line in found[0]}) == 20


@pytest.fixture(scope="module")
def synthetic_clips():
    """96 synthesised sounds of half a second, 12 classes, 4 folds, in memory."""
    rng = np.random.default_rng(0)
    sounds = [synthetic.clip(name, rng) for _ in range(8) for name in synthetic.CLASSES]
    # The event lasts from 30 % to 40 % of its clip at least.
    audio = [(32767 * sound[len(sound) * 3 // 10 :][:8000]).astype(np.int16) for sound in sounds]
    return Clips(
        labels=np.tile(np.arange(12, dtype=np.int32), 8),
        folds=tuple(i // 24 + 1 for i in range(96)),
        sources=tuple(f"r{i}" for i in range(96)),
        filenames=tuple(f"{i}.wav" for i in range(96)),
        classes=tuple(synthetic.CLASSES),
        sample_rate=16_000,
        samples=np.array([len(one) for one in audio]),
        length=8000,
        fingerprint="synthetic",
        bad={},
        fetch=lambda i: audio[i],
    )


def longer(clips, **changes):
    """A stage that has time to learn; the level of the synthesised sounds says nothing about their class."""
    parts = small(clips, batch_size=24, epochs=60, watch_epochs=60, checkpoint_epochs=60, background=0.0, **changes)
    config = parts[0]
    config.frontend.hop = 128
    config.pretrain.optim.lr = 5e-3
    config.pretrain.augment.update(speed_octaves=0.0, gain_db=24.0, freq_mask=2)
    return (*parts[:4], frontends.build(config.frontend, config.data.sample_rate), parts[5])


def test_simclr_lifts_the_probe_above_that_of_the_encoder_as_it_was_drawn(thorough, synthetic_clips, tmp_path):
    config, clips, split, encoder, frontend, drawn = longer(synthetic_clips, temperature=0.2)
    learned = pretrain.pretrain(config, tmp_path, clips, split, encoder, frontend, drawn)
    model, accuracy = Classifier(encoder=encoder, head=heads.Linear(classes=12)), {}
    for name, variables in (("drawn", drawn), ("learned", learned.variables)):
        x = embeddings.embed_clips(model, frontend, variables, clips, tmp_path / name)
        head, test = probe.of_split(x, clips, split), list(split.test)
        hits = probe.probabilities(x[0][test], head.kernel, head.bias).argmax(-1) == clips.labels[test]
        accuracy[name] = hits.mean()
    assert accuracy["learned"] >= accuracy["drawn"] + 0.1, accuracy  # 33 and 63 % when it was written


def test_masked_prediction_learns_more_than_how_frequent_tokens_are(patient, synthetic_clips, tmp_path):
    parts = longer(synthetic_clips, method="masked", tokens={"clusters": 24})
    learned = pretrain.pretrain(parts[0], tmp_path, *parts[1:])
    # Who looks at nothing does no better than the entropy of the tokens.
    assert learned.history[-1]["loss"] < 0.8 * np.log(2) * learned.about["tokenizers"][0]["entropy_bits"]


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
