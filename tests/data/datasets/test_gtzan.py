"""GTZAN: windows of tracks, folds of our own, its layouts, and saying what is wrong with one."""

import collections
import csv
import importlib.util
import json
import os
import pathlib
import random
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from esc_jax import config as configs
from esc_jax.data import audio, folds, synthetic
from esc_jax.data.audio import AudioError
from esc_jax.data.datasets import registry
from esc_jax.data.layouts import folder, gtzan
from esc_jax.data.layouts.esc50 import Esc50Layout
from esc_jax.data.layouts.registry import open_source
from esc_jax.data.rows import DataError

RATE = 22_050
GENRES = ("blues", "jazz", "rock")
CORRUPT = "jazz/jazz.00004.wav"
# Samples of the tracks that are not 2.6 s long: a rest of more, and of less than half a window, and short tracks.
LENGTHS = {
    "blues/blues.00001.wav": round(2.8 * RATE),
    "blues/blues.00002.wav": 5 * 11_025,
    "jazz/jazz.00001.wav": round(0.3 * RATE),
    "rock/rock.00005.wav": round(0.1 * RATE),
    "rock/rock.00000.wav": 11_025 + 5_513,  # half a window and half a sample
    "rock/rock.00001.wav": 11_025 + 5_512,
}
NAMES = [f"{genre}/{genre}.{number:05d}.wav" for genre in GENRES for number in range(6)]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Three genres of six tracks, one of which is not audio."""
    root = tmp_path_factory.mktemp("gtzan")
    rng = np.random.default_rng(0)
    for name in reversed(NAMES):
        path = root / "genres" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = rng.integers(-20_000, 20_000, LENGTHS.get(name, round(2.6 * RATE)), np.int16)
        soundfile.write(path, samples, RATE, "PCM_16")
    (root / "genres" / CORRUPT).write_bytes(b"no audio")
    return root


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def load(tree, cache_dir):
    def loaded(**changes):
        data = configs.defaults("resnet").data
        data.update(name="gtzan", dir=str(tree), sample_rate=RATE, clip_s=0.5, cache_dir=str(cache_dir))
        data.update({"on_bad_clip": "skip"} | {key: str(v) if key.endswith("dir") else v for key, v in changes.items()})
        return registry.load(data)

    return loaded


def empty_tree(root, names=NAMES):
    """The layout alone: what is read before any file is decoded."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def cut(samples, length):
    """Windows as (start, audio), by going along the track."""
    windows, start = [], 0
    while start == 0 or len(samples) - start >= length / 2:
        window = samples[start : start + length]
        windows.append((start, np.concatenate([window, np.zeros(length - len(window), np.int16)])))
        start += length
    return windows


@pytest.mark.parametrize("clip_s", [0.5, 1.0, 0.7])
def test_windows_are_the_tracks_cut(tree, load, cache_dir, clip_s):
    clips = load(clip_s=clip_s)
    length = round(clip_s * RATE)
    rows = {r.filename: r for r in gtzan.GtzanLayout(tree).rows}
    place = 0
    for name in sorted(set(NAMES) - {CORRUPT}):
        samples, _ = soundfile.read(tree / "genres" / name, dtype="int16")
        for start, expected in cut(samples, length):
            assert clips.filenames[place] == f"{name}@{round(start / RATE, 3):g}s"
            assert clips.sources[place] == name.removesuffix(".wav")
            assert clips.classes[clips.labels[place]] == name.split("/")[0]
            assert clips.folds[place] == rows[name].fold
            np.testing.assert_array_equal(clips.read([place])[0], expected)
            assert clips.samples[place] == min(length, len(samples) - start)
            place += 1
    assert place == len(clips) == len(set(clips.filenames)) == len(clips.folds) == len(clips.labels)
    assert clips.classes == GENRES and clips.length == length and clips.labels.dtype == np.int32
    shuffled = np.random.default_rng(1).permutation(len(clips))
    np.testing.assert_array_equal(clips.read(shuffled), np.stack([clips.read([i])[0] for i in shuffled]))
    # Windows are a view: one preparation serves every length.
    assert len(list(cache_dir.glob("prepared/*/*/*/1.*"))) == 1


def test_rests_and_short_tracks(load):
    starts = collections.defaultdict(list)
    for name in load().filenames:
        track, start = name.split("@")
        starts[track].append(start)
    assert starts["blues/blues.00000.wav"] == ["0s", "0.5s", "1s", "1.5s", "2s"]
    assert starts["blues/blues.00001.wav"] == ["0s", "0.5s", "1s", "1.5s", "2s", "2.5s"]
    assert len(starts["blues/blues.00002.wav"]) == 5
    assert starts["rock/rock.00000.wav"] == ["0s", "0.5s"] and starts["rock/rock.00001.wav"] == ["0s"]
    assert starts["jazz/jazz.00001.wav"] == starts["rock/rock.00005.wav"] == ["0s"]


