"""`esc-jax embed`: recordings, data sets and its errors."""

import dataclasses
import pathlib

import numpy as np
import pytest
import soundfile

from esc_jax.cli import embed
from esc_jax.data.datasets import registry as datasets
from esc_jax.data.rows import DataError
from esc_jax.inference import embeddings

pytestmark = pytest.mark.usefixtures("no_xla_setup")


def test_an_unreadable_recording_does_not_discard_the_others(untrained, tmp_path, capsys):
    rng, folder = np.random.default_rng(0), tmp_path / "sounds"
    folder.mkdir()
    for name, seconds in (("a", 2.4), ("b", 1.001), ("c", 0.3)):  # windows of one second
        soundfile.write(folder / f"{name}.wav", rng.uniform(-0.5, 0.5, round(seconds * 16_000)), 16_000)
    (folder / "bad.wav").write_text("no audio")
    out = tmp_path / "new" / "o.npz"
    assert embed.main([f"--model={untrained}", f"--out={out}", str(folder)]) == 1
    captured = capsys.readouterr()
    assert captured.out == f"{out}: 5 embeddings of 16 numbers\n"
    assert f"esc_jax: {folder / 'bad.wav'}: not readable as audio (Format not recognised)\n" in captured.err
    with np.load(out) as file:
        rows = [(pathlib.Path(name).stem, start) for name, start in zip(file["filename"], file["start_s"], strict=True)]
        assert rows == [("a", 0.0), ("a", 1.0), ("a", pytest.approx(1.4)), ("b", 0.0), ("c", 0.0)]
        assert len(file["embeddings"]) == 5 and np.isfinite(file["embeddings"]).all()


def test_nothing_is_written_without_a_readable_recording(untrained, tmp_path, capsys):
    assert embed.main([f"--model={untrained}", f"--out={tmp_path}/o.npz", f"{tmp_path}/none.wav"]) == 1
    assert capsys.readouterr().err.endswith(f"esc_jax: {tmp_path}/none.wav: no such file\n")
    assert not (tmp_path / "o.npz").exists()


def test_the_embeddings_of_a_data_set(untrained, noise_clips, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ESC_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets, "load", lambda data: noise_clips)
    assert embed.main([f"--model={untrained}", "--data_dir=data", f"--out={tmp_path}/o.npz"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/o.npz: 12 embeddings of 16 numbers\n"
    with np.load(tmp_path / "o.npz") as file:
        data = dict(file)
    assert set(data) == {"embeddings", "label", "fold", "source", "filename", "start_s", "classes", "task"}
    assert str(data["task"]) == "single_label"
    np.testing.assert_array_equal(data["label"], noise_clips.labels)
    np.testing.assert_array_equal(data["fold"], noise_clips.folds)
    model = embeddings.load_encoder(str(untrained))
    expected = embeddings.embed_clips(model, noise_clips, tmp_path / "direct")[0]
    np.testing.assert_allclose(data["embeddings"], expected, atol=1e-6)
    assert len(list((tmp_path / "cache/embeddings").iterdir())) == 1


def test_the_labels_of_a_multi_label_data_set(untrained, noise_clips, tmp_path, monkeypatch):
    monkeypatch.setenv("ESC_JAX_CACHE", str(tmp_path / "cache"))
    labels = np.random.default_rng(0).random((12, 3)) < 0.4
    scenes = dataclasses.replace(noise_clips, labels=labels, task="multi_label")
    monkeypatch.setattr(datasets, "load", lambda data: scenes)
    assert embed.main([f"--model={untrained}", "--data_dir=data", f"--out={tmp_path}/o.npz"]) == 0
    with np.load(tmp_path / "o.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(file["label"], labels)
        assert str(file["task"]) == "multi_label" and file["label"].dtype == bool


@pytest.mark.parametrize(("options", "action"), [((), "error"), (("--on_bad_clip=skip",), "skip")])
def test_the_data_set_is_loaded_for_the_encoder(untrained, tmp_path, monkeypatch, options, action):
    requests = []

    def load(data):
        requests.append((data.dir, data.on_bad_clip, data.sample_rate, data.clip_s, data.mask_padding))
        raise DataError("stop here")

    monkeypatch.setattr(datasets, "load", load)
    assert embed.main([f"--model={untrained}", "--data_dir=data", f"--out={tmp_path}/e.npz", *options]) == 2
    assert requests == [("data", action, 16_000, 1.0, False)]


MISTAKES = [
    (("--model=nowhere", "--data_dir=x", "--out={}/y.npz"), "nowhere does not exist: give the path of a checkpoint"),
    (("--model={model}", "--data_dir=x", "--sample_rate=8000", "--out=y.npz"), "a run has its own"),
    (("--model=x", "--out", "a.wav", "b.wav"), "--out: 'a.wav' does not end in .npz"),
    (("--model=x", "--out={}", "b.wav"), "--out: '{}' is a folder; give the name of a file"),
    (("--model=x", "--out=o.npz"), "give either --data_dir or files"),
    (("--model=x", "--out=o.npz", "--data_dir=d", "b.wav"), "give either --data_dir or files"),
    (("--checkpoint=x", "--out=o.npz", "b.wav"), "there is no option --checkpoint; see --help"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_a_mistake_is_one_sentence(arguments, message, untrained, tmp_path, capsys):
    try:
        status = embed.main([argument.format(tmp_path, model=untrained) for argument in arguments])
    except SystemExit as stopped:
        status = stopped.code
    captured = capsys.readouterr().err
    assert status == 2 and message.format(tmp_path) in captured and captured.count("\n") == 1


def test_notes_on_files(untrained, tmp_path, capsys):
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 32_000)
    soundfile.write(tmp_path / "a.wav", np.stack([wave, -wave], 1), 16_000)
    assert embed.main([f"--model={untrained}", f"--out={tmp_path}/o.npz", f"{tmp_path}/a.wav"]) == 0
    assert f"{tmp_path}/a.wav: its channels cancel each other, and one of them was used\n" in capsys.readouterr().err
    (tmp_path / "a.wav").write_bytes((tmp_path / "a.wav").read_bytes()[:80_000])
    assert embed.main([f"--model={untrained}", f"--out={tmp_path}/o.npz", f"{tmp_path}/a.wav"]) == 1
    assert "a.wav: breaks off after 1.2 of 2.0 s; only what is there was embedded" in capsys.readouterr().err
