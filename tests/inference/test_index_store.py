"""Embedding stores: what is inside after copies, changes, kills, full disks and a second writer."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from esc_jax.inference import index_store
from esc_jax.inference.index_store import RangeError, Store, StoreAccessError, StoreError, open_for_writing
from tests.inference.stores import add, make, settings

ROOT = pathlib.Path(__file__).resolve().parents[2]
RNG = np.random.default_rng(0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "archive.db"


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 0), ("float16", 1e-3)])
def test_what_was_added_is_read(path, dtype, tolerance):
    vectors = RNG.uniform(-1, 1, (5, 8)).astype(np.float32)
    make(path, {"a.wav": vectors[:3], "b.wav": vectors[3:]}, dtype=dtype)
    with Store(path) as store:
        assert store.settings == settings(dtype=dtype)
        assert store.counts() == {"recordings": 2, "files": 2, "passages": 5}
        for rows in (1, 2, 100):
            blocks = list(store.blocks(rows=rows))
            assert all(len(numbers) <= rows for numbers, _ in blocks)
            np.testing.assert_allclose(np.concatenate([x for _, x in blocks]), vectors, atol=tolerance)
        numbers = store.numbers()
        kept, x = store.embeddings([numbers[4], 99, numbers[0]])
        assert kept.tolist() == [numbers[4], numbers[0]]
        np.testing.assert_allclose(x, vectors[[4, 0]], atol=tolerance)
        first = store.passages([numbers[1]])[0]
        assert (store.path_of(first.recording), first.start_s, first.end_s) == ("/archive/a.wav", 1.0, 3.0)
        assert [one.start_s for one in store.passages_of(first.recording)] == [0.0, 1.0, 2.0]


def test_the_last_passage_ends_with_the_recording(path):
    with open_for_writing(path, settings()) as store:
        store.add("/a.wav", "a", 1, 1, 2.5, "", np.array([0.0, 0.5]), RNG.uniform(size=(2, 8)))
        assert [(one.start_s, one.end_s) for one in store.passages_of(1)] == [(0.0, 2.0), (0.5, 2.5)]


def test_copies_are_embedded_once(path):
    vectors = RNG.uniform(size=(2, 8))
    with open_for_writing(path, settings()) as store:
        assert add(store, "a.wav", vectors, "same")
        assert not add(store, "b.wav", vectors, "same")  # as two threads would
        store.add_copy("/archive/c.wav", store.recording_of("same"), 10, 20)
        assert store.counts() == {"recordings": 1, "files": 3, "passages": 2}
        assert store.is_known("/archive/c.wav", 10, 20) and not store.is_known("/archive/c.wav", 10, 21)
        assert store.path_of(1) == "/archive/a.wav"  # no file exists: the first


def test_another_recording_under_the_name_replaces_the_first(path):
    with open_for_writing(path, settings()) as store:
        add(store, "a.wav", RNG.uniform(size=(3, 8)), "old")
        add(store, "copy.wav", RNG.uniform(size=(3, 8)), "old")
        add(store, "a.wav", RNG.uniform(size=(2, 8)), "new")
        assert store.counts() == {"recordings": 2, "files": 2, "passages": 5}  # the copy keeps the old one
        before = store.numbers().max()
        add(store, "copy.wav", RNG.uniform(size=(1, 8)), "newer")
        assert store.counts() == {"recordings": 2, "files": 2, "passages": 3}
        assert store.recording_of("old") is None and store.numbers().max() > before


def test_of_copies_the_path_is_one_that_exists(path, tmp_path):
    (tmp_path / "there.wav").touch()
    with open_for_writing(path, settings()) as store:
        add(store, "gone.wav", RNG.uniform(size=(1, 8)), "same")
        store.add_copy(str(tmp_path / "there.wav"), 1, 1, 1)
        assert store.path_of(1) == str(tmp_path / "there.wav")


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text elsewhere")
def test_names_that_are_not_utf8(path):
    name = os.fsdecode(b"/archive/\xff.wav")
    with open_for_writing(path, settings()) as store:
        store.add(name, "a", 1, 2, 2.0, "", np.zeros(1), RNG.uniform(size=(1, 8)))
        assert store.files() == {name: 1} and store.is_known(name, 1, 2) and store.path_of(1) == name


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"encoder": "xyz", "dimension": 4}, r"another encoder \(encoder\): give another file, or the same options"),
        ({"window_s": 3.0}, r"another window_s \(2, not 3\): give another file"),
        (
            {"sample_rate": 8000, "dtype": "float16"},
            r"sample_rate \(16000, not 8000\) and dtype \(float32, not float16\)",
        ),
    ],
)
def test_other_settings_are_refused_and_the_path_of_the_model_is_not(path, changes, words):
    make(path, {"a.wav": RNG.uniform(size=(1, 8))})
    with pytest.raises(StoreError, match=words), open_for_writing(path, settings(**changes)):
        pass
    with open_for_writing(path, settings(model="elsewhere")) as store:
        assert store.counts()["passages"] == 1


def test_a_second_writer_is_refused_and_a_reader_is_not(path):
    with open_for_writing(path, settings()) as store:
        add(store, "a.wav", RNG.uniform(size=(1, 8)))
        with (
            pytest.raises(StoreAccessError, match="is being written by another process: wait for its end"),
            open_for_writing(path, settings()),
        ):
            pass
        with Store(path) as reader:
            assert reader.counts()["passages"] == 1
    with open_for_writing(path, settings()) as store:
        assert add(store, "b.wav", RNG.uniform(size=(1, 8)))


def test_a_full_disk_is_one_sentence_and_nothing_is_half_written(path):
    with open_for_writing(path, settings()) as store:
        add(store, "a.wav", RNG.uniform(size=(2, 8)))
        (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
        store._connection.execute(f"PRAGMA max_page_count={pages}")
        with pytest.raises(StoreAccessError, match="could not be written .*full.*: free some space and run the same"):
            add(store, "b.wav", RNG.uniform(size=(2000, 8)))
        store._connection.execute("PRAGMA max_page_count=1000000")
        assert store.counts() == {"recordings": 1, "files": 1, "passages": 2}
        assert add(store, "b.wav", RNG.uniform(size=(2000, 8)))


@pytest.mark.parametrize("bad", [1e6, np.nan])
def test_values_that_the_type_cannot_hold(path, bad):
    vectors = RNG.uniform(size=(2, 8))
    vectors[1, 3] = bad
    with open_for_writing(path, settings(dtype="float16")) as store:
        with pytest.raises(RangeError, match=r"a\.wav: an embedding is not finite"):
            add(store, "a.wav", vectors)
        assert store.counts()["recordings"] == 0


def test_files_that_are_no_store(path, tmp_path):
    with pytest.raises(StoreError, match="does not exist: create it with esc-jax embed --index="):
        Store(path)
    path.write_text("no database" * 100)
    for open_it in (lambda: Store(path), lambda: open_for_writing(path, settings()).__enter__()):
        with pytest.raises(StoreError, match="is not a store of esc-jax embed --index"):
            open_it()
    other = tmp_path / "other.db"
    import sqlite3

    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    with pytest.raises(StoreError, match="is not a store"):
        Store(other)


def test_a_damaged_store_is_one_sentence(path):
    make(path, {f"{i}.wav": RNG.uniform(size=(50, 8)) for i in range(20)})
    content = bytearray(path.read_bytes())
    content[4096:] = RNG.integers(0, 256, len(content) - 4096, np.uint8).tobytes()
    path.write_bytes(content)
    with pytest.raises((StoreError, StoreAccessError)):
        with Store(path) as store:
            list(store.blocks())


def test_an_embedding_of_another_length_is_damage(path):
    make(path, {"a.wav": RNG.uniform(size=(2, 8))})
    with Store(path) as store:
        store._connection.execute("UPDATE passages SET embedding = x'0000' WHERE id = 1")
        with pytest.raises(StoreError, match="is damaged"):
            list(store.blocks())


KILLED = """
import os, pathlib, sqlite3, sys
import numpy as np
from esc_jax.inference import index_store
from tests.inference.stores import add, settings
steps = int(sys.argv[2])
class Connection(sqlite3.Connection):  # ends the process before the statement with this number
    def execute(self, *arguments):
        global steps
        steps -= 1
        if not steps:
            os._exit(9)
        return super().execute(*arguments)
    def executemany(self, *arguments):
        self.execute("SELECT 1")
        return super().executemany(*arguments)
