"""Embeddings and probes from the command line, and what they leave behind."""

import csv
import dataclasses
import json
import pathlib
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import soundfile

from esc_jax import build
from esc_jax import config as configs
from esc_jax.cli import embed, probe
from esc_jax.data.datasets import registry as datasets
from esc_jax.data import folds as protocols
from esc_jax.data.rows import DataError
from esc_jax.experiments import probe
from esc_jax.inference import embeddings
from esc_jax.pretrained import hubert
from tests.training import few

TINY = "--config=tests/configs/tiny.py"


@pytest.fixture(scope="module")
def probed(run, tmp_path_factory):
    """A cross-validated probe of a random encoder: (workdir, what it printed)."""
    workdir = tmp_path_factory.mktemp("probe") / "run"
    arguments = ("--config.method=probe", "--config.probe.seeds=2", "--mode=crossval", f"--workdir={workdir}")
    return workdir, run("main", TINY, *arguments)


def predictions(workdir):
    with open(workdir / "predictions.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_every_fold_is_tested_once_by_the_head_it_chose(probed):
    workdir, printed = probed
    found = json.loads((workdir / "results.json").read_text())
    assert [f["fold"] for f in found["folds"]] == [1, 2, 3, 4, 5] and len(predictions(workdir)) == 60
    assert found["accuracy"]["mean"] > 10 / 60  # random features; guessing among 12 classes gives more in 1 % of runs
    assert all(p["l2"] > 0 and p["spread"] < 1e-2 for p in found["probe"])
    assert "accuracy" in printed.stdout and "| fold |" in (workdir / "report.md").read_text()


def test_the_checkpoint_of_a_fold_predicts_what_was_reported(probed, environment, monkeypatch):
    workdir, _ = probed
    monkeypatch.setenv("ESC_JAX_CACHE", environment["ESC_JAX_CACHE"])
    run = build.restore(workdir / "fold2")
    assert run.config.data.test_fold == 2
    clips = datasets.load(run.config.data)
    rows = [row for row in predictions(workdir) if row["fold"] == "2"]
    indices = [clips.filenames.index(row["clip"]) for row in rows]
    audio = clips.read(indices).astype(np.float32) / 32768
    logits = run.model.apply(run.variables, run.frontend(audio))
    assert [clips.classes[i] for i in logits.argmax(-1)] == [row["predicted"] for row in rows]


def test_embeddings_of_a_data_set_and_of_files(probed, run, environment, tmp_path):
    workdir, _ = probed
    data = next(pathlib.Path(environment["ESC_JAX_CACHE"]).glob("synthetic-*"))
    out = tmp_path / "embeddings.npz"
    said = run("embed", f"--checkpoint={workdir / 'fold1'}", f"--data_dir={data}", f"--out={out}").stdout
    with np.load(out) as file:
        whole = dict(file)
    assert f"60 embeddings of {whole['embeddings'].shape[1]} numbers" in said
    assert sorted(set(whole["fold"])) == [1, 2, 3, 4, 5] and len(whole["classes"]) == 12
    table = run("probe", str(out)).stdout
    assert table.count("\n") == 7 and table.splitlines()[-1].startswith("mean")
    file = data / "audio" / str(whole["filename"][7])
    run("embed", f"--checkpoint={workdir / 'fold1'}", f"--out={tmp_path / 'one.npz'}", str(file))
    with np.load(tmp_path / "one.npz") as one:
        # The same 16-bit samples, in a batch with other clips.
        np.testing.assert_allclose(one["embeddings"][0], whole["embeddings"][7], atol=1e-5)
        np.testing.assert_allclose(one["start_s"], np.arange(len(one["start_s"])))


def test_recordings_are_windows_that_end_with_them_and_a_bad_one_discards_none(probed, run, tmp_path):
    workdir, _ = probed
    rng, folder = np.random.default_rng(0), tmp_path / "sounds"
    folder.mkdir()
    for name, seconds in (("a", 2.4), ("b", 1.001), ("c", 0.3)):  # windows of one second
        soundfile.write(folder / f"{name}.wav", rng.uniform(-0.5, 0.5, round(seconds * 16_000)), 16_000)
    (folder / "bad.wav").write_text("no audio")
    out = tmp_path / "new" / "o.npz"
    said = run("embed", f"--checkpoint={workdir / 'fold1'}", f"--out={out}", str(folder), check=1).stderr
    assert f"esc_jax: {folder}/bad.wav: not readable as audio (Format not recognised)\n" in said
    with np.load(out) as file:
        rows = [(pathlib.Path(name).stem, start) for name, start in zip(file["filename"], file["start_s"], strict=True)]
        assert rows == [("a", 0.0), ("a", 1.0), ("a", pytest.approx(1.4)), ("b", 0.0), ("c", 0.0)]
        assert len(file["embeddings"]) == 5 and np.isfinite(file["embeddings"]).all()


def test_training_starts_from_the_head_of_a_probe(thorough, run, environment, monkeypatch, tmp_path):
    """With a learning rate of next to nothing, what is tested is what it started from."""
    settings = ["--config.train.head_from_probe=True", "--config.optim.lr=1e-12", "--config.train.epochs=1"]
    settings += ["--config.model.evaluating=encoder", "--config.data.test_fold=2", "--config.train.ema=0.0"]
    said = run("main", TINY, *settings, f"--workdir={tmp_path}").stderr
    assert "the head starts from a linear probe" in said
    monkeypatch.setenv("ESC_JAX_CACHE", environment["ESC_JAX_CACHE"])
    trained = build.restore(tmp_path)
    clips = datasets.load(trained.config.data)
    _, model, frontend, variables = build.start(trained.config, clips.classes)
    split = protocols.split(clips.folds, clips.sources, "holdout", 2)
    expected = probe.with_head(trained.config, clips, split, model, frontend, variables)["params"]["head"]
    for one, other in zip(jax.tree.leaves(trained.variables["params"]["head"]), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_an_interrupted_pass_goes_on_and_a_finished_one_is_not_repeated(noise_clips, tmp_path):
    config = configs.defaults("resnet")
    config.data.update(sample_rate=16_000, clip_s=0.5)
    config.model.encoder.update(stage_sizes=(1, 1), width=8)
    model, frontend, variables = build.build(config, 3)
    whole = embeddings.embed_clips(model, frontend, variables, noise_clips, tmp_path, views=2, batch_size=5)
    assert whole.shape == (2, 12, 16)
    audio = noise_clips.read(range(12)).astype(np.float32) / 32768
    for view in range(2):  # the second is rotated by half the clip
        rolled = np.roll(audio, view * 4000, axis=1)
        expected = model.apply(variables, frontend(rolled), method="encode").embedding
        np.testing.assert_allclose(whole[view], expected, atol=1e-5)  # batches of another size
    (folder,) = tmp_path.iterdir()
    parts = sorted(folder.iterdir())
    assert [p.name for p in parts] == ["000000.npy", "000005.npy", "000010.npy"]
    parts[1].unlink()
    kept = np.load(parts[2]) + 1
    np.save(parts[2], kept)  # a mark: this part must be taken from the disk
    again = embeddings.embed_clips(model, frontend, variables, noise_clips, tmp_path, views=2, batch_size=5)
    np.testing.assert_allclose(again[:, :10], whole[:, :10], atol=1e-6)
    np.testing.assert_array_equal(again[:, 10:], kept)
    other = {"params": {**variables["params"], "encoder": variables["params"]["encoder"]}, "batch_stats": {}}
    assert embeddings.digest(model.encoder, frontend, other, noise_clips, 2) != folder.name


def test_embeddings_leave_out_what_short_clips_are_padded_with(noise_clips, tmp_path, monkeypatch):
    """Of recordings and of a data set, by a published encoder that can leave it out."""
    config = few.hubert("projected")
    config.data.clip_s = 5.0
    model, frontend, variables = build.build(config, 3)
    settings = {"sample_rate": 16_000, **config.frontend}
    hubert.write(tmp_path / "published", variables, config.model.encoder, noise_clips.classes, settings)

    def expected(samples):
        """Of one clip: what the model and its frontend make of it with its mask."""
        audio = np.zeros((1, 80_000), np.float32)
        audio[0, : len(samples)] = samples / np.float32(32768)
        padding = np.arange(80_000)[None] >= len(samples)
        found = model.apply(variables, frontend(audio, padding), padding=padding, method="encode").embedding[0]
        return found, model.apply(variables, frontend(audio), method="encode").embedding[0]

    monkeypatch.setattr(parallel, "initialize", lambda *_, **__: None)
    short, long = noise_clips.fetch(0), np.concatenate([noise_clips.fetch(i) for i in range(12)])
    for name, samples in (("short", short), ("long", long)):
        soundfile.write(tmp_path / f"{name}.wav", samples, 16_000)
    files = [str(tmp_path / f"{name}.wav") for name in ("short", "long")]
    assert embed.main([f"--pretrained={tmp_path / 'published'}", f"--out={tmp_path / 'e.npz'}", *files]) == 0
    with np.load(tmp_path / "e.npz") as file:
        found = file["embeddings"]
    told, untold = expected(short)
    # Batches of another size.
    np.testing.assert_allclose(found[0], told, atol=1e-5)
    np.testing.assert_allclose(found[1], expected(long[:80_000])[1], atol=1e-5)  # the longer one has a second, its end
    assert len(found) == 3 and np.abs(told - untold).max() > 1e-3
    clips = dataclasses.replace(noise_clips, length=80_000, mask_padding=True)
    of_clips = embeddings.embed_clips(model, frontend, variables, clips, tmp_path / "parts")
    np.testing.assert_allclose(of_clips[0, 0], told, atol=1e-5)
    other = dataclasses.replace(clips, mask_padding=False)
    np.testing.assert_allclose(
        embeddings.embed_clips(model, frontend, variables, other, tmp_path / "parts")[0, 0], untold, atol=1e-5
    )


@pytest.mark.parametrize(
    ("command", "arguments", "status", "said"),
    [
        (embed, ("--checkpoint=nowhere", "--data_dir=x", "--out={}/y.npz"), 1, "nowhere: no such folder"),
        (embed, ("--checkpoint=x", "--data_dir=x", "--sample_rate=8000", "--out=y.npz"), 2, "a run has its own"),
        (
            embed,
            ("--checkpoint=x", "--out", "a.wav", "b.wav"),
            2,
            "--out=a.wav: name a file to write that ends in .npz",
        ),
        (embed, ("--checkpoint=x", "--out={}", "b.wav"), 2, ": name a file to write that ends in .npz"),
        (probe, ("--seeds=0", "x.npz"), 2, "--seeds must be 1 or more"),
        (probe, ("{}/none.npz",), 1, "esc_jax: No such file or directory: {}/none.npz"),
    ],
)
def test_mistakes_are_said_in_a_sentence(command, arguments, status, said, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(parallel, "initialize", lambda *_, **__: None)
    try:
        found = command.main([argument.format(tmp_path) for argument in arguments])
    except SystemExit as stopped:  # argparse
        found = stopped.code
    assert found == status and said.format(tmp_path) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("text", "holds no embeddings of a data set"),
        ("npy", "holds no embeddings of a data set"),
        ("cut", "holds no embeddings of a data set"),
        ("recordings", "holds no embeddings of a data set"),
        ("short", "holds arrays that do not belong together"),
        ("class", "holds arrays that do not belong together"),
        ("nan", "holds numbers that are none"),
    ],
)
def test_what_is_no_file_of_embeddings(how, said, tmp_path, capsys):
    path = tmp_path / "e.npz"
    x, labels = np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32), np.arange(9) % 2
    arrays = {"embeddings": x, "label": labels, "fold": np.arange(9) % 3, "classes": np.array(["a", "b"])}
    changed = {"short": {"label": labels[:8]}, "class": {"label": labels + 1}, "nan": {"embeddings": x * np.nan}}
    if how == "recordings":
        del arrays["fold"]
    np.savez(path, **arrays | changed.get(how, {}))
    if how == "text":
        path.write_text("no numbers")
    elif how == "npy":
        with open(path, "wb") as file:
            np.save(file, x)
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:200])
    assert probe.main([str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"esc_jax: {path} {said}: ") and error.count("\n") == 1


@pytest.mark.parametrize(("options", "expected"), [((), "error"), (("--on_bad_clip=skip",), "skip")])
def test_embed_hands_on_what_to_do_with_bad_clips(monkeypatch, options, expected):
    asked = []

    def load(config):
        asked.append((config.on_bad_clip, config.sample_rate, config.clip_s, config.mask_padding))
        raise DataError("enough")

    monkeypatch.setattr(parallel, "initialize", lambda _: None)
    own = SimpleNamespace(sample_rate=16_000, clip_s=1.0, mask_padding=True)
    monkeypatch.setattr(embed, "_model", lambda _: (own, None, None, None))
    monkeypatch.setattr(datasets, "load", load)
    assert embed.main(["--checkpoint=run", "--data_dir=data", "--out=embeddings.npz", *options]) == 2
    assert asked == [(expected, 16_000, 1.0, True)]
