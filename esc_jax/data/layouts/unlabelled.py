"""A folder of recordings without labels, at any depth."""

import hashlib
import os
import pathlib

from esc_jax import files
from esc_jax.data.layouts import class_folders
from esc_jax.data.rows import About, DataError, Grouping, Row
from esc_jax.data.source import read_file


class UnlabelledLayout:
    """Rows without classes of the audio files in a folder; see `rows.Layout`.

    Args:
        path: the folder.

    Raises:
        DataError: the folder does not exist, cannot be read, or holds no audio files.
    """

    about = About(description="Recordings without labels.", citation="")
    categories = ("background",)
    grouping = Grouping("names", "every file is a recording of its own")
    task = "multi_label"

    def __init__(self, path: str | os.PathLike[str]):
        self.path = files.resolve(path)
        if not self.path.is_dir():
            raise DataError(f"data.background: {self.path} is not a folder")
        self._paths = class_folders.audio_tree(self.path, "data.background").files
        if not self._paths:
            raise DataError(f"data.background: {self.path} contains no audio files")
        self.rows = tuple(Row(name, 0, (), name, "") for name in self._paths)
        contents = files.checksums(self._paths.values())
        self.fingerprint = hashlib.sha256(repr((self.rows, contents)).encode()).hexdigest()[:16]

    def where(self, row: Row) -> str:
        """Returns the name of a row's file for error messages."""
        return row.filename

    def locate(self, row: Row) -> pathlib.Path:
        """Returns the path of a recording."""
        return pathlib.Path(self._paths[row.filename])

    def read(self, row: Row) -> bytes:
        """Returns the content of a recording. Raises AudioError."""
        return read_file(self._paths[row.filename], self.where(row))
