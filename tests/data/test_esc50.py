"""The TFDS data set: what it holds, and that a killed preparation leaves nothing half-made."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest

from esc_jax.data import audio, clips, prepare, synthetic
from esc_jax.data.source import DataError, Source

ROOT = pathlib.Path(__file__).resolve().parents[2]
pytest.importorskip("tensorflow_datasets")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return Source(synthetic.generate(tmp_path_factory.mktemp("data") / "tree", clips_per_fold=1, seed=1))


def test_tfds_data_source_holds_every_clip(tree, tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", None)  # where it was looked up before
    folder = prepare.prepared_dir(tree, 22_050, str(tmp_path))
    assert not list((tmp_path / "temporary").iterdir())
    import esc_jax.data.esc50  # noqa: F401  registers the builder

    found = tfds.data_source("esc50/22050hz", data_dir=folder.parents[2], builder_kwargs={"source": tree.path})
    assert sorted(found) == [f"fold{f}" for f in range(1, 6)]
    rows = {r.filename: r for r in tree.rows}
    seen = set()
    for fold, records in found.items():
        for record in records:
            row = rows[record["filename"].decode()]
            seen.add(row.filename)
            assert f"fold{row.fold}" == fold and record["fold"] == row.fold and record["label"] == row.target
            assert record["source"].decode() == row.src_file and record["take"].decode() == row.take
            expected = audio.to_int16(audio.load(tree.read(row), 22_050))
            np.testing.assert_array_equal(record["audio"], expected)
    assert seen == set(rows)


def test_a_killed_preparation_is_done_again(tree, tmp_path):
    command = [sys.executable, "-m", "esc_jax.data.prepare", f"--source={tree.path}", "--sample_rate=48000"]
    environment = os.environ | {"ESC_JAX_CACHE": str(tmp_path)}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    # The moment TFDS opens its unfinished folder.
    for _ in range(6000):
        if list(tmp_path.glob("prepared/*/esc50/48000hz/incomplete*")) or process.poll() is not None:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(tmp_path.glob("prepared/*/esc50/48000hz/1*"))
    folder = prepare.prepared_dir(tree, 48_000, str(tmp_path))
    found = clips._open_prepared(folder, 48_000, "x")
    assert len(found) == len(tree.rows) and found.classes == tree.categories
    assert not list(folder.parent.glob("incomplete*"))
    assert list(found.filenames) == sorted(r.filename for r in tree.rows)
    rows = {r.filename: r for r in tree.rows}
    again = clips._open_prepared(folder, 48_000, "x")  # from the index that the first opening left
    for one in (found, again):
        for i, name in enumerate(one.filenames):
            row = rows[name]
            assert (one.folds[i], one.labels[i], one.sources[i]) == (row.fold, row.target, row.src_file)
    np.testing.assert_array_equal(again.read(range(len(again))), found.read(range(len(found))))


def test_two_preparations_at_once(tree, tmp_path):
    command = [sys.executable, "-m", "esc_jax.data.prepare", f"--source={tree.path}", "--sample_rate=32000"]
    environment = os.environ | {"ESC_JAX_CACHE": str(tmp_path)}
    both = [subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sum("Preparing" in text for text in said) == 1  # the other one waited, and found it done
    (folder,) = tmp_path.glob("prepared/*/esc50/32000hz/*")
    assert len(clips._open_prepared(folder, 32_000, "x")) == len(tree.rows)


def test_a_rate_that_is_not_offered(tree, tmp_path):
    with pytest.raises(DataError, match="can be prepared at 16000, 22050, 32000, 44100, 48000 Hz"):
        prepare.prepared_dir(tree, 12_345, str(tmp_path))


@pytest.mark.parametrize(("set_to", "expected"), [("", "~/.cache/esc_jax"), ("/data/cache", "/data/cache/esc_jax")])
def test_the_cache_folder(monkeypatch, set_to, expected):
    monkeypatch.delenv("ESC_JAX_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", set_to)
    assert prepare.cache_root() == pathlib.Path(expected).expanduser()


def test_an_unforeseen_failure_is_not_told_in_words_of_tfds(tree, tmp_path, monkeypatch):
    def fail(command, **kwargs):
        return subprocess.CompletedProcess(command, 1, b"Dataset esc50 is being prepared ...\n")

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(DataError, match=r"^preparing .*tree failed with exit status 1; its own messages stand above$"):
        prepare.prepared_dir(tree, 16_000, str(tmp_path))


def test_a_fold_without_a_clip_that_decodes_is_left_out(tree, tmp_path, caplog):
    shutil.copytree(tree.path, tmp_path / "tree")
    bad = [row.filename for row in tree.rows if row.fold == 2]
    for name in bad:
        (tmp_path / "tree/audio" / name).write_bytes(b"no audio")
    source = Source(tmp_path / "tree")
    folder = prepare.prepared_dir(source, 16_000, str(tmp_path), "skip")
    with caplog.at_level("INFO"):
        found = clips._open_prepared(folder, 16_000, "x")
        assert "12 clips do not decode, and are left out: audio/2-" in caplog.text
        assert "48 of 48 clips are longer than data.clip_s=1, and lose their rest" in caplog.text
        caplog.clear()
        clips._open_prepared(folder, 79_000, "x")
        assert "longer" not in caplog.text
    assert sorted(found.bad) == sorted(bad) and sorted(set(found.folds)) == [1, 3, 4, 5]
    for row in tree.rows:
        (tmp_path / "tree/audio" / row.filename).write_bytes(b"no audio")
    with pytest.raises(DataError, match="no clip of the data set can be decoded .*not readable as audio"):
        prepare.prepared_dir(Source(tmp_path / "tree"), 16_000, str(tmp_path), "skip")
