"""Atomic writes, locks, temporary folders and checksums."""

from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
import contextlib
import itertools
import json
import os
import pathlib
import shutil
import signal
import stat
import tempfile
import threading
from typing import IO, Any
import zlib

from esc_jax.errors import Failure

MANIFEST = "manifest.json"

_BLOCK = 1 << 20
_LONGEST_NAME = 230  # bytes: file systems allow 255, and the name of a partial file is longer
_JSON_VALUES = 1_000_000
# A task of a thread has several files: to create a future takes longer than to read a small file.
_FILES_PER_TASK, _PENDING_TASKS = 16, 256
# What ends a process from outside and can be handled. Windows has SIGBREAK (Ctrl-Break, a closed console) beside it.
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGBREAK") if hasattr(signal, name))


class LockedError(Failure):
    """Another process works in the folder. The message is one sentence."""


def expand(path: str | os.PathLike[str]) -> pathlib.Path:
    """The path with ~ and ~user at its beginning replaced by a home directory; as it is where there is none."""
    return pathlib.Path(os.path.expanduser(path))


def resolve(path: str | os.PathLike[str]) -> pathlib.Path:
    """The absolute path without symbolic links, after `expand`. A loop of links, which no file has, stays in it."""
    return pathlib.Path(os.path.realpath(expand(path)))  # Path.resolve of Python 3.11 and 3.12 raises at a loop


def _open(path: pathlib.Path, mode: str, newline: str | None, errors: str | None) -> IO[Any]:
    return open(path, mode, newline=newline, encoding=None if "b" in mode else "utf-8", errors=errors)


@contextlib.contextmanager
def atomic_write(
    path: pathlib.Path, mode: str = "wb", newline: str | None = None, errors: str | None = None
) -> Iterator[IO[Any]]:
    """Opens a file that replaces `path` in one rename at the end. If an exception is raised, `path` is unchanged.

    Processes that write the same file at once do not disturb each other: the last rename counts.

    Args:
        path: file to write; its folder exists.
        mode, newline, errors: as of `open`. Text is written as UTF-8.
    """
    encoded = os.fsencode(path.name)
    stem = path.name if len(encoded) <= _LONGEST_NAME else f"{zlib.crc32(encoded):08x}"
    partial = path.with_name(f"{stem}.{os.getpid()}.partial")
    try:
        with _open(partial, mode, newline, errors) as file:
            yield file
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def write_output(
    path: pathlib.Path, mode: str = "wb", newline: str | None = None, errors: str | None = None
) -> Iterator[IO[Any]]:
    """Opens a file that a user has named for results. Arguments are those of `atomic_write`.

    A regular file, also one behind a link, is replaced as by `atomic_write` and keeps its permissions. Pipes and
    devices are written directly, and so is a file in a folder that cannot be written.

    Raises:
        OSError: the file cannot be written; the error names `path`.
    """
    try:
        if not _is_replaceable(path):
            with _open(path, mode, newline, errors) as file:
                yield file
            return
        target = pathlib.Path(os.path.realpath(path))
        with atomic_write(target, mode, newline, errors) as file:
            with contextlib.suppress(OSError):  # there is no older file, or the file system has no permissions
                shutil.copymode(target, file.name)
            yield file
    except OSError as error:
        if error.errno is not None:
            error.filename, error.filename2 = str(path), None  # not the partial file
        raise


def _is_replaceable(path: pathlib.Path) -> bool:
    """Whether another file can take the place of `path`: it is a regular file that may be written, or there is none."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return True
    writable = os.access(path, os.W_OK) and os.access(os.path.dirname(os.path.realpath(path)), os.W_OK)
    return stat.S_ISREG(status.st_mode) and writable


def read_json(path: pathlib.Path, largest: int) -> Any:
    """Reads a JSON file that can come from a stranger.

    Args:
        path: of the file.
        largest: size of the file, bytes.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is too large, has too many values, is nested too deeply, or is no JSON.
    """
    with path.open("rb") as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise ValueError(f"it is larger than {largest >> 20} MiB")
    # In memory, a value takes up to a hundred bytes; in the file, two.
    if sum(content.count(mark) for mark in b",[{") > _JSON_VALUES:
        raise ValueError(f"it has more than {_JSON_VALUES} values")
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes a JSON file in one rename: no reader sees an incomplete file."""
    with atomic_write(path, "w") as file:
        file.write(json.dumps(value, indent=1) + "\n")


def json_checksum(value: Any) -> int:
    """CRC-32 of a JSON value, whatever the order of its keys."""
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def iter_checksums(paths: Iterable[str | os.PathLike[str]]) -> Iterator[tuple[int, int] | None]:
    """Yields size and CRC-32 of every file, as a zip archive stores them; None for what is no file, or cannot be read.

    One core reads about 600 MB/s. Files are read in parallel threads: both CRC and reading release the GIL.
    """

    def checksum(path: str | os.PathLike[str]) -> tuple[int, int] | None:
        size = crc = 0
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would block, and a device never end
                return None
            with open(path, "rb", buffering=0) as file:
                while block := file.read(_BLOCK):
                    size, crc = size + len(block), zlib.crc32(block, crc)
        except OSError:
            return None
        return size, crc

    def all_checksums(batch: list[str | os.PathLike[str]]) -> list[tuple[int, int] | None]:
        return list(map(checksum, batch))

    remaining = iter(paths)
    batches = iter(lambda: list(itertools.islice(remaining, _FILES_PER_TASK)), [])
    with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        while tasks := list(itertools.islice(batches, _PENDING_TASKS)):
            for values in pool.map(all_checksums, tasks):
                yield from values


