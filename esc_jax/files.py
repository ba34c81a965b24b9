"""Files that appear whole or not at all."""

from collections.abc import Iterator
import contextlib
import os
import pathlib
from typing import IO


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
