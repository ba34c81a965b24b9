"""ArrayRecord files: written one after the other, read in any order.

`array_record` is imported when a file is opened: prediction and embedding work where it is not installed.
"""

from collections.abc import Sequence
import os
import pathlib
import sys
from types import TracebackType
from typing import Any

from esc_jax.data.rows import DataError, PreparationError
from esc_jax.errors import first_line


def _array_record() -> tuple[Any, Any]:
    """The modules of array_record that write and read. Raises DataError where it is not installed."""
    try:
        from array_record.python import array_record_data_source, array_record_module
    except ImportError as error:
        hint = f"pip install array_record ({first_line(error)})"
        if sys.platform == "win32":
            hint = "it has no packages for Windows: use WSL (https://learn.microsoft.com/windows/wsl)"
        raise DataError(f"preparing and reading a data set needs array_record; {hint}") from None
    return array_record_module, array_record_data_source


class RecordWriter:
    """Writes an ArrayRecord file, in which every record can be read on its own.

    Args:
        path: the file.

    Attributes:
        count: records written.
        num_bytes: their total size before compression.

    Raises:
        DataError: array_record is not installed; from every method also: the file cannot be written.
    """

    def __init__(self, path: pathlib.Path):
        self.count = self.num_bytes = 0
        self._path = path
        module, _ = _array_record()
        self._writer: Any = self._checked(module.ArrayRecordWriter, os.fspath(path), "group_size:1")

    def _checked(self, function: Any, *args: Any) -> Any:
        try:
            return function(*args)
        except RuntimeError as error:  # what array_record raises for any failure of the file system
            raise PreparationError(f"{self._path} cannot be written ({first_line(error)})") from None

    def write(self, record: bytes) -> None:
        """Appends a record."""
        self._checked(self._writer.write, record)
        self.count, self.num_bytes = self.count + 1, self.num_bytes + len(record)

    def __enter__(self) -> "RecordWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._checked(self._writer.close)


def open_records(paths: Sequence[str | os.PathLike[str]]) -> Sequence[bytes]:
    """Opens ArrayRecord files for random access from any thread, as the sequence of all their records.

    Raises:
        DataError: array_record is not installed.
    """
    _, module = _array_record()
    return module.ArrayRecordDataSource([os.fspath(path) for path in paths])
