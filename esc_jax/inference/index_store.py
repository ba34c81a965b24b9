"""A store of the embeddings of an archive of recordings: one SQLite file.

    settings     what the embeddings depend on: encoder, sample rate, window, hop, dimension, type
    recordings   SHA-256 of the content, duration, note
    files        paths of each recording, with size and modification time: copies share the embeddings of one recording
    passages     recording, start, end and embedding of each window

A recording is added in one transaction. If the process ends, the store has all of it or nothing.
"""

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import sqlite3
import threading
from typing import Any, NamedTuple

import filelock
import numpy as np

from esc_jax import files
from esc_jax.errors import Failure, UserError

_APPLICATION, _VERSION = 0x4553_4A58, 1  # in the header of the file
_TIMEOUT_S = 60.0  # to wait for a transaction of another process
_ROWS = 8192  # read at a time
_PARAMETERS = 500  # of one statement
_SCHEMA = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE recordings (
  id INTEGER PRIMARY KEY AUTOINCREMENT, sha256 TEXT NOT NULL UNIQUE, duration_s REAL NOT NULL, note TEXT NOT NULL);
CREATE TABLE files (
  path TEXT PRIMARY KEY, recording INTEGER NOT NULL REFERENCES recordings, size INTEGER NOT NULL,
  mtime_ns INTEGER NOT NULL);
CREATE INDEX files_of_recordings ON files (recording);
CREATE TABLE passages (
  id INTEGER PRIMARY KEY AUTOINCREMENT, recording INTEGER NOT NULL REFERENCES recordings, start_s REAL NOT NULL,
  end_s REAL NOT NULL, embedding BLOB NOT NULL, UNIQUE (recording, start_s));
"""


class StoreError(UserError, ValueError):
    """A store that cannot be used, or not with these options. The message is one sentence."""


class StoreAccessError(Failure):
    """A store that could not be read or written now. The message is one sentence."""


class RangeError(Failure, ValueError):
    """Embeddings that the type of a store cannot hold. The message is one sentence."""


@dataclasses.dataclass(frozen=True)
class StoreSettings:
    """What the embeddings of a store depend on.

    Attributes:
        model: name or path of the encoder, to load it again.
        encoder: its fingerprint (`inference.embeddings.encoder_fingerprint`).
        sample_rate: Hz.
        window_s: length of a passage, s.
        hop_s: between the starts of passages, s.
        dimension: D.
        dtype: of the stored embeddings, "float16" or "float32".
    """

    model: str
    encoder: str
    sample_rate: int
    window_s: float
    hop_s: float
    dimension: int
    dtype: str = "float16"

    def differences(self, other: "StoreSettings") -> list[str]:
        """What differs from other settings, in words; the path of the model does not count."""
        ours, theirs = dataclasses.asdict(self), dataclasses.asdict(other)
        names = [name for name in ours if name != "model" and ours[name] != theirs[name]]
        if "encoder" in names:
            names = [name for name in names if name != "dimension"]
        return [
            f"encoder ({self.model})"
            if name == "encoder"
            else f"{name} ({_short(ours[name])}, not {_short(theirs[name])})"
            for name in names
        ]


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


class Passage(NamedTuple):
    """A window of a recording: number of the passage and of its recording, begin and end in seconds."""

    id: int
    recording: int
    start_s: float
    end_s: float


def content_hash(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _sentences(path: pathlib.Path) -> Iterator[None]:
    """Turns errors of SQLite into errors with one sentence."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorname", None) or ""
        if code == "SQLITE_NOTADB":
            raise StoreError(f"{path} is not a store of esc-jax embed --index") from None
        if code.startswith("SQLITE_CORRUPT"):
            raise StoreError(f"{path} is damaged ({error}): delete it and embed the recordings again") from None
        if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            raise StoreAccessError(f"{path} is being written by another process: wait for its end") from None
        if code.startswith(("SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_FSYNC", "SQLITE_IOERR_TRUNCATE")):
            sentence = f"{path} could not be written ({error}): free some space and run the same command again"
            raise StoreAccessError(sentence) from None
        raise StoreAccessError(f"{path} cannot be used ({error})") from None


