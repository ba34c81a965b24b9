"""Recordings of your own, from their folder to clips."""

import csv

import numpy as np
import pytest
import soundfile

from esc_jax import config as configs
from esc_jax.data import audio, folds, synthetic
from esc_jax.data.datasets import registry
from esc_jax.data.layouts.registry import LAYOUTS, open_source, recognize
from esc_jax.data.rows import DataError
from esc_jax.experiments import dataset

RATE = 16_000
FORMATS = [("wav", 44_100, 2, 1.0), ("FLAC", 8_000, 1, 2.6), ("ogg", 48_000, 1, 0.4), ("mp3", 22_050, 2, 1.2)]


def sound(path, rate, channels, seconds, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).standard_normal((round(seconds * rate), channels))
    soundfile.write(path, 0.1 * noise, rate)


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def load(cache_dir):
    def loaded(name, path, **changes):
        data = configs.defaults("resnet").data
        data.update(name=name, dir=str(path), sample_rate=RATE, clip_s=1.0, cache_dir=str(cache_dir), **changes)
        return registry.load(data)

    return loaded


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Three classes of four recordings each: mixed formats, rates, channels and lengths, at several depths."""
    root = tmp_path_factory.mktemp("mixed")
    for number, name in enumerate(("dog", "cat", "owl")):
        for i, (suffix, rate, channels, seconds) in enumerate(FORMATS):
            sound(
                root / name / ("deep/er/" * (i % 2)) / f"{name}-{i}x.{suffix}", rate, channels, seconds, 10 * number + i
            )
    return root


def test_a_folder_per_class(mixed, load, caplog):
    with caplog.at_level("INFO"):
        clips = load("folder", mixed)
    assert clips.classes == ("cat", "dog", "owl") and clips.grouping.kind == "none"
    # 2.6 s are three windows of a second; 1.2 s are one, and 0.2 s of it is not used.
    assert len(clips) == 3 * (1 + 3 + 1 + 1)
    assert "are cut into 9 windows" in caplog.text and "0.6 s at the ends of 3 files are not used" in caplog.text
    for i, name in enumerate(clips.filenames):
        file, _, start = name.partition("@")
        waveform = audio.to_int16(audio.load(mixed / file, RATE))[round(float(start.rstrip("s") or 0) * RATE) :][:RATE]
        np.testing.assert_array_equal(clips.read([i])[0], np.pad(waveform, (0, RATE - len(waveform))))
        assert clips.classes[clips.labels[i]] == file.split("/")[0] and clips.sources[i] == file.rpartition(".")[0]
    for test_fold in set(clips.folds):
        assert not folds.split(clips.folds, clips.sources, "holdout", test_fold).leaky


def test_a_csv_of_the_same_files_is_the_same_data(mixed, load, tmp_path):
    """Only the folds and the names can differ: with the same names, they are the same too."""
    clips = load("folder", mixed)
    names = sorted({name.partition("@")[0] for name in clips.filenames})
    with open(mixed / "all.csv", "w", newline="") as file:
        csv.writer(file, delimiter=";").writerows([["file", "class"], *([name, name.split("/")[0]] for name in names)])
    try:
        other = load("csv", mixed / "all.csv")
        assert recognize(mixed).name == recognize(mixed / "all.csv").name == "csv"
    finally:
        (mixed / "all.csv").unlink()
    assert recognize(mixed).name == "folder"
    assert (other.filenames, other.folds, other.classes) == (clips.filenames, clips.folds, clips.classes)
    np.testing.assert_array_equal(other.labels, clips.labels)
    np.testing.assert_array_equal(other.read(range(len(clips))), clips.read(range(len(clips))))


def test_multi_label_clips(load, tmp_path):
    labels = ["dog", "cat", "dog,cat", "", "owl,dog"] * 4
    table = [["fname", "labels", "recording"]]
    for i, cell in enumerate(labels):
        sound(tmp_path / f"audio/{i}.wav", RATE, 1, 1.0 + (i == 7), i)
        table.append([str(i), cell, f"r{i // 2}"])
    with open(tmp_path / "scenes.csv", "w", newline="") as file:
        csv.writer(file).writerows(table)
    clips = load("csv", tmp_path, folds=3)
    assert clips.task == "multi_label" and clips.labels.shape == (21, 3) and clips.classes == ("cat", "dog", "owl")
    for name, row, source in zip(clips.filenames, clips.labels, clips.sources, strict=True):
        number = int(name.removeprefix("audio/").split(".")[0])
        present = [clips.classes[t] for t in np.flatnonzero(row)]
        assert present == sorted(filter(None, labels[number].split(","))) and source == f"r{number // 2}"
    assert clips.grouping.kind == "column" and clips.grouping.assigned_folds and set(clips.folds) == {1, 2, 3}
    assert len({(s, f) for s, f in zip(clips.sources, clips.folds, strict=True)}) == 10


def test_grouped_takes_stay_on_one_side(load, tmp_path):
    for name in ("dog", "cat"):
        for i in range(8):
            sound(tmp_path / f"{name}/{name}{i // 2}_take{i % 2}.wav", RATE, 1, 0.2, i)
    grouped, ungrouped = (load("folder", tmp_path, folds=2, group_pattern=pattern) for pattern in ("auto", ""))
    assert len(set(grouped.sources)) == 8 and len(set(ungrouped.sources)) == 16
    assert (grouped.grouping.kind, ungrouped.grouping.kind) == ("names", "none")
    assert {f: grouped.folds.count(f) for f in (1, 2)} == {1: 8, 2: 8}
    assert grouped.fingerprint != ungrouped.fingerprint


@pytest.mark.parametrize("name", ["folder", "csv", "audiofolder", "urbansound8k", "fsd50k"])
def test_the_folder_is_required(load, name):
    with pytest.raises(DataError, match=f"^data.name={name}: give --config.data.dir=PATH, ") as error:
        load(name, "")
    assert error.value.status == 2 and name in registry.DATASETS and name in LAYOUTS


def test_official_folds_and_splits(load, tmp_path, caplog):
    """protocol=validation with test_fold=3 validates on the split of that name."""
    for split in ("train", "validation", "test"):
        for name in ("dog", "cat"):
            sound(tmp_path / split / name / "1.wav", RATE, 1, 0.2, 0)
    clips = load("audiofolder", tmp_path)
    split = folds.split(clips.folds, clips.sources, "validation", 3)
    parts = {"train": split.train, "validation": split.validation, "test": split.test}
    for part, indices in parts.items():
        assert [clips.filenames[i] for i in indices] == [f"{part}/cat/1.wav", f"{part}/dog/1.wav"]
    assert recognize(tmp_path).name == "audiofolder"


def test_the_layout_of_esc50_loses_nothing(load, tmp_path, caplog):
    """Files of one and a half clips or more are windows; a shorter excess is cut, and said."""
    rows = [["filename", "fold", "target", "category"]]
    for i, seconds in enumerate((1.0, 1.02, 1.4, 1.5, 2.0)):
        sound(tmp_path / f"audio/{i}.wav", RATE, 1, seconds, i)
        rows.append([f"{i}.wav", i + 1, i % 2, "ab"[i % 2]])
    (tmp_path / "meta").mkdir()
    with open(tmp_path / "meta/esc50.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    with caplog.at_level("INFO"):
        clips = load("esc50", tmp_path)
    assert clips.filenames == ("0.wav", "1.wav", "2.wav", "3.wav@0s", "3.wav@1s", "4.wav@0s", "4.wav@1s")
    assert clips.folds == (1, 2, 3, 4, 4, 5, 5)
    assert "0.4 s at the ends of 1 file are not used" in caplog.text
    assert clips.read([4])[0, RATE // 2 :].max() == 0


def test_the_task_of_a_config_is_that_of_the_labels(mixed, cache_dir):
    config = configs.defaults("resnet")
    config.data.update(name="folder", dir=str(mixed), sample_rate=RATE, clip_s=1.0, cache_dir=str(cache_dir))
    config, task, clips = dataset.load(config)
    assert config.task == task.name == clips.task == "single_label"


def test_generated_scenes_are_a_multi_label_csv(tmp_path):
    folder = synthetic.generate_scenes(tmp_path / "scenes", clips_per_fold=1)
    layout = open_source(folder, {"name": "synthetic_scenes"})
    assert layout.task == "multi_label" and len(layout.rows) == 60 and set(layout.categories) == set(synthetic.CLASSES)
    with open(folder / "scenes.csv") as file:
        expected = {row["filename"]: row["labels"].split(";") for row in csv.DictReader(file)}
    assert {row.filename: [layout.categories[t] for t in row.targets] for row in layout.rows} == expected
