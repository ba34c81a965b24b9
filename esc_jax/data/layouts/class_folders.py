"""A folder with one subfolder of audio files per class."""

from collections.abc import Iterable
import os
import pathlib

from esc_jax.data.audio import EXTENSIONS
from esc_jax.data.rows import DataError


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
    """Returns the names that have the extension of an audio file."""
    return [name for name in names if os.path.splitext(name)[1].lower() in EXTENSIONS]


def audio_tree(root: pathlib.Path) -> dict[str, str]:
    """Returns relative name → path of every audio file below `root`, at any depth, sorted by name.

    Hidden files and folders are ignored, and links to folders are not followed. Names are as in `list_files`.

    Raises:
        DataError: a folder cannot be read.
    """
    paths: dict[str, str] = {}

    def fail(error: OSError) -> None:
        raise DataError(f"data.dir: {error.filename} cannot be read ({error.strerror})") from None

    for folder, subfolders, names in os.walk(root, onerror=fail):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in audio_files(names):
            path = os.path.join(folder, name)
            if not name.startswith(".") and os.path.isfile(path):
                relative = os.path.relpath(path, root).replace(os.sep, "/")
                paths[os.fsencode(relative).decode("utf-8", "backslashreplace")] = path
    return dict(sorted(paths.items()))
