"""A folder with one subfolder of audio files per class."""

import collections
from collections.abc import Iterable
import os
import pathlib
import stat
from typing import NamedTuple
import unicodedata

from absl import logging

from esc_jax.data import audio
from esc_jax.data.rows import DataError
from esc_jax.data.source import not_regular


def nfc(text: str) -> str:
    """The text in Unicode's composed form (NFC), in which names are compared: macOS decomposes those of files."""
    return unicodedata.normalize("NFC", text)


def list_files(root: pathlib.Path) -> dict[str, str]:
    """Returns "CLASS/FILE" → path of every file in the subfolders of `root`; empty if there is no such folder.

    Hidden files are ignored. Bytes of a name that are not UTF-8 are written as escapes (`caf\\xe9.wav`): neither TFDS
    nor a terminal could handle them.

    Raises:
        DataError: a folder cannot be read.
    """
    if not root.is_dir():
        return {}
    try:
        paths = {
            f"{folder.name}/{file.name}": file.path
            for folder in os.scandir(root)
            if folder.is_dir() and not folder.name.startswith(".")
            for file in os.scandir(folder)
            # macOS leaves ._NAME.wav beside NAME.wav when it unpacks an archive.
            if not file.name.startswith(".") and not file.is_dir()
        }
    except OSError as error:
        raise DataError(f"data.dir: {error.filename} cannot be read ({error.strerror})") from None
    return {os.fsencode(name).decode("utf-8", "backslashreplace"): path for name, path in paths.items()}


def audio_files(names: Iterable[str]) -> list[str]:
    """Returns the names that have the extension of an audio file, whether it can be read on this machine or not."""
    return [name for name in names if audio.is_audio_name(name)]


def readable_files(names: Iterable[str], root: pathlib.Path) -> list[str]:
    """Returns the names of audio files that can be read on this machine. A warning counts and names the others.

    Args:
        names: of audio files.
        root: folder that they are in, for the warning.

    Raises:
        DataError: there are only others.
    """
    names = list(names)
    unreadable = audio.describe_unreadable(names)
    readable = [name for name in names if audio.is_readable_name(name)]
    if unreadable and not readable:
        raise DataError(f"data.dir: {root}: {unreadable}")
    if unreadable:
        logging.warning("%s: %s", root, unreadable)
    return readable


class AudioTree(NamedTuple):
    """What `audio_tree` returns.

    Attributes:
        files: relative name → path of every audio file that can be read, sorted by name.
        others: extension → number of files that have it and are not read as audio.
    """

    files: dict[str, str]
    others: collections.Counter[str]


def audio_tree(root: pathlib.Path, key: str = "data.dir") -> AudioTree:
    """Lists the audio files below `root`, at any depth.

    Hidden files and folders are ignored. Names are relative to `root`, with "/", in Unicode's composed form (NFC), and
    as in `list_files` where they are not UTF-8.

    Args:
        root: the folder.
        key: of the config that names it, for error messages.

    Raises:
        DataError: a folder cannot be read, a link leads out of `root`, what is called like an audio file is no file,
            or all audio files need ffmpeg, which is not installed.
    """
    paths: dict[str, str] = {}
    others: collections.Counter[str] = collections.Counter()
    inside = os.path.realpath(root)

    def fail(error: OSError) -> None:
        raise DataError(f"{key}: {error.filename} cannot be read ({error.strerror})") from None

    for folder, subfolders, names in os.walk(root, onerror=fail):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in subfolders:
            if os.path.islink(os.path.join(folder, name)):
                raise DataError(
                    f"{key}: {os.path.join(folder, name)} is a link to a folder, which is not followed: copy the"
                    " folder, or list its files in a csv (data.name=csv)"
                )
        sounds = set(audio_files(names))
        for name in names:
            path = os.path.join(folder, name)
            if name.startswith("."):
                continue
            if name not in sounds:
                others[os.path.splitext(name)[1].lower() or name] += 1
                continue
            if problem := not_a_file(path, inside):
                raise DataError(f"{key}: {path} is {problem}")
            relative = os.fsencode(os.path.relpath(path, root).replace(os.sep, "/"))
            unique = nfc(relative.decode("utf-8", "backslashreplace"))
            if unique in paths:
                raise DataError(f"{key}: {paths[unique]} and {path} differ in Unicode composition only: rename one")
            paths[unique] = path
    names = readable_files(sorted(paths), root)
    return AudioTree({name: paths[name] for name in names}, others)


def not_a_file(path: str, root: str) -> str:
    """Says why a path is not an audio file of a data set, with the way out; empty if it is a regular file.

    Args:
        path: of a file or folder, which exists or is a link.
        root: real path of the folder that a link must not leave.
    """
    remedy = "remove it, or put an audio file in its place"
    try:
        mode = os.lstat(path).st_mode
        if stat.S_ISLNK(mode):
            target = os.path.realpath(path)
            if os.path.commonpath([target, root]) != root:
                return (
                    f"a link out of the data set, to {target}: copy the file, or give its absolute path in a csv"
                    " (data.name=csv)"
                )
            mode = os.stat(path).st_mode
    except OSError:
        return f"a link to a file that does not exist: {remedy}"
    if stat.S_ISREG(mode):
        return ""
    return f"{not_regular(mode)}, not an audio file: {remedy}"
