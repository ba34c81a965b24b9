"""Recordings of more than a minute: memory, records and errors."""

import json
import tracemalloc

import numpy as np
import pytest
import soundfile

from esc_jax.data import audio, clips, prepare, prepared
from esc_jax.data.layouts.folder import FolderLayout
from esc_jax.data.rows import DataError

RATE = 16_000


def write_tree(root, seconds: float, rate: int = RATE, suffix: str = "wav"):
    """Two classes; the recording a/long has this length."""
    rng = np.random.default_rng(0)
    for name, duration in (("a/long", seconds), ("a/one", 1.0), ("b/two", 1.0), ("b/three", 61.0)):
        path = root / f"{name}.{suffix}"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, 0.1 * rng.standard_normal(round(duration * rate)), rate)
    return root


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    """Three and a half minutes, to be resampled."""
    return FolderLayout(write_tree(tmp_path_factory.mktemp("tree"), 211.3, 8000, "flac"))


@pytest.fixture(scope="module")
def folder(layout, tmp_path_factory):
    return prepare.prepared_dir(layout, RATE, tmp_path_factory.mktemp("prepared"))


def test_samples_are_those_of_the_file(layout, folder):
    data = prepared.open_prepared(folder, 5 * RATE, layout)
    for i, row in enumerate(layout.rows):
        assert data.filenames[i] == row.filename
        expected = audio.to_int16(audio.load(layout.read(row), RATE))
        np.testing.assert_array_equal(data.fetch(i), expected)
        assert data.samples[i] == len(data.fetch(i)) == len(expected)
    assert [isinstance(data.fetch(i), clips.Recording) for i in range(4)] == [True, False, True, False]


@pytest.mark.parametrize("clip_s", [5.0, 7.0, 61.0, 100.0])
def test_windows_cross_the_ends_of_records(layout, folder, clip_s):
    length = round(clip_s * RATE)
    data = prepared.open_prepared(folder, length, layout).windows()
    whole = audio.to_int16(audio.load(layout.read(layout.rows[0]), RATE))
    starts = [i for i, name in enumerate(data.filenames) if name.startswith("a/long")]
    for number, i in enumerate(starts):
        np.testing.assert_array_equal(data.fetch(i), whole[number * length :][:length])
    assert len(starts) == round(len(whole) / length)


def test_records_are_a_minute_at_most(folder):
    info = json.loads((folder / "dataset_info.json").read_text())
    records = {split["name"]: int(split["shardLengths"][0]) for split in info["splits"]}
    assert sum(records.values()) == 4 + 2 + 1 + 1
    index = json.loads((folder / "index.json").read_text())
    assert [entry["filename"] for entry in index] == ["a/long.flac", "a/one.flac", "b/three.flac", "b/two.flac"]


def test_memory_does_not_grow_with_the_length(tmp_path, monkeypatch):
    """Forty minutes are 77 MB of samples and 154 MB of floats; a record is 2 MB."""
    monkeypatch.setattr(prepare.os, "cpu_count", lambda: 1)
    source = FolderLayout(write_tree(tmp_path, 2400))
    tracemalloc.start()
    try:
        folder = prepare.prepared_dir(source, RATE, tmp_path / "cache")
        _, preparing = tracemalloc.get_traced_memory()
        data = prepared.open_prepared(folder, 5 * RATE, source).windows()
        tracemalloc.reset_peak()
        windows = [i for i, name in enumerate(data.filenames) if name.startswith("a/long")]
        data.fetch(windows[100])
        _, reading = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(windows) == 480 and preparing < 20e6 and reading < 5e6
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.name.startswith("tmp")]


@pytest.mark.parametrize("on_bad_clip", ["error", "skip"])
def test_a_long_file_that_breaks_off(tmp_path, on_bad_clip):
    content = (write_tree(tmp_path, 120, suffix="flac") / "a/long.flac").read_bytes()
    (tmp_path / "a/long.flac").write_bytes(content[: len(content) // 2])
    source = FolderLayout(tmp_path)
    if on_bad_clip == "error":
        with pytest.raises(DataError, match=r"^a/long.flac: breaks off after \d+\.\d of 120.0 s.*on_bad_clip=skip"):
            prepare.prepared_dir(source, RATE, tmp_path / "cache")
        return
    data = prepared.open_prepared(prepare.prepared_dir(source, RATE, tmp_path / "cache", "skip"), RATE, source)
    assert list(data.bad) == ["a/long.flac"] and data.filenames == ("a/one.flac", "b/three.flac", "b/two.flac")
    assert len(data.fetch(1)) == 61 * RATE