connect = sqlite3.connect
sqlite3.connect = lambda *a, **k: connect(*a, **k, factory=Connection)
with index_store.open_for_writing(pathlib.Path(sys.argv[1]), settings()) as store:
    for name in "abcd":
        if store.recording_of(name) is None:
            add(store, name, np.full((3, 8), ord(name)), name)
print(store.path)
"""


def test_a_killed_writer_loses_one_recording_at_most_and_nothing_stands_twice(path):
    """The writer is killed before its 1st, 2nd, … statement after those of the last call, until it reaches the end."""
    for step in range(1, 60, 3):
        command = [sys.executable, "-c", KILLED, path, str(step)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": "."})
        assert done.returncode in (0, 9), done.stderr
        if step > 10 or done.returncode == 0:
            with Store(path) as store:
                counts = store.counts()
                assert counts["passages"] == 3 * counts["recordings"] and counts["files"] == counts["recordings"]
        if done.returncode == 0:
            break
    with Store(path) as store:
        assert store.counts() == {"recordings": 4, "files": 4, "passages": 12}
        np.testing.assert_array_equal(np.concatenate([x for _, x in store.blocks()])[:, 0], np.repeat([*b"abcd"], 3))


def test_the_hash_is_that_of_the_content(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert index_store.content_hash(tmp_path / "a").startswith("ba7816bf8f01cfea414140de5dae2223")  # FIPS 180-2
