"""The manifest of an archive: a csv file with a row for each recording that was finished, or failed.

Several processes append to it. The last row of a recording counts.
"""

import csv
import io
import os
import pathlib
import time
from typing import BinaryIO

from esc_jax import files
from esc_jax.errors import UserError
from esc_jax.evaluation.escaping import escape_cell, restore_cell
from esc_jax.inference.output import BOM
from esc_jax.inference.parallel import Outcome

COLUMNS = ("file", "status", "duration_s", "seconds", "finished", "modified_ns", "note")


class ManifestError(UserError, ValueError):
    """A manifest that cannot be read. The message is one sentence."""


class Manifest:
    """The rows of a manifest.

    Args:
        path: of the file; the first row creates it.
        lock: file that is locked while a row is appended.
        bom: begin the file with a byte order mark.

    Attributes:
        finished: recording → its modification time before it was read, and the note of its results.
        missing: recordings that could not be found according to their last row. Their results remain.
    """

    def __init__(self, path: pathlib.Path, lock: pathlib.Path, *, bom: bool = False):
        self._path, self._lock, self._bom = path, lock, bom
        self.finished: dict[str, tuple[str, str]] = {}
        self.missing: set[str] = set()
        self._read_bytes = 0

    def append(self, outcome: Outcome, modified_ns: int | None) -> None:
        """Appends a row; `read` takes it up.

        Args:
            outcome: of a recording.
            modified_ns: its modification time before it was read. None where the recording could not be found.
        """
        buffer = io.StringIO(newline="")
        writer = csv.writer(buffer)
        times = f"{outcome.duration_s:.2f}", f"{outcome.seconds:.2f}"
        modified = "" if modified_ns is None else str(modified_ns)
        finished = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        with files.file_lock(self._lock), open(self._path, "ab+") as file:
            file.seek(0)
            if not file.readline().endswith(b"\n"):
                file.truncate(0)
                buffer.write(BOM if self._bom else "")
                writer.writerow(COLUMNS)
            buffer.write(_end_of_row(file))
            cells = outcome.status, *times, finished, modified, escape_cell(outcome.note)
            writer.writerow([escape_cell(outcome.file), *cells])
            file.write(buffer.getvalue().encode("utf-8", errors="surrogateescape"))

    def read(self) -> list[str]:
        """Reads the rows that were appended since the last call. A half row at the end is read when it is completed.

        Returns:
            The recordings that were finished, in the order of their rows.

        Raises:
            ManifestError: the file is no csv file.
        """
        try:
            with open(self._path, "rb") as file:
                file.seek(self._read_bytes)
                content = file.read()
        except FileNotFoundError:
            return []
        content = content[: content.rfind(b"\n") + 1]
        self._read_bytes += len(content)
        try:
            rows = list(csv.reader(io.StringIO(content.decode("utf-8", errors="surrogateescape"), newline="")))
        except csv.Error:
            raise ManifestError(f"{self._path} is damaged: remove it, and run the same command again") from None
        done = []
        for row in rows:
            if len(row) != len(COLUMNS):
                continue
            name, status, modified, note = restore_cell(row[0]), row[1], row[-2], restore_cell(row[-1])
            if status == "done":
                self.finished[name] = modified, note
                self.missing.discard(name)
                done.append(name)
            elif modified:
                self.finished.pop(name, None)
            else:
                self.missing.add(name)
        return done


def _end_of_row(file: BinaryIO) -> str:
    """What ends a half row at the end of a csv file, which a full disk or a crash of the machine can leave."""
    if not file.seek(0, os.SEEK_END):
        return ""
    file.seek(-1, os.SEEK_END)
    if file.read() == b"\n":
        return ""
    file.seek(0)
    return '"\n' if file.read().count(b'"') % 2 else "\n"