def test_no_track_is_in_two_parts(load):
    clips = load()
    for test_fold in range(1, 6):
        split = folds.split(clips.folds, clips.sources, "validation", test_fold)
        tracks = [{clips.sources[i] for i in part} for part in (split.train, split.validation, split.test)]
        assert all(tracks) and not split.leaky
        assert sum(map(len, tracks)) == len(set.union(*tracks)) == len(NAMES) - 1


def test_broken_tracks_are_named_or_skipped(load, tmp_path):
    assert list(load().bad) == [CORRUPT] and CORRUPT in load().bad[CORRUPT]
    with pytest.raises(DataError, match=rf"^{CORRUPT}: not readable as audio.*data.on_bad_clip=skip"):
        load(on_bad_clip="error", cache_dir=tmp_path)


def test_folds_are_stratified():
    tracks = [f"{genre}/{genre}.{number:05d}" for genre in "abcdefghij" for number in range(100)]
    counts = collections.Counter((track[0], fold) for track, fold in gtzan.assign_folds(tracks).items())
    assert counts == {(genre, fold): 20 for genre in "abcdefghij" for fold in range(1, 6)}
    ragged = gtzan.assign_folds(tracks[:13])
    assert sorted(collections.Counter(ragged.values()).values()) == [2, 2, 3, 3, 3]


def test_folds_depend_on_names_alone():
    tracks = [f"{genre}/{genre}.{number:05d}" for genre in GENRES for number in range(100)]
    expected = gtzan.assign_folds(tracks)
    shuffled = random.Random(0).sample(tracks, len(tracks))
    assert gtzan.assign_folds(shuffled) == expected
    assert gtzan.assign_folds(tracks[:100]) == {t: expected[t] for t in tracks[:100]}
    # Results are compared between machines and years: these folds may not change.
    assert [expected[t] for t in tracks[:10]] == [1, 4, 1, 5, 4, 5, 3, 2, 4, 2]


def test_the_order_on_disk_has_no_say(tree, monkeypatch):
    expected = gtzan.GtzanLayout(tree)
    listed = os.scandir
    for seed in range(3):
        order = random.Random(seed)
        monkeypatch.setattr(
            os, "scandir", lambda path, order=order: order.sample(entries := list(listed(path)), len(entries))
        )
        layout = gtzan.GtzanLayout(tree)
        assert layout.rows == expected.rows and layout.fingerprint == expected.fingerprint
    assert [r.filename for r in expected.rows] == NAMES and expected.categories == GENRES


def test_layouts_are_one(tmp_path):
    roots = [empty_tree(tmp_path / part) for part in ("a/genres", "b/genres_original", "c")]
    (tmp_path / "b/features_30_sec.csv").write_text("filename,label")
    (tmp_path / "b/images_original/blues").mkdir(parents=True)
    (tmp_path / "c/blues/._blues.00000.wav").write_bytes(b"left by macOS")
    (tmp_path / "c/blues/notes.txt").write_text("no audio")
    layouts = [gtzan.open_gtzan(tmp_path / part) for part in "abc"]
    assert {f.fingerprint for f in layouts} == {layouts[0].fingerprint} and layouts[0].rows == layouts[
        1
    ].rows == layouts[2].rows
    assert [f.path for f in layouts] == [r.resolve() for r in roots]
    assert all(f.read(f.rows[7]) == b"jazz/jazz.00001.wav" for f in layouts)
    (tmp_path / "c/jazz/jazz.00001.wav").unlink()
    with pytest.raises(AudioError, match=r"^jazz/jazz.00001.wav: cannot be read \(No such file or directory\)$"):
        layouts[2].read(layouts[2].rows[7])


def test_a_track_in_two_formats_is_one_track(tmp_path):
    names = [*NAMES, "blues/blues.00000.au", "blues/blues.00003.FLAC", "rock/rock.00009.ogg", "rock/rock.00008.mp3"]
    rows = gtzan.GtzanLayout(empty_tree(tmp_path, names)).rows
    assert sorted(r.filename for r in rows) == sorted(names)
    fold = {r.filename: r.fold for r in rows}
    assert fold["blues/blues.00000.au"] == fold["blues/blues.00000.wav"]
    assert fold["blues/blues.00003.FLAC"] == fold["blues/blues.00003.wav"]
    assert len({r.src_file for r in rows}) == len(NAMES) + 2


