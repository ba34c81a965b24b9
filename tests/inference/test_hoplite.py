"""The layout of perch-hoplite, by sqlite3 and usearch themselves, and by the package where it is installed."""

import json
import sqlite3

import numpy as np
import pytest

from esc_jax.cli import embed, probe
from esc_jax.inference import hoplite, index
from esc_jax.inference.hoplite import HopliteError
from esc_jax.inference.index_store import Store
from esc_jax.inference.labels import Label
from tests.inference.stores import make

usearch = pytest.importorskip("usearch.index")
X = np.random.default_rng(0).standard_normal((9, 8)).astype(np.float32)
# Tables and columns of perch-hoplite 1.0.2.
COLUMNS = {
    "hoplite_metadata": ["key", "value"],
    "deployments": ["id", "name", "project", "latitude", "longitude"],
    "recordings": ["id", "filename", "datetime", "deployment_id"],
    "windows": ["id", "recording_id", "offsets"],
    "annotations": ["id", "recording_id", "offsets", "label", "label_type", "provenance"],
}


@pytest.fixture
def store(tmp_path):
    with Store(make(tmp_path / "a.db", {"north/a.wav": X[:4], "south/b.wav": X[4:7], "c.wav": X[7:]})) as opened:
        yield opened


@pytest.fixture
def folder(store, tmp_path):
    hoplite.write_database(store, tmp_path / "hoplite")
    return tmp_path / "hoplite"


def query(folder, statement, *values):
    with sqlite3.connect(folder / "hoplite.sqlite") as connection:
        return connection.execute(statement, values).fetchall()


def annotate(folder, recording, start, end, label, kind=1):
    offsets = np.array([start, end], "<f8").tobytes()
    query(folder, "INSERT INTO annotations VALUES (NULL, ?, ?, ?, ?, 'test')", recording, offsets, label, kind)


def test_tables_and_vectors(store, folder):
    for table, names in COLUMNS.items():
        assert [row[1] for row in query(folder, f"PRAGMA table_info({table})")] == names
    joined = "recordings JOIN deployments d ON d.id = deployment_id"
    assert sorted(query(folder, f"SELECT filename, name, project FROM {joined}")) == [
        ("c.wav", "esc_jax", "esc_jax"), ("north/a.wav", "north", "esc_jax"), ("south/b.wav", "south", "esc_jax"),
    ]  # fmt: skip
    metadata = {key: json.loads(value) for key, value in query(folder, "SELECT * FROM hoplite_metadata")}
    assert metadata["usearch_config"] == {
        "embedding_dim": 8, "dtype": "float16", "metric_name": "IP", "expansion_add": 256, "expansion_search": 128,
    }  # fmt: skip
    assert metadata["audio_sources"]["audio_globs"][0]["base_path"] == "/archive"
    vectors = usearch.Index(ndim=8, path=folder / "usearch.index", view=True)
    rows = query(folder, "SELECT id, recording_id, offsets FROM windows")
    assert len(rows) == len(vectors) == 9
    assert usearch.Index.metadata(folder / "usearch.index")["kind_metric"] == usearch.MetricKind.IP
    for number, recording, offsets in rows:
        (passage,) = store.passages([number])
        assert (recording, passage.start_s, passage.end_s) == (passage.recording, *np.frombuffer(offsets, "<f8"))
        kept = vectors.get(number).astype(np.float32)
        np.testing.assert_allclose(kept, index.unit(X[number - 1 : number])[0], atol=1e-3)


def test_annotations_are_labels(folder):
    annotate(folder, 1, 0.0, 2.0, "frog")
    annotate(folder, 2, 1.0, 3.0, "frog", kind=0)  # it is not there
    annotate(folder, 2, 1.0, 3.0, "owl")
    assert hoplite.read_labels(folder) == [
        Label("/archive/north/a.wav", 0.0, 2.0, "frog"), Label("/archive/south/b.wav", 1.0, 3.0, "owl"),
    ]  # fmt: skip


def test_a_detector_from_annotations(store, folder, capsys):
    for recording, label in ((1, "frog"), (2, "owl")):
        for start in (0, 2):
            annotate(folder, recording, float(start), start + 1.5, label)
    assert probe.main([f"--index={store.path}", f"--labels={folder}", "--next=1"]) == 0
    assert "labelled passages: frog 3, owl 3" in capsys.readouterr().out


def test_folders_that_cannot_be_used(store, folder, tmp_path, capsys):
    with pytest.raises(HopliteError, match="exists and is not empty: give a new folder"):
        hoplite.write_database(store, folder)
    (tmp_path / "other").mkdir()
    with pytest.raises(HopliteError, match=r"has no hoplite\.sqlite"):
        hoplite.read_labels(tmp_path / "other")
    (tmp_path / "other/hoplite.sqlite").write_bytes(b"nothing of that kind" * 100)
    with pytest.raises(HopliteError, match=r"is not a database of perch-hoplite 1\.0"):
        hoplite.read_labels(tmp_path / "other")
    assert probe.main([f"--index={store.path}", f"--labels={tmp_path / 'other'}"]) == 2
    assert "not a database of perch-hoplite" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        embed.main(["--model=x", "--out=o.npz", f"--hoplite={folder}", "a.wav"])
    assert stopped.value.code == 2 and "--hoplite needs --index=DB" in capsys.readouterr().err


def test_an_empty_store(tmp_path):
    with Store(make(tmp_path / "a.db", {})) as store:
        hoplite.write_database(store, tmp_path / "hoplite")
    assert query(tmp_path / "hoplite", "SELECT count(*) FROM windows") == [(0,)]


def test_the_package_reads_it(store, folder):
    """perch-hoplite itself: embeddings, recordings, search by inner product, and an annotation that comes back."""
    module = pytest.importorskip("perch_hoplite.db.sqlite_usearch_impl")
    database = module.SQLiteUSearchDB.create(str(folder))
    assert database.count_embeddings() == 9 and database.get_embedding_dim() == 8
    window = database.get_window(5)
    assert (window.recording_id, window.offsets) == (2, [0.0, 2.0])
    found = database.search(index.unit(X[:1])[0], 9)
    expected, similarity = index.exact(store)(X[:1], 9)
    assert [one.window_id for one in found] == expected.tolist()
    np.testing.assert_allclose([one.sort_score for one in found], similarity, atol=2e-3)
    database.insert_annotation(2, [0.0, 2.0], "frog", 1, "test")
    database.commit()
    assert hoplite.read_labels(folder) == [Label("/archive/south/b.wav", 0.0, 2.0, "frog")]
