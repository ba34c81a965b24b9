"""Classifies many recordings into a folder: a result file of each, written when it is finished.

    RESULTS/settings.json      the folder of the recordings, and what the results depend on: model, windows, formats
    RESULTS/manifest.csv       a row for each recording that was finished, or failed
    RESULTS/2026/dawn.wav.csv  the results, in the tree of the recordings

A second call skips what is finished, and classifies again what has failed, or has changed since. The result files have
the modification time of the recording that was read. Several processes can share the folder: each recording is locked
by one of them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import errno
import glob
import hashlib
import itertools
import json
import os
import pathlib
import threading
import time
from typing import Any
import unicodedata

from esc_jax import files
from esc_jax.errors import Failure, UserError, describe_error, shorten
from esc_jax.inference.manifest import Manifest
from esc_jax.inference.parallel import Outcome, run_ahead
from esc_jax.models.model import update_hash

SETTINGS, MANIFEST, LOCKS = "settings.json", "manifest.csv", ".locks"
_MAX_SETTINGS_BYTES = 1 << 24

# Path of a recording → length in seconds, a sentence on what is wrong with it or "", contents of its result files.
Classify = Callable[[str], tuple[float, str, Sequence[str]]]


class ArchiveError(UserError, ValueError):
    """A folder of results that cannot be continued. The message is one sentence."""


class FullError(Failure):
    """The disk of a folder of results is full, so that no recording can be finished. The message is one sentence."""


def common_folder(arguments: Sequence[str]) -> pathlib.Path:
    """The folder below which the tree of the results begins.

    It is the folder that is the only argument. Else it is the deepest one that contains all arguments, be they files,
    folders or patterns. It depends on the arguments alone, so that a second call with more files continues the first.
    """
    paths = [pathlib.Path(os.path.abspath(files.expand(argument))) for argument in arguments]
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
        bom: begin the manifest with a byte order mark.

    Raises:
        ArchiveError: the folder has results of other recordings or with other settings, or something else.
        ManifestError: its manifest is damaged.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        root: pathlib.Path,
        settings: Mapping[str, Any],
        suffixes: Sequence[str],
        *,
        bom: bool = False,
    ):
        self.folder, self.root, self._suffixes = folder, root, tuple(suffixes)
        self._manifest = Manifest(folder / MANIFEST, folder / LOCKS / "manifest", bom=bom)
        self._owners: dict[str, str] = {}  # result file → its recording; empty for files of the folder itself
        self._reading = threading.Lock()
        self._open({"recordings": os.path.abspath(root)} | dict(settings))
        self._ignores_case = (folder / SETTINGS.upper()).exists()
        self._owners.update(dict.fromkeys(map(self._key, (SETTINGS, MANIFEST)), ""))
        self._read_manifest()

    def _open(self, settings: Mapping[str, Any]) -> None:
        """Compares settings.json with the settings, or writes it."""
        path, text = self.folder / SETTINGS, json.dumps(settings, indent=1)
        # In this order: of a folder that another process has just begun, settings.json is written first.
        names = {entry.name for entry in self.folder.iterdir()} if self.folder.is_dir() else set()
        if not path.is_file():
            partial = {name for name in names if name.startswith(f"{SETTINGS}.") and name.endswith(".partial")}
            if names - partial - {SETTINGS, LOCKS}:
                raise ArchiveError(f"{self.folder} has other files and no {SETTINGS}: give a new or an empty folder")
            self.folder.mkdir(parents=True, exist_ok=True)
            with files.file_lock(self.folder / LOCKS / "settings") as held:
                if held:
                    _remove_partial(path)
                if not path.is_file():
                    with files.atomic_write(path, "w") as file:
                        file.write(text)
        try:
            known = files.read_json(path, _MAX_SETTINGS_BYTES)
        except ValueError:
            raise ArchiveError(f"{path} is damaged: give another folder") from None
        wanted = json.loads(text)  # a tuple is a list after it was on disk
        if known == wanted:
            return
        known = known if isinstance(known, dict) else {}
        if (other := known.get("recordings", wanted["recordings"])) != wanted["recordings"]:
            raise ArchiveError(
                f"{self.folder} has results of the recordings in {other}, not of those in"
                f" {wanted['recordings']}: give another --out folder"
            )
        differing = "; ".join(_differences(known, wanted))
        raise ArchiveError(
            f"{self.folder} has results with other settings ({differing}): give another folder, or the same options"
        )

    def name(self, recording: str) -> str:
        """Path of a recording below the common folder, with "/"."""
        return pathlib.Path(os.path.relpath(os.path.abspath(recording), self.root)).as_posix()

    def _key(self, path: str) -> str:
        """The path of a result file, equal for those that the file system of the folder does not distinguish."""
        return unicodedata.normalize("NFC", path).casefold() if self._ignores_case else path

    def reserve(self, recording: str) -> str:
        """Reserves the result files of a recording. Returns a sentence where one would replace another file, or ""."""
        name = self.name(recording)
        keys = {self._key(name + suffix): name + suffix for suffix in self._suffixes}
        with self._reading:
            for key, file in keys.items():
                other = self._owners.get(key, name)
                if not other:
                    return f"{recording}: its result file {file} would replace a file of {self.folder}: rename it"
                if other != name and _is_another(self.root / other, recording):
                    return (
                        f"{recording}: its result file {file} would replace that of {other}: rename one of them, or"
                        " give it another --out folder"
                    )
            self._owners.update(dict.fromkeys(keys, name))
        return ""

    def paths(self, recording: str) -> list[pathlib.Path]:
        """The result files of a recording, one for each suffix."""
        base = self.folder / self.name(recording)
        return [base.with_name(base.name + suffix) for suffix in self._suffixes]

    def is_finished(self, recording: str) -> bool:
        """Whether all result files are there, and the recording has not changed since it was read."""
        name, modified = self.name(recording), str(_modified_ns(recording))
        with self._reading:
            known = self._manifest.finished.get(name)
            if known is None or known[0] != modified:
                self._read_manifest()  # another process can have written the row
                known = self._manifest.finished.get(name)
        return known is not None and known[0] == modified and all(path.is_file() for path in self.paths(recording))

    def skip(self, recording: str) -> Outcome:
        """The outcome of a recording that is finished, with the note of its results.

        If it could not be found meanwhile, it gets a row again.
        """
        name = self.name(recording)
        modified, note = self._manifest.finished[name]
        if name in self._manifest.missing:
            self._manifest.missing.discard(name)
            self.record(Outcome(name, "done", note=note), int(modified))
        return Outcome(name, "skipped", note=note)

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
                    for path in self.paths(recording):
                        _remove_partial(path)
                yield True
                lock.unlink(missing_ok=True)
        except filelock.Timeout:
            yield False

    def write(self, recording: str, contents: Sequence[str]) -> None:
        """Writes the result files, each in one rename. Raises FullError."""
        try:
            for path, content in zip(self.paths(recording), contents, strict=True):
                path.parent.mkdir(parents=True, exist_ok=True)
                with files.atomic_write(path) as file:
                    file.write(content.encode("utf-8", errors="surrogateescape"))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise FullError(
                f"{self.folder} could not be written ({error.strerror}): free some space and run the same command again"
            ) from None

    def remove(self, recording: str) -> None:
        """Removes the result files of a recording."""
        with contextlib.suppress(OSError):
            for path in self.paths(recording):
                path.unlink(missing_ok=True)

    def record(self, outcome: Outcome, modified_ns: int | None) -> None:
        """Appends a row to the manifest.

        Args:
            outcome: of a recording.
            modified_ns: its modification time before it was read: what has changed since is not finished. None where
                the recording could not be found.
        """
        self._manifest.append(outcome, modified_ns)

    def _read_manifest(self) -> None:
        """Reads the new rows of the manifest. The result files of a recording belong to the first that has them."""
        for name in self._manifest.read():
            for suffix in self._suffixes:
                self._owners.setdefault(self._key(name + suffix), name)


def _is_another(path: pathlib.Path, recording: str) -> bool:
    """Whether there is a file that is not the recording under another name, as after it was renamed."""
    try:
        return path.exists() and not os.path.samefile(path, recording)
    except OSError:
        return False


def _differences(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    """ "name: old, now new" for every setting that differs, those in groups included."""
    for name in {**wanted, **known}:
        old, value = known.get(name), wanted.get(name)
        if isinstance(value, dict) and isinstance(old, dict):
            yield from _differences(old, value)
        elif old != value:
            yield shorten(f"{name}: {json.dumps(old)}, now {json.dumps(value)}")


def _remove_partial(path: pathlib.Path) -> None:
    """Removes what a killed process has written of a file (`files.atomic_write`)."""
    for partial in path.parent.glob(f"{glob.escape(path.name)}.*.partial"):
        partial.unlink(missing_ok=True)


def process(archive: Archive, recordings: Sequence[str], classify: Classify) -> Iterator[Outcome]:
    """Classifies recordings into an archive, several at a time: some are decoded while the device computes others.

    Recordings that another process has locked are tried again at the end, once.

    Args:
        archive: the folder of results.
        recordings: paths of files.
        classify: path → length in seconds, a sentence on what is wrong with the file or "", and the contents of the
            result files. Is called in threads.

    Yields:
        The outcome of each recording, in the order of their ends.

    Raises:
        FullError: the disk of the folder is full. What was finished before is kept.
    """
    locked: list[str] = []
    reserved: list[str] = []
    for recording in recordings:
        if problem := archive.reserve(recording):
            outcome = Outcome(archive.name(recording), "failed", note=problem)
            archive.record(outcome, _modified_ns(recording))
            yield outcome
        else:
            reserved.append(recording)

    def run(recording: str) -> Outcome:
        if archive.is_finished(recording):
            return archive.skip(recording)
        with archive.locked(recording) as held:
            if not held:
                locked.append(recording)
                return Outcome(archive.name(recording), "locked")
            if archive.is_finished(recording):  # by another process meanwhile
                return archive.skip(recording)
            return _classify(archive, recording, classify)

    yield from (outcome for outcome in run_ahead(run, reserved) if outcome.status != "locked")
    yield from run_ahead(run, locked.copy())


def _modified_ns(recording: str) -> int | None:
    """The modification time of a recording; None where it cannot be found, on which `Classify` has a sentence."""
    try:
        return os.stat(recording).st_mtime_ns
    except OSError:
        return None


def _classify(archive: Archive, recording: str, classify: Classify) -> Outcome:
    """Classifies a recording that is locked for this process, and writes its results and its row."""
    name, started = archive.name(recording), time.monotonic()
    modified_ns = _modified_ns(recording)
    try:
        duration_s, note, contents = classify(recording)
        archive.write(recording, contents)
    except Exception as error:
        description = describe_error(error, recording)
        if description is None or isinstance(error, FullError):
            raise
        if modified_ns is not None:  # else its disk may be missing, and the results be right
            archive.remove(recording)
        outcome = Outcome(name, "failed", 0.0, time.monotonic() - started, description[1])
    else:
        outcome = Outcome(name, "done", duration_s, time.monotonic() - started, note)
    archive.record(outcome, modified_ns)
    return outcome
