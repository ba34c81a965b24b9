"""Files that appear whole or not at all, and what tells the content of one from another's."""

from collections.abc import Iterable, Iterator
from concurrent import futures
import contextlib
import os
import pathlib
from typing import IO
import zlib

_BLOCK = 1 << 20


@contextlib.contextmanager
def replacing(path: pathlib.Path, mode: str = "wb", newline: str | None = None) -> Iterator[IO]:
    """A file to write, which takes the place of `path` in one rename at the end; where something is raised, it is gone.

    Processes that write the same file at once do not disturb one another: the last rename counts.

    Args:
        path: to be written; its folder exists.
        mode, newline: of `open`.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, mode, newline=newline) as file:
            yield file
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def checksums(paths: Iterable[str | os.PathLike]) -> list[tuple[int, int] | None]:
    """Size and CRC-32 of the content of every file, as a zip's directory has them; None where it cannot be read.

    600 MB take a second of one core; the threads share them, for CRC and reading release the interpreter's lock.
    """

    def checksum(path) -> tuple[int, int] | None:
        size = crc = 0
        try:
            with open(path, "rb", buffering=0) as file:
                while block := file.read(_BLOCK):
                    size, crc = size + len(block), zlib.crc32(block, crc)
        except OSError:
            return None
        return size, crc

    with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(checksum, paths))
