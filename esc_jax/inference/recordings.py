"""Recordings named by files, folders and patterns."""

from collections.abc import Sequence
import glob
import os

from esc_jax.files import expand


def find_recordings(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The files that a command line names.

    Args:
        arguments: files, folders (searched recursively, by file extension, without hidden files) and glob patterns.
            A file named directly is taken whatever its extension, and whether it exists or not.

    Returns:
        The paths, each once, in order; and a sentence for each argument that names no file.
    """
    from esc_jax.data import audio  # imports numpy, which --help does not need

    paths: dict[str, None] = {}
    problems = []
    for argument in arguments:
        if "://" in argument:
            problems.append(f"{argument}: URLs are not supported; download the file and give its path")
            continue
        path = expand(argument)
        if path.is_dir():
            files = sorted(p for p in path.rglob("*") if audio.is_audio_name(p.name) and p.is_file())
            visible = [p for p in files if not any(part.startswith(".") for part in p.relative_to(path).parts)]
            readable = [str(p) for p in visible if audio.is_readable_name(p.name)]
            if unreadable := audio.describe_unreadable(p.relative_to(path).as_posix() for p in visible):
                problems.append(f"{argument}: {unreadable}")
            elif not readable:
                problems.append(f"{argument}: the folder contains no recordings")
            paths |= dict.fromkeys(readable)
        elif not path.exists() and glob.has_magic(argument):
            matches = sorted(p for p in glob.glob(str(path), recursive=True) if os.path.isfile(p))
            if not matches:
                problems.append(f"{argument}: no file matches")
            paths |= dict.fromkeys(matches)
        else:
            paths[str(path)] = None
    return list(paths), problems
