"""Finding the files that a table names."""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import os
import pathlib
import posixpath

from esc_jax.data.layouts.class_folders import audio_files, nfc, not_a_file
from esc_jax.data.rows import DataError


@dataclasses.dataclass
class _Listing:
    """Content of a folder: name in Unicode's composed form → name on disk, of regular files and of everything else."""

    files: dict[str, str]
    others: dict[str, str]

    @functools.cached_property
    def stems(self) -> dict[str, list[str]]:
        """Name without extension → names of the audio files, and of links and other things, that have it."""
        stems: dict[str, list[str]] = {}
        for name in audio_files([*self.files, *self.others]):
            stems.setdefault(os.path.splitext(name)[0], []).append(name)
        return stems


class Lookup:
    """Finds files below a folder by names in a table. Every folder is listed once.

    Names on disk and in the table are compared in Unicode's composed form (NFC), and a name may lack its extension.

    Args:
        root: the folder, which no name and no link may leave.
    """

    def __init__(self, root: pathlib.Path):
        self.root = root
        self._real = os.path.realpath(root)
        self._folders: dict[str, tuple[str, _Listing] | None] = {}

    def find(self, name: str) -> tuple[str, str] | None:
        """Returns the name of a file relative to the root, with its extension, and its path; None if it is not there.

        Raises:
            DataError: the name leaves the root, is not that of a regular file, or several files match it.
        """
        relative = posixpath.normpath(nfc(name).replace("\\", "/"))
        if relative.startswith("/") or relative.split("/")[0] == "..":
            raise DataError(
                f"{name!r} leads out of {self.root}: move the table above the files, or give their absolute paths"
            )
        folder, base = posixpath.split(relative)
        opened = self._open(folder)
        if opened is None:
            return None
        path, listing = opened
        if base not in listing.files and base not in listing.others:
            matching = listing.stems.get(base, [])
            if len(matching) > 1:
                raise DataError(f"{name!r} is the name of {' and '.join(sorted(matching))}: give the extension")
            if not matching:
                return None
            (base,) = matching
        if base in listing.files:
            return posixpath.join(folder, base), os.path.join(path, listing.files[base])
        other = os.path.join(path, listing.others[base])
        if problem := not_a_file(other, self._real):
            raise DataError(f"{name!r} is {problem}")
        return posixpath.join(folder, base), other

    def _open(self, folder: str) -> tuple[str, _Listing] | None:
        """Path and content of a folder below the root, "" for the root; None if there is no such folder."""
        if folder not in self._folders:
            self._folders[folder] = self._list(folder)
        return self._folders[folder]

    def _list(self, folder: str) -> tuple[str, _Listing] | None:
        path = os.fspath(self.root)
        if folder:
            parent, base = posixpath.split(folder)
            opened = self._open(parent)
            if opened is None or base not in opened[1].others:
                return None
            path = os.path.join(opened[0], opened[1].others[base])
            if os.path.commonpath([os.path.realpath(path), self._real]) != self._real:
                raise DataError(
                    f"{path} is a link out of the data set: copy the folder, or give the absolute paths of its files"
                )
            if not os.path.isdir(path):
                return None
        listing = _Listing({}, {})
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    kind = listing.files if entry.is_file(follow_symlinks=False) else listing.others
                    kind[nfc(entry.name)] = entry.name
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror})") from None
        return path, listing


def find_files(
    names: Sequence[str],
    lines: Sequence[int],
    table: pathlib.Path,
    find: Callable[[str], tuple[str, str] | None],
    folders: Sequence[pathlib.Path],
) -> tuple[list[str], dict[str, str]]:
    """Finds all files that a table names.

    Args:
        names: in the table.
        lines: of the names in the table.
        table: the table, for error messages.
        find: name → unique name and path of a file, or None.
        folders: in which `find` looks relative names up, for error messages.

    Returns:
        The unique name of every file, and unique name → path.

    Raises:
        DataError: files are missing, a name cannot be used, or two rows name one file.
    """
    unique: list[str] = []
    paths: dict[str, str] = {}
    missing: list[int] = []
    for place, name in enumerate(names):
        if not name:
            raise DataError(f"{table}, line {lines[place]}: names no file")
        try:
            result = find(name)
        except DataError as error:
            raise DataError(f"{table}, line {lines[place]}: {error}") from None
        if result is None:
            missing.append(place)
            result = "", ""
        elif result[0] in paths:
            raise DataError(_twice(table, name, lines[unique.index(result[0])], lines[place]))
        else:
            paths[result[0]] = result[1]
        unique.append(result[0])
    if missing:
        raise DataError(
            f"data.dir: {len(missing)} of the {len(names)} files named in {table} are not there (the first: line"
            f" {lines[missing[0]]}, {names[missing[0]]}); relative names are looked up in"
            f" {' and '.join(map(str, folders))}"
        )
    if len(set(paths.values())) < len(paths):  # by a relative and by an absolute path
        first: dict[str, int] = {}
        for name, line in zip(unique, lines, strict=True):
            if first.setdefault(paths[name], line) != line:
                raise DataError(_twice(table, name, first[paths[name]], line))
    return unique, paths


def _twice(table: pathlib.Path, name: str, first: int, second: int) -> str:
    return (
        f"{table}: lines {first} and {second} both name {name}: give each file one row, with all of its labels in one"
        " cell"
    )
