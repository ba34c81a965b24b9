"""Damaged files of a run are noticed: each is repaired, passed over with a warning, or refused in one sentence."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from esc_jax.inference import embeddings
from esc_jax.tokenizers import kmeans

TINY = "--config=tests/configs/tiny.py"


def flip(path: pathlib.Path, place: float, bit: int = 3) -> None:
    """Flips a bit of a file, at a fraction of its length."""
    content = bytearray(path.read_bytes())
    content[min(len(content) - 1, int(place * len(content)))] ^= 1 << bit
    path.write_bytes(bytes(content))


def files_of(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


@pytest.fixture(scope="module")
def finished(run, tmp_path_factory):
    """A finished run of three epochs, with two checkpoints."""
    workdir = tmp_path_factory.mktemp("damage") / "run"
    run("main", TINY, f"--workdir={workdir}")
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()) == ["12", "18"]
    return workdir


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of the run without its results, so that the command tests again."""
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "results.json").unlink()
    return tmp_path / "run"


def largest(folder: pathlib.Path) -> pathlib.Path:
    """The file with the arrays of a checkpoint item."""
    return max(files_of(folder), key=lambda path: path.stat().st_size)


@pytest.mark.slow
@pytest.mark.parametrize("item", ["variables", "meta", pytest.param("optimizer", marks=pytest.mark.extended)])
def test_a_resume_passes_over_a_damaged_checkpoint(finished, copy, run, item):
    """The result is that of the undamaged run."""
    flip(largest(copy / "checkpoints" / "18" / item), 0.5)
    log = run("main", TINY, f"--workdir={copy}").stderr
    assert (
        "18 is damaged" in log or "could not read the checkpoint of step 18" in log or "metadata cannot be read" in log
    )
    assert "resuming from step 12" in log and "resuming at step 12 of 18" in log
    one, other = (json.loads((folder / "results.json").read_text()) for folder in (copy, finished))
    assert one["folds"][0]["correct"] == other["folds"][0]["correct"]
    assert (copy / "predictions.csv").read_text() == (finished / "predictions.csv").read_text()


@pytest.mark.slow
def test_a_damaged_checkpoint_is_not_used_for_prediction_or_evaluation(finished, tmp_path, run):
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    flip(largest(workdir / "checkpoints" / "18" / "ema"), 0.4)
    before = (workdir / "predictions.csv").read_bytes()
    refused = run("main", TINY, f"--workdir={workdir}", "--mode=evaluate", check=1)
    assert str(workdir / "checkpoints" / "18") in refused.stderr and refused.stderr.count("\n") == 1
    assert (workdir / "predictions.csv").read_bytes() == before
    sound = next((tmp_path / "x").glob("*"), None) or workdir / "curves.png"
    refused = run("predict", f"--model={workdir}", str(sound), check=1)
    assert "checkpoints/18" in refused.stderr and "Traceback" not in refused.stderr


@pytest.mark.slow
def test_without_an_intact_checkpoint_a_run_is_refused(copy, run):
    for step in (12, 18):
        flip(largest(copy / "checkpoints" / str(step) / "variables"), 0.5)
    before = sorted(str(path) for path in copy.rglob("*"))
    refused = run("main", TINY, f"--workdir={copy}", check=1)
    assert "no earlier one: choose another --workdir" in refused.stderr
    assert sorted(str(path) for path in copy.rglob("*") if path.name != ".lock") == [
        p for p in before if ".lock" not in p
    ]


@pytest.mark.extended
def test_a_damaged_fold_is_tested_again(run, tmp_path):
    settings = ("--config.train.epochs=1", "--config.crossval.folds=(1,2)", "--mode=crossval", f"--workdir={tmp_path}")
    run("main", TINY, *settings)
    expected = (tmp_path / "predictions.csv").read_text()
    rows = (tmp_path / "fold1" / "predictions.csv").read_text().splitlines(keepends=True)
    (tmp_path / "fold1" / "predictions.csv").write_text("".join(rows[:6]))
    flip(tmp_path / "fold2" / "results.json", 0.3)
    log = run("main", TINY, *settings).stderr
    assert log.count("the fold is tested again") == 2
    assert (tmp_path / "predictions.csv").read_text() == expected


def test_every_flipped_bit_of_cached_embeddings_is_noticed_or_harmless(tmp_path):
    path, x = tmp_path / "000000.npz", np.random.default_rng(0).standard_normal((1, 4, 6)).astype(np.float32)
    with open(path, "wb") as file:
        np.savez(file, embeddings=x)
    content, noticed = path.read_bytes(), 0
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        if (result := embeddings._read_batch(path)) is None:
            noticed += 1
        else:
            np.testing.assert_array_equal(result, x)
    assert noticed > x.nbytes  # each bit of the array itself
    path.write_bytes(content[: len(content) // 2])
    assert embeddings._read_batch(path) is None


def test_a_damaged_tokenizer_is_not_read(tmp_path):
    path = tmp_path / "tokenizer.npz"
    codebook = kmeans.Codebook(np.ones((3, 2), np.float32), 0.5, 1.0, 3, 7)
    codebook.save(path)
    np.testing.assert_array_equal(kmeans.Codebook.load(path).centroids, codebook.centroids)
    flip(path, 0.1)
    assert kmeans.Codebook.load(path) is None or (kmeans.Codebook.load(path).centroids == codebook.centroids).all()
    path.write_bytes(path.read_bytes()[:40])
    assert kmeans.Codebook.load(path) is None and kmeans.Codebook.load(tmp_path / "missing") is None