class Store:
    """An open store. Methods that write may be called from several threads.

    Args:
        path: of an existing store.

    Attributes:
        settings: of all embeddings.

    Raises:
        StoreError: it does not exist, is no store, is damaged, or was written by another version.
        StoreAccessError: it cannot be read.
    """

    def __init__(self, path: pathlib.Path):
        if not path.is_file():
            raise StoreError(f"{path} does not exist: create it with esc-jax embed --index={path}")
        self.path = path
        self._lock = threading.RLock()
        with _sentences(path):
            self._connection = _connect(path, "rw")
            try:
                self.settings = self._read_settings()
            except BaseException:
                self._connection.close()
                raise

    def _read_settings(self) -> StoreSettings:
        (application,), (version,) = (
            self._connection.execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version")
        )
        if application != _APPLICATION:
            raise StoreError(f"{self.path} is not a store of esc-jax embed --index")
        if version != _VERSION:
            raise StoreError(f"{self.path} was written by another version of esc_jax: embed the recordings again")
        try:
            values = dict(self._connection.execute("SELECT name, value FROM settings"))
            return StoreSettings(**{name: json.loads(value) for name, value in values.items()})
        except (TypeError, ValueError):
            raise StoreError(f"{self.path} is damaged (its settings): embed the recordings again") from None

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, _sentences(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # SQLite itself rolls back after some errors
                    self._connection.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """What is read inside is of one moment. A process that adds a recording waits for the end."""
        with self._lock, _sentences(self.path):
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                self._connection.execute("COMMIT")

    # What is inside -------------------------------------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """Numbers of recordings, files and passages."""
        with self._lock, _sentences(self.path):
            return {
                name: self._connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0]
                for name in ("recordings", "files", "passages")
            }

    def count_after(self, number: int) -> int:
        """Number of passages with larger numbers."""
        # Without a condition, SQLite counts in the small index; with one, it reads the pages of the embeddings.
        condition = " WHERE id > ?" if number else ""
        with self._lock, _sentences(self.path):
            statement = f"SELECT count(*) FROM passages{condition}"
            return self._connection.execute(statement, (int(number),) if number else ()).fetchone()[0]

    def is_known(self, path: str, size: int, mtime_ns: int) -> bool:
        """Whether the store has this file, with this size and modification time."""
        with self._lock, _sentences(self.path):
            row = self._connection.execute(
                "SELECT size, mtime_ns FROM files WHERE path = CAST(? AS TEXT)", (os.fsencode(path),)
            ).fetchone()
        return row == (size, mtime_ns)

    def recording_of(self, sha256: str) -> int | None:
        """Number of the recording with this content; None if the store does not have it."""
        with self._lock, _sentences(self.path):
            row = self._connection.execute("SELECT id FROM recordings WHERE sha256 = ?", (sha256,)).fetchone()
        return None if row is None else row[0]

    def files(self) -> dict[str, int]:
        """Path → number of the recording."""
        with self._lock, _sentences(self.path):
            return dict(self._connection.execute("SELECT path, recording FROM files ORDER BY rowid"))

    def path_of(self, recording: int) -> str:
        """Path of a recording: of its files, the first that exists, or else the first."""
        with self._lock, _sentences(self.path):
            rows = self._connection.execute("SELECT path FROM files WHERE recording = ? ORDER BY rowid", (recording,))
            paths = [row[0] for row in rows]
        return next((path for path in paths if os.path.exists(path)), paths[0])

    def passages(self, numbers: Sequence[int] | np.ndarray) -> list[Passage]:
        """The passages with these numbers, in the same order, without those that were removed."""
        found = {row[0]: Passage(*row) for row in self._select("id, recording, start_s, end_s", numbers)}
        return [found[int(number)] for number in numbers if int(number) in found]

    def _select(self, columns: str, numbers: Sequence[int] | np.ndarray) -> Iterator[tuple[Any, ...]]:
        """Yields the columns of the passages with these numbers, in any order."""
        for first in range(0, len(numbers), _PARAMETERS):
            part = [int(number) for number in numbers[first : first + _PARAMETERS]]
            statement = f"SELECT {columns} FROM passages WHERE id IN ({','.join('?' * len(part))})"
            with self._lock, _sentences(self.path):
                rows = self._connection.execute(statement, part).fetchall()
            yield from rows

    def passages_of(self, recording: int) -> list[Passage]:
        """All passages of a recording in the order of time."""
        statement = "SELECT id, recording, start_s, end_s FROM passages WHERE recording = ? ORDER BY start_s"
        with self._lock, _sentences(self.path):
            return [Passage(*row) for row in self._connection.execute(statement, (recording,))]

    def numbers(self) -> np.ndarray:
        """(n,) int64 numbers of all passages, ascending. A number is never used again."""
        with self._lock, _sentences(self.path):
            rows = self._connection.execute("SELECT id FROM passages ORDER BY id").fetchall()
        return np.array([row[0] for row in rows], np.int64)

    def embeddings(self, numbers: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n,) those of the numbers that were not removed, and (n, D) float32 embeddings."""
        found: dict[int, bytes] = dict(self._select("id, embedding", numbers))
        kept = [int(number) for number in numbers if int(number) in found]
        return np.array(kept, np.int64), self._array([found[number] for number in kept])

    def blocks(self, after: int = 0, rows: int = _ROWS) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields (n,) numbers and (n, D) float32 embeddings of all passages in the order of their numbers.

        Args:
            after: only passages with larger numbers.
            rows: largest n.
        """
        last = after
        while True:  # one statement for each block: a long one would keep writers waiting
            with self._lock, _sentences(self.path):
                part = self._connection.execute(
                    "SELECT id, embedding FROM passages WHERE id > ? ORDER BY id LIMIT ?", (int(last), rows)
                ).fetchall()
            if not part:
                return
            last = part[-1][0]
            yield np.array([row[0] for row in part], np.int64), self._array([row[1] for row in part])

    def _array(self, blobs: Sequence[bytes]) -> np.ndarray:
        dtype = np.dtype(self.settings.dtype)
        if {len(blob) for blob in blobs} - {self.settings.dimension * dtype.itemsize}:
            raise StoreError(f"{self.path} is damaged (an embedding has the wrong length): embed the recordings again")
        values = np.frombuffer(b"".join(blobs), dtype)
        return values.reshape(len(blobs), self.settings.dimension).astype(np.float32)

    # Writing --------------------------------------------------------------------------------------------------------

    def add(
        self, path: str, sha256: str, size: int, mtime_ns: int, duration_s: float, note: str,
        starts_s: np.ndarray, embeddings: np.ndarray,
    ) -> bool:  # fmt: skip
        """Adds a recording with its passages, in one transaction.

        Args:
            path, sha256, size, mtime_ns: of the file.
            duration_s: of the recording.
            note: a sentence on what is wrong with it, or "".
            starts_s: (n,) of the passages.
            embeddings: (n, D).

        Returns:
            Whether it is new. The content may have been added under another name meanwhile; then only the name is.

        Raises:
            RangeError: an embedding is outside of the range of the stored type.
            StoreAccessError: the disk is full. Nothing was added.
        """
        with np.errstate(over="ignore"):
            values = np.ascontiguousarray(embeddings, self.settings.dtype)
        if not np.isfinite(values).all():
            wide = " or too large for float16: use a new store with --dtype=float32"
            raise RangeError(f"{path}: an embedding is not finite{wide if self.settings.dtype == 'float16' else ''}")
        ends = np.minimum(starts_s + self.settings.window_s, duration_s)
        with self._transaction() as connection:
            row = connection.execute("SELECT id FROM recordings WHERE sha256 = ?", (sha256,)).fetchone()
            new = row is None
            if new:
                cursor = connection.execute(
                    "INSERT INTO recordings (sha256, duration_s, note) VALUES (?, ?, ?)", (sha256, duration_s, note)
                )
                rows = zip(starts_s.tolist(), ends.tolist(), values, strict=True)
                connection.executemany(
                    "INSERT INTO passages (recording, start_s, end_s, embedding) VALUES (?, ?, ?, ?)",
                    [(cursor.lastrowid, start, end, vector.tobytes()) for start, end, vector in rows],
                )
            recording = int(cursor.lastrowid or 0) if new else row[0]
            self._set_file(connection, path, recording, size, mtime_ns)
        return new

    def add_copy(self, path: str, recording: int, size: int, mtime_ns: int) -> None:
        """Adds a file whose content is that of a recording of the store."""
        with self._transaction() as connection:
            self._set_file(connection, path, recording, size, mtime_ns)

    @staticmethod
    def _set_file(connection: sqlite3.Connection, path: str, recording: int, size: int, mtime_ns: int) -> None:
        """Enters a file. The recording that it was before is removed if no other file has it."""
        name = os.fsencode(path)
        before = connection.execute("SELECT recording FROM files WHERE path = CAST(? AS TEXT)", (name,)).fetchone()
        connection.execute(
            "INSERT OR REPLACE INTO files (path, recording, size, mtime_ns) VALUES (CAST(? AS TEXT), ?, ?, ?)",
            (name, recording, size, mtime_ns),
        )
        used = before and connection.execute("SELECT 1 FROM files WHERE recording = ?", before).fetchone()
        if before and not used:
            connection.execute("DELETE FROM passages WHERE recording = ?", before)
            connection.execute("DELETE FROM recordings WHERE id = ?", before)


