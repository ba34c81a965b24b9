"""Classifies many recordings into a folder: a result file of each, written when it is finished.

    RESULTS/settings.json      what the results depend on: model, windows, formats
    RESULTS/manifest.csv       a row for each recording that was finished, or failed
    RESULTS/2026/dawn.wav.csv  the results, in the tree of the recordings

A second call skips what is finished, and classifies again what has failed, or has changed since. Several processes can
share the folder: each recording is locked by one of them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
import contextlib
import csv
import dataclasses
import glob
import hashlib
import itertools
import json
import os
import pathlib
import time
from typing import Any

from esc_jax import files
from esc_jax.errors import UserError, describe_error
from esc_jax.evaluation.escaping import escape_cell
from esc_jax.models.model import update_hash

SETTINGS, MANIFEST, LOCKS = "settings.json", "manifest.csv", ".locks"
COLUMNS = ("file", "status", "duration_s", "seconds", "finished", "note")
_MOST_AT_ONCE = 8  # recordings


class ArchiveError(UserError, ValueError):
    """A folder of results that cannot be continued. The message is one sentence."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a recording.

    Attributes:
        file: path below the common folder.
        status: "done", "skipped" (finished before), "locked" (by another process), "duplicate" (in a store that has the
            content under another name) or "failed".
        duration_s: length of the recording.
        seconds: that it took.
        note: a sentence on what is wrong with it.
    """

    file: str
    status: str
    duration_s: float = 0.0
    seconds: float = 0.0
    note: str = ""


def common_folder(arguments: Sequence[str]) -> pathlib.Path:
    """The folder below which the tree of the results begins.

    It is the folder that is the only argument. Else it is the deepest one that contains all arguments, be they files,
    folders or patterns. It depends on the arguments alone, so that a second call with more files continues the first.
    """
    paths = [pathlib.Path(os.path.abspath(pathlib.Path(argument).expanduser())) for argument in arguments]
    if len(paths) == 1 and paths[0].is_dir():
        return paths[0]
    parents = []
    for path in paths:
        fixed = list(itertools.takewhile(lambda part: not set(part) & set("*?["), path.parts[:-1]))
        parents.append(os.path.join(*fixed))
    return pathlib.Path(os.path.commonpath(parents))


def weights_checksum(variables: Any) -> str:
    """A hash of the weights of a model: another model in the same place gives other results."""
    checksum = hashlib.sha256()
    update_hash(checksum, variables)
    return checksum.hexdigest()[:16]


class Archive:
    """A folder of results.

    Args:
        folder: is created.
        root: folder that contains all recordings.
        settings: what the results depend on, as JSON values.
        suffixes: ends of the names of the result files of a recording.

    Raises:
        ArchiveError: the folder has results with other settings, or something else.
    """

    def __init__(self, folder: pathlib.Path, root: pathlib.Path, settings: Mapping[str, Any], suffixes: Sequence[str]):
        self.folder, self.root, self._suffixes = folder, root, tuple(suffixes)
        path, text = folder / SETTINGS, json.dumps(dict(settings), indent=1)
        if path.is_file():
            try:
                known = json.loads(path.read_text(encoding="utf-8"))
            except ValueError:
                raise ArchiveError(f"{path} is damaged: give another folder") from None
            wanted = json.loads(text)  # a tuple is a list after it was on disk
            if known != wanted:
                known = known if isinstance(known, dict) else {}
                differing = [name for name, value in wanted.items() if known.get(name) != value]
                raise ArchiveError(
                    f"{folder} has results with another {' and '.join(differing) or 'setting'}: give another folder, or"
                    " the same options"
                )
        elif folder.is_dir() and any(folder.iterdir()):
            raise ArchiveError(f"{folder} has other files and no {SETTINGS}: give a new or an empty folder")
        else:
            folder.mkdir(parents=True, exist_ok=True)
            with files.atomic_write(path, "w") as file:
                file.write(text)

    def name(self, recording: str) -> str:
        """Path of a recording below the common folder, with "/"."""
        return pathlib.Path(os.path.relpath(os.path.abspath(recording), self.root)).as_posix()

    def paths(self, recording: str) -> list[pathlib.Path]:
        """The result files of a recording, one for each suffix."""
        base = self.folder / self.name(recording)
        return [base.with_name(base.name + suffix) for suffix in self._suffixes]

    def is_finished(self, recording: str) -> bool:
        """Whether all result files are there, and none is older than the recording."""
        try:
            changed = os.stat(recording).st_mtime_ns
            return all(path.stat().st_mtime_ns >= changed for path in self.paths(recording))
        except OSError:
            return False

    @contextlib.contextmanager
    def locked(self, recording: str) -> Iterator[bool]:
        """Yields whether a recording is locked for this process; while it is, no other process can work on it."""
        import filelock

        digest = hashlib.sha256(os.fsencode(self.name(recording))).hexdigest()[:32]
        lock = self.folder / LOCKS / digest
        killed = lock.exists()  # if no process has it
        try:
            with files.file_lock(lock, blocking=False):
                if killed:
                    self._remove_partial(recording)
                yield True
                lock.unlink(missing_ok=True)
        except filelock.Timeout:
            yield False

    def _remove_partial(self, recording: str) -> None:
        """Removes what a killed process has written of the result files (`files.atomic_write`)."""
        for path in self.paths(recording):
            for partial in path.parent.glob(f"{glob.escape(path.name)}.*.partial"):
                partial.unlink(missing_ok=True)

    def write(self, recording: str, contents: Sequence[str]) -> None:
        """Writes the result files, each in one rename."""
        for path, content in zip(self.paths(recording), contents, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            with files.atomic_write(path) as file:
                file.write(content.encode("utf-8", errors="surrogateescape"))

    def record(self, outcome: Outcome) -> None:
        """Appends a row to the manifest."""
        path = self.folder / MANIFEST
        with files.file_lock(self.folder / LOCKS / "manifest"):
            new = not path.exists()
            with open(path, "a", newline="", encoding="utf-8", errors="surrogateescape") as file:
                writer = csv.writer(file)
                if new:
                    writer.writerow(COLUMNS)
                finished = time.strftime("%Y-%m-%dT%H:%M:%S%z")
                duration, seconds = f"{outcome.duration_s:.2f}", f"{outcome.seconds:.2f}"
                note = escape_cell(outcome.note)
                writer.writerow([escape_cell(outcome.file), outcome.status, duration, seconds, finished, note])


def process(
    archive: Archive, recordings: Sequence[str], classify: Callable[[str], tuple[float, str, Sequence[str]]]
) -> Iterator[Outcome]:
    """Classifies recordings into an archive, several at a time: some are decoded while the device computes others.

    Args:
        archive: the folder of results.
        recordings: paths of files.
        classify: path → length in seconds, a sentence on what is wrong with the file or "", and the contents of the
            result files. Is called in threads.

    Yields:
        The outcome of each recording, in the order of their ends.
    """

    def run(recording: str) -> Outcome:
        name = archive.name(recording)
        if archive.is_finished(recording):
            return Outcome(name, "skipped")
        with archive.locked(recording) as locked:
            if not locked:
                return Outcome(name, "locked")
            if archive.is_finished(recording):  # by another process meanwhile
                return Outcome(name, "skipped")
            started = time.monotonic()
            try:
                duration_s, note, contents = classify(recording)
                archive.write(recording, contents)
                outcome = Outcome(name, "done", duration_s, time.monotonic() - started, note)
            except Exception as error:
                description = describe_error(error, recording)
                if description is None:
                    raise
                outcome = Outcome(name, "failed", 0.0, time.monotonic() - started, description[1])
            archive.record(outcome)
            return outcome

    yield from run_ahead(run, recordings)


def recordings_at_once() -> int:
    """Number of recordings that are processed at a time: half of the processor cores, but from two to eight.

    One of them uses the device. Decoding the others takes longer than that for small networks and on GPUs.
    """
    return max(2, min(_MOST_AT_ONCE, (os.cpu_count() or 1) // 2))


def run_ahead(run: Callable[[str], Outcome], recordings: Sequence[str]) -> Iterator[Outcome]:
    """Yields `run` of each recording in the order of their ends; `recordings_at_once` are in work, in threads."""
    remaining, count = iter(recordings), recordings_at_once()
    with futures.ThreadPoolExecutor(count) as pool:
        running = {pool.submit(run, recording) for recording in itertools.islice(remaining, count)}
        try:
            while running:
                done, running = futures.wait(running, return_when=futures.FIRST_COMPLETED)
                running |= {pool.submit(run, recording) for recording in itertools.islice(remaining, len(done))}
                for one in done:
                    yield one.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
