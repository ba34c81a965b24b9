"""Preparing and reading a data set: content, checksums, interruption, concurrency, and no need of TensorFlow."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from esc_jax.data import audio, prepare, prepared, synthetic, tfds_metadata
from esc_jax.data.layouts.esc50 import Esc50Layout
from esc_jax.data.rows import DataError
from esc_jax.errors import Failure

ROOT = pathlib.Path(__file__).resolve().parents[2]

# Hides packages from the import system, as if they were not installed.
HIDE = """
import importlib.machinery as machinery, sys
def hide(*names):
    find = machinery.PathFinder.find_spec
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in names else find(name, path, target)
    machinery.PathFinder.find_spec = classmethod(find_spec)
"""


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    return Esc50Layout(synthetic.generate(tmp_path_factory.mktemp("data") / "tree", clips_per_fold=1, seed=1))


@pytest.fixture(scope="module")
def folder(layout, tmp_path_factory):
    """Prepared at 16 kHz."""
    return prepare.prepared_dir(layout, 16_000, tmp_path_factory.mktemp("prepared"))


def check_clips(folder, layout, rate):
    """Every clip, in the order of file names, with its samples."""
    clips = prepared.open_prepared(folder, 5 * rate, layout)
    rows = sorted(layout.rows, key=lambda row: row.filename)
    assert clips.filenames == tuple(row.filename for row in rows) and clips.classes == layout.categories
    assert (clips.sample_rate, clips.fingerprint, clips.bad) == (rate, layout.fingerprint, {})
    for i, row in enumerate(rows):
        assert (clips.folds[i], (clips.labels[i],), clips.sources[i]) == (row.fold, row.targets, row.src_file)
        expected = audio.to_int16(audio.load(layout.read(row), rate))
        np.testing.assert_array_equal(clips.fetch(i), expected)
        assert clips.samples[i] == len(expected) and clips.fetch(i).dtype == np.int16


def python(code, *arguments, check=0, **environment):
    """Runs code in a process of its own, with this checkout importable."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == check, done.stderr
    return done


@pytest.mark.parametrize("rate", [16_000, 22_050])
def test_every_clip_is_prepared(layout, rate, tmp_path):
    folder = prepare.prepared_dir(layout, rate, tmp_path)
    assert folder == tmp_path / "prepared" / layout.fingerprint / "esc50" / f"{rate}hz" / tfds_metadata.VERSION
    check_clips(folder, layout, rate)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert prepare.prepared_dir(layout, rate, tmp_path) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


WITHOUT = """
hide("tensorflow", "tensorflow_datasets", "tensorboard", "clu")
from esc_jax.data import prepare, prepared
from esc_jax.data.layouts.registry import open_source
source = open_source(sys.argv[1])
folder = prepare.prepared_dir(source, 16_000, sys.argv[2])
clips = prepared.open_prepared(folder, 80_000, source)
assert clips.read(range(len(clips))).any(axis=1).all()
print(folder)
"""


def test_neither_tensorflow_nor_tfds_is_needed(layout, tmp_path):
    done = python(HIDE + WITHOUT, layout.path, tmp_path)
    assert done.stderr == ""
    check_clips(pathlib.Path(done.stdout.strip()), layout, 16_000)


BY_TFDS = """
hide("tensorflow")
import numpy as np, tensorflow_datasets as tfds
builder = tfds.builder_from_directory(sys.argv[1])
assert "tensorflow" not in sys.modules
print(builder.info.full_name, builder.info.metadata["sample_rate"], *builder.info.features["label"].names)
keys = ("filename", "source", "take", "fold", "label", "audio")
records = [record for split in builder.info.splits for record in builder.as_data_source(split=split)]
np.savez(sys.argv[2], **{key: np.array([record[key] for record in records]) for key in keys})
"""