def checksums(paths: Iterable[str | os.PathLike[str]]) -> list[tuple[int, int] | None]:
    """`iter_checksums` as a list."""
    return list(iter_checksums(paths))


def write_manifest(folder: pathlib.Path) -> None:
    """Writes manifest.json: size and CRC-32 of every file in `folder`, and a CRC-32 of the list itself."""
    names = sorted(path.name for path in folder.iterdir() if path.name != MANIFEST)
    values = checksums(folder / name for name in names)
    entries = {name: list(value) for name, value in zip(names, values, strict=True) if value is not None}
    with atomic_write(folder / MANIFEST, "w") as file:
        json.dump({"files": entries, "crc32": json_checksum(entries)}, file, indent=1)


def manifest_mismatch(folder: pathlib.Path) -> str:
    """Compares a folder with its manifest.json.

    Returns:
        The first file that is missing or does not have the content it was written with, in words; empty if all match.
        Files that the manifest does not name are ignored.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        entries = manifest["files"]
        if manifest["crc32"] != json_checksum(entries):
            return f"{MANIFEST} is damaged"
        expected = {name: tuple(entry) for name, entry in entries.items()}
    except OSError as error:
        return f"{MANIFEST} cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is damaged"
    for name, value in zip(expected, checksums(folder / name for name in expected), strict=True):
        if value != expected[name]:
            return f"{name} {'cannot be read' if value is None else 'is damaged'}"
    return ""


@contextlib.contextmanager
def file_lock(path: pathlib.Path, blocking: bool = True) -> Iterator[bool]:
    """Holds a lock that one process has at a time. The system releases it when the process ends, however it ends.

    Args:
        path: the lock file; its folder is created.
        blocking: wait for the lock; otherwise `filelock.Timeout` is raised while another process holds it.

    Yields:
        Whether the lock is held: False where the file cannot be written or the file system has no locks.
    """
    import filelock

    lock: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
    held = True
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path).acquire(blocking=blocking)
    except filelock.Timeout:
        raise
    except (OSError, NotImplementedError):  # the latter: a file system without locks
        held = False
    with lock:
        yield held


@contextlib.contextmanager
def exclusive_lock(folder: pathlib.Path) -> Iterator[None]:
    """Locks a folder for this process, or fails at once if another process has locked it.

    The lock is the file `.lock` in the folder, which is created. A folder that is still empty at the end is removed
    again. Where the folder cannot be written or has no locks, nothing is locked.

    Args:
        folder: to be worked in.

    Raises:
        LockedError: another process holds the lock.
    """
    import filelock

    existed = folder.exists()
    lock = folder / ".lock"
    with contextlib.ExitStack() as stack:
        if not existed or folder.is_dir():
            try:
                stack.enter_context(file_lock(lock, blocking=False))
            except filelock.Timeout:
                raise LockedError(
                    f"{folder} is being worked in by another process: wait for its end, or choose another --workdir"
                ) from None
        try:
            yield
        finally:
            if not existed and [path.name for path in folder.glob("*")] == [lock.name]:
                with contextlib.suppress(OSError):
                    lock.unlink()
                    folder.rmdir()


@contextlib.contextmanager
def exit_on_signal(number_to_status: Callable[[int], int], interrupt: bool = False) -> Iterator[None]:
    """Ends the process at SIGTERM (on Windows: Ctrl-Break) with a status, after the function that returns it.

    No exception is raised: one that is raised while the garbage collector runs a callback, as JAX installs, is ignored,
    and the process would continue. Outside of the main thread, which alone may set handlers, nothing is changed.

    Args:
        number_to_status: is called with the number of the signal; cleans up, and returns the exit status.
        interrupt: whether Ctrl-C (SIGINT) ends the process in this way, too.
    """
    previous = {}
    if threading.current_thread() is threading.main_thread():
        for number in (*_SIGNALS, *((signal.SIGINT,) if interrupt else ())):
            previous[number] = signal.signal(number, lambda number, frame: os._exit(number_to_status(number)))
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler or signal.SIG_DFL)


@contextlib.contextmanager
def temporary_folder(prefix: str, parent: pathlib.Path | None = None) -> Iterator[pathlib.Path]:
    """Creates a folder that is removed at the end, also if SIGTERM (on Windows: Ctrl-Break) ends the process.

    Args:
        prefix: of its name.
        parent: where it is created; None for the system's folder.
    """
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent, ignore_cleanup_errors=True) as name:

        def remove(number: int) -> int:
            shutil.rmtree(name, ignore_errors=True)
            return 128 + number

        with exit_on_signal(remove):
            yield pathlib.Path(name)
