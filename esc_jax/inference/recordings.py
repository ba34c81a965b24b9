"""Recordings named by files, folders and patterns."""

import glob
import os
import pathlib


def find_recordings(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The files that arguments stand for, each once, in order; and a sentence for each that stands for none.

    What is hidden in a folder (a name with a dot in front) is left there. A name without a pattern is taken as it is,
    whatever its extension.
    """
    from esc_jax.data import audio

    found, problems = {}, []
    for argument in arguments:
        if "://" in argument:
            problems.append(f"{argument}: URLs are not fetched; download it, and give the file")
            continue
        path = pathlib.Path(argument).expanduser()
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in audio.EXTENSIONS and p.is_file())
            shown = [p for p in inside if not any(part.startswith(".") for part in p.relative_to(path).parts)]
            if not shown:
                problems.append(f"{argument}: the folder holds no recordings")
            found |= dict.fromkeys(map(str, shown))
        elif not path.exists() and glob.has_magic(argument):
            matches = sorted(p for p in glob.glob(str(path), recursive=True) if os.path.isfile(p))
            if not matches:
                problems.append(f"{argument}: no file matches")
            found |= dict.fromkeys(matches)
        else:
            found[str(path)] = None
    return list(found), problems