def test_tfds_reads_it_without_tensorflow(layout, folder, tmp_path):
    pytest.importorskip("tensorflow_datasets")
    done = python(HIDE + BY_TFDS, folder, tmp_path / "records.npz")
    assert done.stdout.split() == [f"esc50/16000hz/{tfds_metadata.VERSION}", "16000", *layout.categories]
    with np.load(tmp_path / "records.npz") as records:
        columns = [[value.decode() for value in records[key].tolist()] for key in ("filename", "source", "take")]
        rows = {
            row[0]: row[1:] for row in zip(*columns, records["fold"], records["label"], records["audio"], strict=True)
        }
    assert sorted(rows) == sorted(row.filename for row in layout.rows)
    clips = prepared.open_prepared(folder, 80_000, layout)
    for row in layout.rows:
        source, take, fold, label, samples = rows[row.filename]
        assert (source, take, fold, (label,)) == (row.src_file, row.take, row.fold, row.targets)
        np.testing.assert_array_equal(samples, clips.fetch(clips.filenames.index(row.filename)))


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def damage(folder, what):
    """Returns the name of the damaged file, which the warning has to contain."""
    shard = next(folder.glob("*fold3.array_record*"))
    match what:
        case "a bit of the index":
            path = folder / "index.json"
            flip(path, path.read_text().index('"labels": [') + len('"labels": ['))  # a different, valid label
        case "a bit of a record":
            path = shard
            flip(path, path.stat().st_size // 2)
        case "a record file cut short":
            path = shard
            os.truncate(path, path.stat().st_size // 2)
        case "an empty record file":
            path = shard
            os.truncate(path, 0)
        case "no label names":
            path = folder / "label.labels.txt"
            path.unlink()
        case "other metadata":
            path = folder / "metadata.json"
            path.write_text('{"sample_rate": 16001}')
        case "no list of bad clips":
            path = folder / "bad_clips.json"
            path.unlink()
        case "no manifest":
            path = folder / "manifest.json"
            path.unlink()
        case "a manifest of nothing":
            path = folder / "manifest.json"
            path.write_text("{}")
        case "half a manifest":
            path = folder / "manifest.json"
            os.truncate(path, path.stat().st_size // 2)
        case "a name in the manifest":
            path = folder / "manifest.json"
            path.write_text(path.read_text().replace("index.json", "indeX.json"))
    return path.name


DAMAGE = [
    "a bit of the index", "a bit of a record", "a record file cut short", "an empty record file", "no label names",
    "other metadata", "no list of bad clips", "no manifest", "a manifest of nothing", "half a manifest",
    "a name in the manifest",
]  # fmt: skip


@pytest.mark.parametrize("what", DAMAGE)
def test_damaged_data_are_prepared_again(layout, folder, tmp_path, caplog, what):
    copy = tmp_path / folder.relative_to(folder.parents[4])
    shutil.copytree(folder, copy)
    name = damage(copy, what)
    with caplog.at_level("WARNING"):
        assert prepare.prepared_dir(layout, 16_000, tmp_path) == copy
    (warning,) = caplog.messages
    assert warning.startswith(f"the prepared data set in {copy} is made again: {name} ") and "\n" not in warning
    check_clips(copy, layout, 16_000)
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]
    caplog.clear()
    assert prepare.prepared_dir(layout, 16_000, tmp_path) == copy and not caplog.messages


PREPARE = """
import sys
from esc_jax.data import prepare
from esc_jax.data.layouts.registry import open_source
print(prepare.prepared_dir(open_source(sys.argv[1]), 48_000, sys.argv[2]))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="POSIX")
def test_a_killed_preparation_is_done_again(layout, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", PREPARE, layout.path, tmp_path], env=environment) as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("prepared/*/esc50/48000hz/incomplete*/*")) and time.monotonic() < deadline:
            time.sleep(0.001)
        process.kill()
    assert list(tmp_path.glob("prepared/*/esc50/48000hz/incomplete*"))
    assert not list(tmp_path.glob("prepared/*/esc50/48000hz/1*"))
    folder = prepare.prepared_dir(layout, 48_000, tmp_path)
    check_clips(folder, layout, 48_000)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_two_processes_at_once_prepare_once(layout, tmp_path):
    code = PREPARE + "print(prepare.COUNT)"
    code = code.replace("print(prepare.prepared", "write, prepare.COUNT = prepare._write, 0\n"
        "def counted(*args):\n    prepare.COUNT += 1\n    write(*args)\n"
        "prepare._write = counted\nprint(prepare.prepared")  # fmt: skip
    command = [sys.executable, "-c", code, str(layout.path), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [process.communicate()[0].split() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(answer[1] for answer in answers) == ["0", "1"] and answers[0][0] == answers[1][0]
    check_clips(pathlib.Path(answers[0][0]), layout, 48_000)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX")
def test_a_terminal_shows_one_progress_bar(layout, tmp_path):
    import pty
    import termios

    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    terminal, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    command = [sys.executable, "-c", PREPARE, str(layout.path), str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        try:
            while block := os.read(terminal, 4096):
                shown += block
        except OSError:  # how Linux reports that the other end is closed
            pass
    os.close(terminal)
    assert process.returncode == 0
    lines = shown.decode().strip().split("\r\n")
    assert len(lines) == 1, lines
    states = [state for state in lines[0].split("\r") if state]
    assert all(state.startswith("preparing 60 clips") for state in states) and "60/60" in states[-1]


def test_a_rate_that_is_not_supported(layout, tmp_path):
    with pytest.raises(DataError, match="can be prepared at 16000, 22050, 32000, 44100, 48000 Hz"):
        prepare.prepared_dir(layout, 12_345, tmp_path)


def test_a_folder_that_cannot_be_written(layout, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="^preparing the data set failed: .*file"):
        prepare.prepared_dir(layout, 16_000, tmp_path / "file")


FULL = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="POSIX")
def test_a_full_disk_gives_one_sentence(layout, tmp_path):
    done = python(FULL + PREPARE, layout.path, tmp_path, check=1)
    error = done.stderr.strip().splitlines()[-1]
    assert error.startswith("esc_jax.data.rows.PreparationError: ") and "cannot be written (" in error, done.stderr
    assert not list(tmp_path.glob("prepared/*/esc50/48000hz/*"))


def test_array_record_is_missing(layout, tmp_path):
    code = HIDE + 'hide("array_record")' + PREPARE
    done = python(code, layout.path, tmp_path, check=1)
    assert (
        done.stderr.strip()
        .splitlines()[-1]
        .startswith(
            "esc_jax.data.rows.DataError: preparing and reading a data set needs array_record; pip install array_record"
        )
    )


def spoil(layout, tmp_path, rows):
    """A copy of the data set in which the files of some rows are not audio."""
    tree = tmp_path / "tree"
    shutil.copytree(layout.path, tree, dirs_exist_ok=True)
    for row in rows:
        (tree / "audio" / row.filename).write_bytes(b"no audio")
    return Esc50Layout(tree)


def test_clips_that_cannot_be_decoded(layout, tmp_path, caplog):
    bad = [row for row in layout.rows if row.fold == 2] + [layout.rows[0]]
    names = {row.filename for row in bad}
    spoiled = spoil(layout, tmp_path, bad)
    with pytest.raises(DataError, match=rf"^audio/{layout.rows[0].filename}: not readable.*data.on_bad_clip=skip"):
        prepare.prepared_dir(spoiled, 16_000, tmp_path)
    assert not list(tmp_path.glob("prepared/*/esc50/16000hz/*"))
    folder = prepare.prepared_dir(spoiled, 16_000, tmp_path, "skip")
    with caplog.at_level("INFO"):
        clips = prepared.open_prepared(folder, 16_000, spoiled)
        assert "13 clips do not decode, and are left out: audio/" in caplog.text
        prepared.log_longer_clips(clips)
        assert "47 of 47 clips are longer than data.clip_s=1 s and are cut to it" in caplog.text
        caplog.clear()
        prepared.log_longer_clips(prepared.open_prepared(folder, 79_000, spoiled))
        assert "longer" not in caplog.text
    assert set(clips.bad) == names and not names & set(clips.filenames) and set(clips.folds) == {1, 3, 4, 5}
    assert not list(folder.glob("*fold2*"))
    assert json.loads((folder / "bad_clips.json").read_text()) == clips.bad
    with pytest.raises(DataError, match="no clip of the data set can be decoded .*not readable as audio"):
        prepare.prepared_dir(spoil(layout, tmp_path, layout.rows), 16_000, tmp_path, "skip")


LIGHT = """
import sys
for name in ("array_record", "tensorflow", "tensorflow_datasets", "grain", "clu", "tensorboard", "fcntl", "jax"):
    sys.modules[name] = None
from esc_jax.data import audio, cache, stream
from esc_jax.data.layouts import registry
import esc_jax.files
print(cache.cache_root(), len(list(stream.windows(stream.AudioStream(sys.argv[1], 16_000), 16_000, 16_000))))
print(len(registry.open_source(sys.argv[2]).rows))
"""


def test_what_prediction_imports_depends_on_no_package_for_training(layout, tmp_path):
    file = layout.path / "audio" / layout.rows[0].filename
    done = python(LIGHT, file, layout.path, ESC_JAX_CACHE=str(tmp_path))
    assert done.stdout.split() == [str(tmp_path), "5", "60"]


def test_errors_are_failures_or_user_errors():
    assert issubclass(audio.AudioError, Failure) and DataError.status == 2
