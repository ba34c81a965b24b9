"""Files that appear whole or not at all, folders for one process alone, and what tells contents apart."""

from collections.abc import Iterable, Iterator
from concurrent import futures
import contextlib
import hashlib
import os
import pathlib
import shutil
import signal
import tempfile
import threading
from typing import IO
import zlib

from esc_jax.errors import Failure

_BLOCK = 1 << 20


class LockedError(Failure):
    """Another process works in the folder. The message is one sentence."""


@contextlib.contextmanager
def atomic_write(path: pathlib.Path, mode: str = "wb", newline: str | None = None) -> Iterator[IO]:
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


@contextlib.contextmanager
def exclusive_lock(folder: pathlib.Path, locks: pathlib.Path) -> Iterator[None]:
    """Refuses a folder that another process has in the same way, and keeps it until the end.

    The system lets go of it with the process, however that ends. The folder itself need not exist, and is not made.

    Args:
        folder: to be worked in.
        locks: folder of the locks, the same one in all processes. Where it cannot be written to, nobody is refused.

    Raises:
        LockedError: another process has it.
    """
    import filelock

    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    held = contextlib.nullcontext()
    try:
        locks.mkdir(parents=True, exist_ok=True)
        held = filelock.FileLock(locks / f"{name}.lock").acquire(blocking=False)
    except filelock.Timeout:
        raise LockedError(
            f"{folder} is being worked in by another process: wait for its end, or choose another --workdir"
        ) from None
    except (OSError, NotImplementedError):  # the latter: a file system without locks
        pass
    with held:
        yield


@contextlib.contextmanager
def temporary_folder(prefix: str, parent: pathlib.Path | None = None) -> Iterator[pathlib.Path]:
    """A folder that is removed at the end, and where SIGTERM ends the process.

    The signal's handler does both itself. An exception that it raised instead would be ignored where the signal comes
    in a callback of the garbage collector, and JAX has one: the process would go on.

    Args:
        prefix: of its name.
        parent: where it is made; None for the system's place.
    """
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent) as name:

        def leave(number: int, frame: object) -> None:
            shutil.rmtree(name, ignore_errors=True)
            os._exit(128 + number)

        able = threading.current_thread() is threading.main_thread()  # no other may set handlers
        before = signal.signal(signal.SIGTERM, leave) if able else None
        try:
            yield pathlib.Path(name)
        finally:
            if able:
                signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