@pytest.mark.parametrize("suffix", sorted(audio.EXTENSIONS))
def test_whatever_soundfile_reads_is_taken(tmp_path, suffix):
    kinds = {".aif": "AIFF", ".aifc": "AIFF", ".opus": "OGG", ".oga": "OGG", ".snd": "AU", ".sph": "NIST"}
    kinds |= {".wave": "WAV", ".mp1": "MP3", ".mp2": "MP3"}  # soundfile writes no other layer, and reads by content
    for genre in ("blues", "jazz"):
        (tmp_path / genre).mkdir()
        kind = kinds.get(suffix, suffix[1:].upper())
        subtype = "OPUS" if suffix == ".opus" else None
        soundfile.write(tmp_path / genre / f"one{suffix}", np.zeros(4800), 48_000, subtype, format=kind)
    tracks = gtzan.GtzanLayout(tmp_path)
    assert [len(audio.load(tracks.read(row), 48_000)) >= 4800 for row in tracks.rows] == [True, True]


def test_ignored_files_are_logged(tmp_path, caplog):
    empty_tree(tmp_path)
    for name in ("blues/a.txt", "jazz/b.mid"):
        (tmp_path / name).write_bytes(b"")
    with caplog.at_level("INFO"):
        assert len(gtzan.GtzanLayout(tmp_path).rows) == len(NAMES)
    assert (
        f"{tmp_path}: files that are not used, because their names are not those of audio files: 2, such as blues/a.txt"
        in caplog.text
    )


def test_names_that_are_not_utf8(tmp_path):
    empty_tree(tmp_path)
    path = os.fsencode(tmp_path) + b"/jazz/caf\xe9.wav"
    with open(path, "wb") as file:
        file.write(b"cafe")
    tracks = gtzan.GtzanLayout(tmp_path)
    (row,) = (row for row in tracks.rows if "caf" in row.filename)
    assert row.filename == "jazz/caf\\xe9.wav" and tracks.read(row) == b"cafe"


def test_names_and_content_make_the_fingerprint(tmp_path):
    before = gtzan.GtzanLayout(empty_tree(tmp_path)).fingerprint
    (tmp_path / NAMES[3]).write_bytes(NAMES[3].upper().encode())
    changed = gtzan.GtzanLayout(tmp_path).fingerprint
    (tmp_path / NAMES[3]).rename(tmp_path / "blues/blues.00099.wav")
    assert len({before, changed, gtzan.GtzanLayout(tmp_path).fingerprint}) == 3


def test_what_is_wrong_is_named(load, tmp_path):
    with pytest.raises(DataError, match=r"--config.data.dir=PATH.*genres/blues/blues.00000.wav.*Marsyas.*TFDS"):
        load(dir="")
    with pytest.raises(DataError, match="nothing does not exist"):
        load(dir=tmp_path / "nothing")
    (tmp_path / "genres.tar.gz").write_bytes(b"")
    with pytest.raises(DataError, match="genres.tar.gz is no folder; GTZAN's archive has to be unpacked"):
        load(dir=tmp_path / "genres.tar.gz")
    (tmp_path / "genres/blues").mkdir(parents=True)
    with pytest.raises(
        DataError, match=r"holds no folders of audio files \(wav, au, flac, mp3 …\), one for each genre"
    ):
        load(dir=tmp_path)
    empty_tree(tmp_path / "genres", NAMES[:6])
    with pytest.raises(DataError, match="genres holds one genre, blues; at least two are needed"):
        load(dir=tmp_path)


def test_the_layout_is_recognised(tmp_path):
    made = synthetic.generate(tmp_path / "both/ESC-50-master", clips_per_fold=1)
    tracks = gtzan.GtzanLayout(empty_tree(tmp_path / "both/genres").parent)
    assert isinstance(open_source(made), Esc50Layout)
    assert isinstance(open_source(tmp_path / "both"), Esc50Layout)
    assert isinstance(open_source(empty_tree(tmp_path / "music/genres").parent), gtzan.GtzanLayout)
    # The path of a layout is the folder of the genres: nothing beside it is taken for another data set.
    again = open_source(tracks.path, {"name": "gtzan"})
    assert isinstance(again, gtzan.GtzanLayout) and again.fingerprint == tracks.fingerprint
    assert isinstance(open_source(tracks.path), folder.FolderLayout)
    with pytest.raises(DataError, match="is in none of the known layouts, which hold: meta/esc50.csv, .*one for each"):
        open_source(tmp_path / "both/ESC-50-master/audio")
    with pytest.raises(DataError, match="meta/esc50.csv"):
        Esc50Layout(tracks.path)


