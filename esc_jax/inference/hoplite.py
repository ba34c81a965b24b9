"""The layout of perch-hoplite: an embedding store as a folder that its tools read, and the annotations made there.

A database of perch-hoplite 1.0 is a folder with hoplite.sqlite (metadata, deployments, recordings, windows,
annotations) and usearch.index, which has the embeddings under the numbers of the windows. The package itself is not
needed. Source: https://github.com/google-research/perch-hoplite, `db/sqlite_usearch_impl.py` of 1.0.0 to 1.0.2.
"""

from collections.abc import Callable
import contextlib
import dataclasses
import json
import os
import pathlib
import sqlite3
from typing import Any

import numpy as np

from esc_jax.errors import Failure, UserError
from esc_jax.inference.index import unit
from esc_jax.inference.index_store import Store
from esc_jax.inference.labels import Label

TABLES, VECTORS = "hoplite.sqlite", "usearch.index"
_PROJECT = "esc_jax"
_POSITIVE = 1  # of an annotation: the sound is there
_WIDTHS = {"expansion_add": 256, "expansion_search": 128}  # of the graph: the defaults of perch-hoplite
_ROWS = 16_384
_SCHEMA = """
CREATE TABLE hoplite_metadata (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE deployments (
  id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, project TEXT NOT NULL, latitude REAL, longitude REAL,
  UNIQUE (name, project));
CREATE TABLE recordings (
  id INTEGER PRIMARY KEY AUTOINCREMENT, filename TEXT NOT NULL, datetime TEXT,
  deployment_id INTEGER REFERENCES deployments(id) ON DELETE CASCADE,
  UNIQUE (id, deployment_id), UNIQUE (filename, deployment_id));
CREATE TABLE windows (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  recording_id INTEGER NOT NULL REFERENCES recordings(id) ON DELETE CASCADE,
  offsets FLOAT_LIST NOT NULL, UNIQUE (id, recording_id, offsets));
CREATE TABLE annotations (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  recording_id INTEGER NOT NULL REFERENCES recordings(id) ON DELETE CASCADE,
  offsets FLOAT_LIST NOT NULL, label TEXT NOT NULL, label_type INTEGER NOT NULL, provenance TEXT NOT NULL,
  UNIQUE (id, recording_id, offsets));
CREATE INDEX idx_annotations ON annotations(recording_id, offsets, label, label_type, provenance);
CREATE INDEX idx_labels ON annotations(label, label_type, provenance);
CREATE INDEX idx_recordings_deployment_id ON recordings(deployment_id);
CREATE INDEX idx_windows_recording_id ON windows(recording_id);
"""


class HopliteError(UserError, ValueError):
    """A folder that cannot be written, or has no database. The message is one sentence."""


class HopliteWriteError(Failure):
    """A database that could not be written. The message is one sentence."""