def _connect(path: pathlib.Path, mode: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}", _TIMEOUT_S, isolation_level=None, check_same_thread=False, uri=True
    )
    connection.text_factory = os.fsdecode  # names of files need not be valid UTF-8
    return connection


def _create(path: pathlib.Path, settings: StoreSettings) -> None:
    """Makes a file an empty store, if it is new or empty, as a process leaves it that is killed in here."""
    with _sentences(path):
        connection = _connect(path, "rwc")
        try:
            if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                return
            values = [(name, json.dumps(value)) for name, value in dataclasses.asdict(settings).items()]
            connection.executescript(
                f"BEGIN; {_SCHEMA} PRAGMA application_id={_APPLICATION}; PRAGMA user_version={_VERSION};"
            )
            connection.executemany("INSERT INTO settings VALUES (?, ?)", values)
            connection.execute("COMMIT")
        finally:
            connection.close()


@contextlib.contextmanager
def open_for_writing(path: pathlib.Path, settings: StoreSettings) -> Iterator[Store]:
    """Opens a store, or creates it, for the one process that may write it. Others can search it meanwhile.

    Args:
        path: of the file; its folder is created.
        settings: of the embeddings that will be added.

    Raises:
        StoreError: the store has embeddings with other settings, or is none.
        StoreAccessError: another process writes it, or the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with files.file_lock(path.with_name(f"{path.name}.lock"), blocking=False):
            _create(path, settings)
            with Store(path) as store:
                if different := store.settings.differences(settings):
                    raise StoreError(
                        f"{path} has passages of another {' and '.join(different)}: give another file, or the same"
                        " options"
                    )
                yield store
    except filelock.Timeout:
        sentence = f"{path} is being written by another process: wait for its end, or give another file"
        raise StoreAccessError(sentence) from None
