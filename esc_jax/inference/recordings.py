"""Recordings named by files, folders and patterns."""

from collections.abc import Collection, Sequence
import glob
import os
import pathlib

from esc_jax.errors import counted, name_some
from esc_jax.files import expand

_NAMED = 3  # links that a message names
_DELETED = "$RECYCLE.BIN"  # folder of what was deleted on a disk of Windows


def find_recordings(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The files that a command line names.

    Args:
        arguments: files, folders (searched recursively, by file extension, without hidden files, the recycle bin of
            Windows and folders behind links) and glob patterns. A file named directly is taken whatever its extension,
            and whether it exists or not.

    Returns:
        The paths in order, each file once and as it is named first; and a sentence for each argument that names no
        file, and for what is passed over in a folder.
    """
    paths: dict[str, str] = {}  # the path without links → as it is named
    problems = []
    named = {os.path.abspath(expand(argument)) for argument in arguments}
    for argument in arguments:
        if "://" in argument:
            problems.append(f"{argument}: URLs are not supported; download the file and give its path")
            continue
        path = expand(argument)
        found = [str(path)]
        if path.is_dir():
            found, sentences = _search(argument, path, named)
            problems += sentences
        elif not path.exists() and glob.has_magic(argument):
            found = sorted(p for p in glob.glob(str(path), recursive=True) if os.path.isfile(p))
            if not found:
                problems.append(f"{argument}: no file matches")
        for one in found:
            paths.setdefault(os.path.realpath(one), one)
    return list(paths.values()), problems


def _search(argument: str, root: pathlib.Path, named: Collection[str]) -> tuple[list[str], list[str]]:
    """The recordings in a folder, and sentences on what is passed over.

    Args:
        argument: as it is given.
        root: the folder.
        named: absolute paths of all arguments.
    """
    from esc_jax.data import audio  # imports numpy, which --help does not need

    problems: list[str] = []
    files: list[pathlib.Path] = []
    links: list[pathlib.Path] = []
    for folder, folders, names in os.walk(
        root, onerror=lambda error: problems.append(f"{error.strerror}: {error.filename}")
    ):
        folders[:] = [name for name in folders if not name.startswith(".") and name != _DELETED]
        links += [path for name in folders if os.path.islink(path := pathlib.Path(folder, name))]
        for name in names:
            if name.startswith(".") or not audio.is_audio_name(name):
                continue
            path = pathlib.Path(folder, name)
            if path.is_file():
                files.append(path)
            elif path.is_symlink():  # to nothing, or a loop
                links.append(path)
    files.sort()
    if unfollowed := sorted(path for path in links if os.path.abspath(path) not in named):
        shown = name_some([path.relative_to(root).as_posix() for path in unfollowed], _NAMED)
        verb = "is" if len(unfollowed) == 1 else "are"
        problems.append(
            f"{argument}: {counted(len(unfollowed), 'link')} {verb} not followed ({shown}): name a folder"
            " behind a link as an argument of its own"
        )
    if unreadable := audio.describe_unreadable(path.relative_to(root).as_posix() for path in files):
        problems.append(f"{argument}: {unreadable}")
    readable = [str(path) for path in files if audio.is_readable_name(path.name)]
    if not readable and not problems:
        problems.append(f"{argument}: the folder contains no recordings")
    return readable, problems
