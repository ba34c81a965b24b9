"""Random access to the bytes of an audio file, and to parts of it as files of their own."""

import bisect
from collections.abc import Iterable, Mapping
import io
import itertools
import os
import pathlib
import stat
from typing import IO, Any, Protocol

from esc_jax.errors import Failure


class AudioError(Failure, ValueError):
    """A file that cannot be used as audio. The message is one sentence that names the file."""


def not_regular(mode: int) -> str:
    """What a path with this `st_mode` is instead of a file, with its article; empty for a regular file."""
    if stat.S_ISREG(mode):
        return ""
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def read_file(path: str | os.PathLike[str], name: str) -> bytes:
    """Returns the content of a regular file. Raises AudioError, with the name; pipes and devices are not opened."""
    try:
        if kind := not_regular(os.stat(path).st_mode):
            raise AudioError(f"{name}: is {kind}, not an audio file")
        return pathlib.Path(path).read_bytes()
    except OSError as error:
        raise AudioError(f"{name}: cannot be read ({error.strerror})") from None


class Bytes(Protocol):
    """Bytes with random access."""

    size: int

    def read_at(self, start: int, count: int) -> bytes:
        """Returns up to `count` bytes from `start`; fewer at the end, and where the file cannot be read."""


class _Memory(io.BytesIO):
    """Bytes as a file. A position before the beginning, which libsndfile takes from damaged headers, is no error."""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return self.tell()


class Source:
    """An audio file.

    Args:
        source: a path, or the bytes of a file.
        name: of the file, for error messages.

    Attributes:
        path: of the file; None for bytes.
        size: bytes.
        name: as given.

    Raises:
        AudioError: the file is missing, not a regular file, unreadable or empty. Pipes and devices are not opened.
    """

    def __init__(self, source: bytes | str | os.PathLike[str], name: str):
        self.name = name
        self.path = None if isinstance(source, bytes) else pathlib.Path(source)
        self._content = source if isinstance(source, bytes) else b""
        self._file: IO[bytes] | None = None
        self.size = len(self._content)
        if self.path is not None:
            self.size = self._open(self.path)
        if not self.size:
            self.close()
            raise AudioError(f"{name}: the file is empty")

    def _open(self, path: pathlib.Path) -> int:
        try:
            mode = os.stat(path).st_mode
        except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL in the name
            raise AudioError(f"{self.name}: no such file") from None
        except OSError as error:
            raise AudioError(f"{self.name}: {error.strerror}") from None
        if kind := not_regular(mode):
            raise AudioError(f"{self.name}: is {kind}, not an audio file")
        try:
            self._file = open(path, "rb", buffering=1 << 16)
            return os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise AudioError(f"{self.name}: {error.strerror}") from None

    def read_at(self, start: int, count: int) -> bytes:
        """As in `Bytes`."""
        if start >= self.size:  # also of numbers that are too large for a system call
            return b""
        if self._file is None:
            return self._content[start : start + count]
        try:
            self._file.seek(start)
            return self._file.read(min(count, self.size - start))
        except OSError:  # a failing disk: libsndfile and ffmpeg, which read the same bytes, report it
            return b""

    def open(self) -> str | bytes | io.BytesIO:
        """The whole file, as soundfile takes it."""
        if self.path is None:
            return _Memory(self._content)
        return str(self.path) if os.name == "nt" else os.fsencode(self.path)  # bytes, which need not be UTF-8

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()


class View(io.RawIOBase):
    """Pieces of a file, and bytes between them, as one file to read.

    Args:
        base: the file.
        pieces: (start, stop) of a piece of `base`, or bytes.

    Attributes:
        size: bytes.
    """

    def __init__(self, base: Bytes, pieces: Iterable[bytes | tuple[int, int]]):
        super().__init__()
        self._base = base
        self._pieces = list(pieces)
        lengths = [len(p) if isinstance(p, bytes) else max(0, p[1] - p[0]) for p in self._pieces]
        self._ends = list(itertools.accumulate(lengths))
        self.size = self._ends[-1] if self._ends else 0
        self._position = 0

    @classmethod
    def patched(cls, base: Bytes, start: int, stop: int, patches: Mapping[int, bytes]) -> "View":
        """The bytes start … stop − 1 of `base` with some replaced: `patches` maps offsets in `base` to new bytes."""
        pieces: list[bytes | tuple[int, int]] = []
        for offset, content in sorted(patches.items()):
            pieces += [(start, offset), content]
            start = offset + len(content)
        return cls(base, [*pieces, (start, stop)])

    def read_at(self, start: int, count: int) -> bytes:
        """As in `Bytes`."""
        stop = min(start + count, self.size)
        parts = []
        index = bisect.bisect_right(self._ends, start)
        while start < stop:
            piece, end = self._pieces[index], min(self._ends[index], stop)
            if isinstance(piece, bytes):
                first = start - self._ends[index] + len(piece)
                parts.append(piece[first : first + end - start])
            else:
                first = start - self._ends[index] + piece[1]
                part = self._base.read_at(first, end - start)
                parts.append(part)
                if len(part) < end - start:
                    break
            start, index = end, index + 1
        return b"".join(parts)

    def readable(self) -> bool:
        """As of every file to read."""
        return True

    def seekable(self) -> bool:
        """As of every file to read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fills a buffer from the current position. Returns the number of bytes; 0 at the end."""
        content = self.read_at(self._position, len(buffer))
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves the position; it stays within the file."""
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        self._position = min(max(0, origin + offset), self.size)
        return self._position

    def tell(self) -> int:
        """The position."""
        return self._position