STORE = """
import json, sys
import numpy as np, soundfile, tensorflow_datasets as tfds

tree, root, names, genres, rate = json.loads(sys.argv[1])

def records():
    for name in names:
        samples, _ = soundfile.read(f"{tree}/genres/{name}", dtype="int16")
        genre, filename = name.split("/")
        yield filename, {"audio": samples.astype(np.int64), "label": genre, "audio/filename": filename}

features = tfds.features.FeaturesDict({
    "audio": tfds.features.Audio(file_format="wav", sample_rate=rate),
    "label": tfds.features.ClassLabel(names=genres),
    "audio/filename": tfds.features.Text(),
})
builder = tfds.dataset_builders.store_as_tfds_dataset(
    "gtzan", "1.0.0", features=features, split_datasets={"train": records()}, data_dir=root,
    file_format="array_record", disable_shuffling=True,
)
print(builder.data_dir)
"""


@pytest.fixture(scope="module")
def tfds_tree(tree, tmp_path_factory):
    """The good tracks as TFDS stores them, in a process of its own: TensorFlow takes half a gigabyte."""
    for name in ("tensorflow", "tensorflow_datasets"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"needs {name}")
    genres = [*GENRES, "zydeco"]  # a genre without tracks
    arguments = [str(tree), str(tmp_path_factory.mktemp("tfds")), sorted(set(NAMES) - {CORRUPT}), genres, RATE]
    done = subprocess.run([sys.executable, "-c", STORE, json.dumps(arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return pathlib.Path(done.stdout.strip().splitlines()[-1])


@pytest.mark.extended
def test_what_tfds_prepared_is_the_same_data(tfds_tree, load, tmp_path):
    expected, clips = load(), load(dir=tfds_tree, cache_dir=tmp_path)
    np.testing.assert_array_equal(clips.read(range(len(clips))), expected.read(range(len(expected))))
    np.testing.assert_array_equal(clips.labels, expected.labels)
    assert (clips.filenames, clips.sources, clips.classes) == (expected.filenames, expected.sources, GENRES)
    assert isinstance(open_source(tfds_tree), gtzan.TfdsGtzanLayout)


def test_what_tfds_prepared_otherwise_is_refused(tmp_path):
    info = {"name": "gtzan", "fileFormat": "tfrecord"}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(DataError, match="holds tfrecord files, which need TensorFlow .* file_format=array_record"):
        gtzan.open_gtzan(tmp_path)
    shard = tmp_path / "gtzan-train.array_record-00000-of-00001"
    fingerprints = set()
    (tmp_path / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "array_record"}))
    for content in (b"one", b"two"):
        shard.write_bytes(content)
        fingerprints.add(gtzan.open_gtzan(tmp_path).fingerprint)
    assert len(fingerprints) == 2
    (tmp_path / "dataset_info.json").write_text(json.dumps(info | {"name": "mnist"}))
    with pytest.raises(DataError, match="is the TFDS data set mnist, not gtzan"):
        gtzan.open_gtzan(tmp_path)
    (tmp_path / "dataset_info.json").write_text("[]")
    with pytest.raises(DataError, match="dataset_info.json cannot be read"):
        gtzan.open_gtzan(tmp_path)


@pytest.mark.slow
def test_a_run_from_end_to_end(run, tree, load, cache_dir, tmp_path):
    arguments = ["--config=tests/configs/tiny.py", f"--workdir={tmp_path}", f"--config.data.sample_rate={RATE}"]
    arguments += ["--config.data.name=gtzan", f"--config.data.dir={tree}", f"--config.data.cache_dir={cache_dir}"]
    arguments += ["--config.data.on_bad_clip=skip", "--config.train.epochs=1"]
    run("main", *arguments)
    results, expected = json.loads((tmp_path / "results.json").read_text()), load(clip_s=1.0)
    assert list(results["data"]["bad_clips"]) == [CORRUPT] and results["data"]["classes"] == list(GENRES)
    assert (
        results["data"]["clips"] == len(expected) and "recordings in more than one part" not in results["data"]["split"]
    )
    with open(tmp_path / "predictions.csv") as file:
        rows = [(r["clip"], r["source"], r["fold"]) for r in csv.DictReader(file)]
    tested = [i for i, fold in enumerate(expected.folds) if fold == 5]
    assert rows == [(expected.filenames[i], expected.sources[i], "5") for i in tested] and rows