def check_folder(folder: pathlib.Path) -> None:
    """Raises HopliteError unless a folder is new or empty, and usearch is installed."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise HopliteError(f"--hoplite={folder} exists and is not empty: give a new folder")
    try:
        import usearch.index  # noqa: F401
    except ImportError:
        raise HopliteError('--hoplite needs usearch: pip install "esc-jax[search]"') from None


def write_database(store: Store, folder: pathlib.Path, progress: Callable[[int, int], None] | None = None) -> None:
    """Writes the recordings and passages of a store as a database of perch-hoplite.

    Windows have the numbers of the passages. Embeddings are scaled to length one, so that the inner product, by which
    perch-hoplite ranks, is the cosine. A recording has one name, relative to the folder that all recordings are in; its
    deployment is the first folder of the name.

    Args:
        store: that is read.
        folder: new or empty. If the process ends before the function does, it has no usearch.index.
        progress: called with the number of passages written and of all.

    Raises:
        HopliteError: the folder is not empty, or usearch is not installed.
        HopliteWriteError: the disk is full, or the folder cannot be written.
    """
    check_folder(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with store.snapshot(), contextlib.closing(sqlite3.connect(folder / TABLES)) as connection:
            connection.executescript(_SCHEMA)
            _write_tables(store, connection)
            vectors = _vectors(store, connection, progress)
            connection.commit()
        vectors.save(str(folder / VECTORS))
    except (OSError, RuntimeError, sqlite3.Error) as error:
        raise HopliteWriteError(f"--hoplite={folder} could not be written ({error})") from None


def _write_tables(store: Store, connection: sqlite3.Connection) -> None:
    settings = store.settings
    paths = {recording: store.path_of(recording) for recording in sorted(set(store.files().values()))}
    base = os.path.commonpath([os.path.dirname(path) for path in paths.values()]) if paths else "/"
    source = {
        "dataset_name": _PROJECT,
        "base_path": _text(base),
        "file_glob": "**/*",
        "min_audio_len_s": 0.0,
        "target_sample_rate_hz": settings.sample_rate,
        "shard_len_s": None,
        "max_shards_per_file": None,
    }
    config = {"embedding_dim": settings.dimension, "dtype": "float16", "metric_name": "IP", **_WIDTHS}
    metadata: dict[str, Any] = {
        "usearch_config": config,
        "audio_sources": {"audio_globs": [source]},
        "model_config": {
            "model_key": _PROJECT,
            "embedding_dim": settings.dimension,
            "model_config": dataclasses.asdict(settings),
            "logits_key": None,
            "logits_idxes": None,
        },
    }
    rows = [(name, json.dumps(value)) for name, value in metadata.items()]
    connection.executemany("INSERT INTO hoplite_metadata VALUES (?, ?)", rows)
    deployments: dict[str, int] = {}
    for recording, path in paths.items():
        name = os.path.relpath(path, base).replace(os.sep, "/")
        site = _text(name.split("/")[0]) if "/" in name else _PROJECT
        number = deployments.setdefault(site, len(deployments) + 1)
        connection.execute("INSERT OR IGNORE INTO deployments VALUES (?, ?, ?, NULL, NULL)", (number, site, _PROJECT))
        connection.execute("INSERT INTO recordings VALUES (?, ?, NULL, ?)", (recording, _text(name), number))


def _vectors(store: Store, connection: sqlite3.Connection, progress: Callable[[int, int], None] | None) -> Any:
    """Writes the windows, and returns the index of their embeddings."""
    from usearch.index import Index

    vectors = Index(ndim=store.settings.dimension, metric="ip", dtype="f16", **_WIDTHS)
    total = store.count_after(0)
    for numbers, x in store.blocks(rows=_ROWS):
        rows = [
            (one.id, one.recording, np.array([one.start_s, one.end_s], "<f8").tobytes())
            for one in store.passages(numbers)
        ]
        connection.executemany("INSERT INTO windows VALUES (?, ?, ?)", rows)
        vectors.add(numbers, unit(x).astype(np.float16))
        if progress:
            progress(len(vectors), total)
    return vectors


def _text(name: str) -> str:
    """A name of a file as Unicode: names need not be valid UTF-8 on Linux."""
    return os.fsencode(name).decode("utf-8", errors="replace")


def read_labels(folder: pathlib.Path) -> list[Label]:
    """The positive annotations of a database as labels of passages, in the order in which they were made.

    Args:
        folder: of the database. The recordings are below the folders that its metadata names.

    Raises:
        HopliteError: this is no database of perch-hoplite 1.0.
    """
    path = folder / TABLES
    if not path.is_file():
        raise HopliteError(f"{folder} has no {TABLES}: give a label file, or the folder of a perch-hoplite database")
    statement = (
        "SELECT filename, offsets, label FROM annotations JOIN recordings ON recordings.id = recording_id"
        " WHERE label_type = ? ORDER BY annotations.id"
    )
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            values = dict(connection.execute("SELECT key, value FROM hoplite_metadata"))
            sources = json.loads(values.get("audio_sources", "{}")).get("audio_globs", [])
            bases = [str(source["base_path"]) for source in sources] or ["/"]
            rows = connection.execute(statement, (_POSITIVE,)).fetchall()
        return [Label(_locate(bases, name), *_times(offsets), label) for name, offsets, label in rows]
    except (sqlite3.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise HopliteError(f"{path} is not a database of perch-hoplite 1.0 ({error})") from None


def _times(offsets: bytes) -> tuple[float, float]:
    start, end = np.frombuffer(offsets, "<f8").tolist()
    return start, end


def _locate(bases: list[str], name: str) -> str:
    """The path of a recording: below the first folder that has it, or else below the first."""
    paths = [os.path.join(base, name) for base in bases]
    return next((path for path in paths if os.path.exists(path)), paths[0])
