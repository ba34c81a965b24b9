"""Probes: a run of all folds, its checkpoints and embeddings; training from the head of a probe."""

import csv
import json
import pathlib

import jax
import numpy as np
import pytest
import soundfile

from esc_jax.data import folds as protocols
from esc_jax.data.datasets import registry as datasets
from esc_jax.experiments import probe, probe_heads
from esc_jax.models import model as models
from esc_jax.pretrained import load
from esc_jax.tasks import registry as tasks
from esc_jax.training.restore import restore
from tests.training import helpers

TINY = "--config=tests/configs/tiny.py"
TASK = tasks.get("single_label")


@pytest.fixture(scope="module")
def probed(run, tmp_path_factory):
    """A cross-validated probe of a random encoder: (workdir, what the command printed)."""
    workdir = tmp_path_factory.mktemp("probe") / "run"
    arguments = ("--config.method=probe", "--config.probe.seeds=2", "--mode=crossval", f"--workdir={workdir}")
    return workdir, run("main", TINY, *arguments)


def predictions(workdir):
    with open(workdir / "predictions.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_every_fold_is_tested_once_by_its_head(probed):
    workdir, printed = probed
    results = json.loads((workdir / "results.json").read_text())
    assert [f["fold"] for f in results["folds"]] == [1, 2, 3, 4, 5] and len(predictions(workdir)) == 60
    assert results["accuracy"]["mean"] > 10 / 60  # random features; chance of 1 in 12 exceeds it in 1 % of runs
    assert all(p["l2"] > 0 and p["spread"] < 1e-2 for p in results["probe"])
    keys = {"fold", "l2", "validation", "spread", "neighbours", "knn_score"}
    assert all(p.keys() == keys for p in results["probe"])
    assert "accuracy" in printed.stdout and "| fold |" in (workdir / "report.md").read_text()


def test_the_checkpoint_of_a_fold_gives_the_reported_predictions(probed, environment, monkeypatch):
    workdir, _ = probed
    monkeypatch.setenv("ESC_JAX_CACHE", environment["ESC_JAX_CACHE"])
    restored = restore(workdir / "fold2")
    assert restored.config.data.test_fold == 2
    model, clips = restored.model, datasets.load(restored.config.data)
    rows = [row for row in predictions(workdir) if row["fold"] == "2"]
    indices = [clips.filenames.index(row["clip"]) for row in rows]
    audio = clips.read(indices).astype(np.float32) / 32768
    logits = model.module.apply(model.variables, model.frontend(audio))
    assert [model.classes[i] for i in logits.argmax(-1)] == [row["predicted"] for row in rows]


@pytest.mark.slow
def test_embeddings_of_a_data_set_and_of_a_file(probed, run, environment, tmp_path):
    workdir, _ = probed
    data = next(pathlib.Path(environment["ESC_JAX_CACHE"]).glob("synthetic-*"))
    out = tmp_path / "embeddings.npz"
    printed = run("embed", f"--model={workdir / 'fold1'}", f"--data_dir={data}", f"--out={out}").stdout
    with np.load(out) as file:
        arrays = dict(file)
    # The encoder's clips are a second long: the files of the data set, of five seconds, are cut into windows.
    assert f"300 embeddings of {arrays['embeddings'].shape[1]} numbers" in printed
    assert sorted(set(arrays["fold"])) == [1, 2, 3, 4, 5] and len(arrays["classes"]) == 12
    table = run("probe", str(out)).stdout
    assert table.count("\n") == 8 and table.startswith("accuracy, %") and table.splitlines()[-1].startswith("mean")
    name, _, start = str(arrays["filename"][7]).partition("@")
    assert start == "2s" and arrays["start_s"].tolist() == [0, 1, 2, 3, 4] * 60
    file = data / "audio" / name
    run("embed", f"--model={workdir / 'fold1'}", f"--out={tmp_path / 'one.npz'}", str(file))
    with np.load(tmp_path / "one.npz") as one:
        # The same 16-bit samples, in a batch with other clips.
        np.testing.assert_allclose(one["embeddings"][:5], arrays["embeddings"][5:10], atol=1e-5)
        np.testing.assert_allclose(one["start_s"], np.arange(len(one["start_s"])))


@pytest.mark.slow
def test_training_starts_from_the_head_of_a_probe(run, environment, monkeypatch, tmp_path):
    """With a learning rate of nearly 0, the tested head is the initial one."""
    settings = ["--config.train.head_from_probe=True", "--config.optim.lr=1e-12", "--config.train.epochs=1"]
    settings += ["--config.model.eval_mode=encoder", "--config.data.test_fold=2", "--config.train.ema=0.0"]
    log = run("main", TINY, *settings, f"--workdir={tmp_path}").stderr
    assert "linear probe for the head: accuracy 0." in log
    monkeypatch.setenv("ESC_JAX_CACHE", environment["ESC_JAX_CACHE"])
    restored = restore(tmp_path)
    clips = datasets.load(restored.config.data)
    config, model = load.initialize(restored.config, clips.classes)
    split = protocols.split(clips.folds, clips.sources, "holdout", 2)
    expected = probe.fit_head(config, TASK, clips, split, model)[0]["params"]["head"]
    trained = restored.model.variables["params"]["head"]
    for one, other in zip(jax.tree.leaves(trained), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.slow
def test_a_model_with_the_head_of_a_probe(noise_clips, tmp_path):
    """Its logits are those of the head on the embeddings; the encoder is the same."""
    config = helpers.resnet()
    config.data.cache_dir = str(tmp_path)
    model = models.create(config, noise_clips.classes)
    split = protocols.split(noise_clips.folds, noise_clips.sources, "holdout", 2)
    variables, calibration = probe.fit_head(config, TASK, noise_clips, split, model)
    x = probe.embed_clips(model, noise_clips, tmp_path / "embeddings")
    head = probe_heads.fit_split(TASK, x, noise_clips, split)
    features = model.frontend(noise_clips.read(range(12)).astype(np.float32) / 32768)
    logits = model.module.apply(variables, features)
    np.testing.assert_allclose(logits, probe_heads.head_logits(x[0], head.kernel, head.bias), atol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, variables["params"]["encoder"], model.variables["params"]["encoder"])
    assert head.fold == 2 and calibration == head.calibration


def test_a_head_for_every_clip_is_trained_on_every_clip():
    """Without a test fold: as a head tested on a fold of its own, whose clips train nothing."""
    rng = np.random.default_rng(1)
    x, labels, folds = rng.standard_normal((1, 60, 5)).astype(np.float32), np.arange(60) % 3, np.arange(60) // 3 % 4
    (whole,) = probe_heads.fit(TASK, x, labels, folds, [protocols.NO_FOLD], 3)
    more = np.concatenate([x, 9 * rng.standard_normal((1, 4, 5)).astype(np.float32)], axis=1)
    tested = [np.concatenate([values, other]) for values, other in ((labels, np.zeros(4, int)), (folds, np.full(4, 9)))]
    (expected,) = probe_heads.fit(TASK, more, *tested, [9], 3)
    np.testing.assert_allclose(whole.kernel, expected.kernel, atol=1e-5)
    assert whole.l2 == expected.l2 and whole.validation == expected.validation
    assert whole.calibration.temperature == pytest.approx(expected.calibration.temperature, rel=1e-4)
    assert np.isnan(whole.knn_score)


def test_balanced_heads_equal_heads_on_repeated_clips():
    """Weights n / n_c are those of a set in which rare classes are repeated."""
    rng = np.random.default_rng(2)
    labels = np.array([0] * 24 + [1] * 12 + [2] * 8)
    x, folds = rng.standard_normal((44, 4)).astype(np.float32) + labels[:, None], np.arange(44) % 4
    (balanced,) = probe_heads.fit(TASK, x[None], labels, folds, [protocols.NO_FOLD], 3, l2=(0.1,), balanced=True)
    repeated = np.repeat(np.arange(44), np.array([1, 2, 3])[labels])
    arguments = (x[None, repeated], labels[repeated], folds[repeated])
    (expected,) = probe_heads.fit(TASK, *arguments, [protocols.NO_FOLD], 3, l2=(0.1,))
    np.testing.assert_allclose(balanced.kernel, expected.kernel, atol=1e-4)
    (plain,) = probe_heads.fit(TASK, x[None], labels, folds, [protocols.NO_FOLD], 3, l2=(0.1,))
    assert np.abs(plain.kernel - balanced.kernel).max() > 1e-2


@pytest.mark.slow
def test_a_probe_on_every_clip_quotes_its_cross_validation(probed, run, tmp_path):
    workdir, _ = probed
    settings = ["--config.method=probe", "--config.probe.seeds=2", "--config.protocol=all"]
    out = tmp_path / "all"
    printed = run("main", TINY, *settings, f"--from_crossval={workdir}", f"--workdir={out}").stdout
    results, pooled = (json.loads((folder / "results.json").read_text()) for folder in (out, workdir))
    assert results["folds"] == [] and results["accuracy"] is None
    assert results["crossval"]["accuracy"] == pooled["accuracy"] and results["crossval"]["clips"] == 60
    assert f"{100 * pooled['accuracy']['mean']:.2f} %" in printed and "not tested" in printed
    assert restore(out).meta["calibration"]["temperature"] > 0
    assert not (out / "predictions.csv").exists()
    refused = run("main", TINY, *settings, "--config.data.clip_s=0.9", f"--from_crossval={workdir}", check=2)
    assert "is of another config: data.clip_s (1.0, now 0.9)" in refused.stderr
    refused = run("main", TINY, *settings, f"--from_crossval={workdir / 'fold1'}", check=2)
    assert "contains no run: give the workdir of a cross-validation" in refused.stderr
    refused = run("main", TINY, "--config.method=probe", f"--from_crossval={workdir}", check=2)
    assert "needs --config.protocol=all" in refused.stderr


@pytest.mark.extended
def test_background_sounds_lower_the_probabilities_of_a_probe(run, environment, tmp_path):
    """Recordings of the same kind as the background get lower probabilities than without it."""
    rng = np.random.default_rng(3)
    folder = tmp_path / "background" / "deep"
    folder.mkdir(parents=True)
    for number in range(12):
        soundfile.write(
            folder / f"{number}.WAV", 0.1 * rng.standard_normal(16_000) * np.sin(np.arange(16_000) / 9), 16_000
        )
    shares = []
    for name in ("", str(tmp_path / "background")):
        workdir = tmp_path / f"run{len(shares)}"
        run("main", TINY, "--config.method=probe", f"--config.data.background={name}", f"--workdir={workdir}")
        printed = run("predict", f"--model={workdir}", "--json", str(tmp_path / "out.json"), str(folder / "3.WAV"))
        assert printed.stdout
        document = json.loads((tmp_path / "out.json").read_text())
        shares.append(document["files"][0]["windows"][0]["top"][0]["probability"])
    uniform = 1 / 12  # the target of background clips
    assert shares[1] - uniform < 0.7 * (shares[0] - uniform)
    assert json.loads((workdir / "results.json").read_text())["data"]["background_clips"] == 12


def test_excluded_clips_do_not_train_a_head():
    rng = np.random.default_rng(0)
    x, labels, folds = rng.standard_normal((1, 60, 5)).astype(np.float32), np.arange(60) % 3, np.arange(60) // 3 % 4
    excluded = np.arange(60) % 7 == 0
    changed = np.where(excluded[None, :, None] & (folds != 2)[None, :, None], np.float32(50), x)
    one, other = (
        probe_heads.fit(TASK, values, labels, folds, [2], 3, l2=(0.1,), excluded=excluded)[0] for values in (x, changed)
    )
    np.testing.assert_allclose(one.kernel, other.kernel, atol=1e-5)
    included = probe_heads.fit(TASK, changed, labels, folds, [2], 3, l2=(0.1,))[0]
    assert np.abs(included.kernel - one.kernel).max() > 1e-2


@pytest.mark.parametrize("left_out", ["test fold", "excluded"])
def test_a_balanced_head_does_not_depend_on_labels_of_clips_that_are_left_out(left_out):
    """Neither its weights nor what is chosen and calibrated, whatever the labels are."""
    rng = np.random.default_rng(0)
    labels, folds = np.arange(60) % 3, np.arange(60) // 3 % 4
    x = rng.standard_normal((1, 60, 5)).astype(np.float32) + labels[None, :, None]
    excluded = folds == 3
    changed = np.where(folds == 2 if left_out == "test fold" else excluded, 0, labels)
    one, other = (
        probe_heads.fit(TASK, x, values, folds, [2], 3, excluded=excluded, balanced=True)[0]
        for values in (labels, changed)
    )
    np.testing.assert_array_equal(one.kernel, other.kernel)
    np.testing.assert_array_equal(one.bias, other.bias)
    assert (one.l2, one.validation, one.neighbours) == (other.l2, other.validation, other.neighbours)
    assert one.calibration == other.calibration
