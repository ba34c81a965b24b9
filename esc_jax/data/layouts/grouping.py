"""Source recordings from the names of files (`data.group_pattern`).

Several files are often cut from one recording: `garden-01.wav`, `garden-02.wav`; `street_take3.wav`;
`forest@12.5s.wav`. Such files must be in one part of a split. The pattern "auto" removes takes and offsets at the end
of a file's name, one after the other. What remains is the name of the recording, in all classes and folders.

The files of a class can also be numbered: `dog_001.wav` … `dog_040.wav`. A name that all files of a class share is
therefore no recording, and one take less is removed from the names of its files: `dog_001_a.wav` and `dog_001_b.wav`
are of the recording `dog_001`.
"""

import collections
from collections.abc import Sequence
import posixpath
import re

from absl import logging

from esc_jax.data.layouts.options import AUTO
from esc_jax.data.rows import DataError, Grouping
from esc_jax.errors import name_some

# A take or an offset at the end of a name: "-01", "_take2", " (3)", "@12.5s", "_B".
_WORD = r"(?:take|part|segment|seg|clip|chunk|t|p)"
AUTO_PATTERN = rf"[-_. @]\(?(?:{_WORD}?[-_. ]?\d{{1,4}}(?:\.\d+)?s?|(?:{_WORD}[-_. ])?[a-z])\)?$"
_TAKE = re.compile(AUTO_PATTERN, re.IGNORECASE | re.ASCII)
_SHOWN = 4  # files of the example in the log


def group_by_name(names: Sequence[str], targets: Sequence[Sequence[int]], pattern: str) -> tuple[list[str], Grouping]:
    """Finds the source recordings of files in their names, and logs them.

    Args:
        names: of the files, relative to the data set, with "/".
        targets: class indices of every file.
        pattern: "auto"; or a regular expression, which is searched for in the name of a file without folder and
            extension, or in the whole path without extension if the expression contains a "/". Its first group is the
            recording; without a group, the text before the match is. Empty: every file is a recording of its own.

    Returns:
        The ID of the recording of every file, and how they are known. A file without a recording in its name has its
        path without extension as its ID.

    Raises:
        DataError: an expression matches none of the names.
    """
    paths = [posixpath.splitext(name)[0] for name in names]
    if not pattern:
        return paths, Grouping("none", "data.group_pattern is empty: every file counts as a recording of its own")
    if pattern == AUTO:
        recordings = _strip_takes([posixpath.basename(path) for path in paths], targets)
    else:
        recordings = _search(pattern, paths)
    # A file that is called like a recording is part of it: garden.wav, garden-2.wav.
    known = set(recordings) - {""}
    stems = (posixpath.basename(path) for path in paths)
    sources = [
        recording or (stem if stem in known else path)
        for recording, stem, path in zip(recordings, stems, paths, strict=True)
    ]
    members: dict[str, list[str]] = collections.defaultdict(list)
    for name, source in zip(names, sources, strict=True):
        members[source].append(name)
    kind = f"data.group_pattern={pattern}"
    if len(members) == len(names):
        return sources, Grouping(
            "none",
            f"no two file names have a recording in common ({kind}): every file counts as a recording of its own",
        )
    grouping = Grouping("names", f"{len(members)} source recordings of {len(names)} files, by their names ({kind})")
    source, files = max(members.items(), key=lambda item: len(item[1]))
    logging.info(
        "%s; for example %s: %s%s",
        grouping.description,
        source,
        name_some(files, _SHOWN),
        f" (pattern: {AUTO_PATTERN})" if pattern == AUTO else "",
    )
    return sources, grouping


def _search(pattern: str, paths: Sequence[str]) -> list[str]:
    """Recordings by a regular expression; empty where it does not match."""
    expression = re.compile(pattern)
    texts = paths if "/" in pattern else [posixpath.basename(path) for path in paths]
    recordings = []
    for text in texts:
        match = expression.search(text)
        recordings.append((match[1] if expression.groups else text[: match.start()]) or "" if match else "")
    if not any(recordings):
        raise DataError(
            f"data.group_pattern={pattern} finds a recording in none of the {len(texts)} file names, such as"
            f" {texts[0]}; its first group, or the text before its match, is the recording"
        )
    return recordings


def _strip_takes(stems: Sequence[str], targets: Sequence[Sequence[int]]) -> list[str]:
    """Recordings by the pattern "auto"; empty where nothing is removed from the name."""
    levels = [_levels(stem) for stem in stems]
    of_class: dict[int, list[int]] = collections.defaultdict(list)
    for index, classes in enumerate(targets):
        of_class[-1].append(index)  # all files
        for target in classes:
            of_class[target].append(index)
    kept = [0] * len(stems)  # takes that are not removed
    for files in of_class.values():
        number = 0
        while len(files) > 1 and _share_a_name([levels[i] for i in files], number):
            number += 1
        for i in files:
            kept[i] = max(kept[i], number)
    places = [max(0, len(level) - 1 - number) for level, number in zip(levels, kept, strict=True)]
    return [level[place] if place else "" for level, place in zip(levels, places, strict=True)]


def _share_a_name(levels: Sequence[Sequence[str]], kept: int) -> bool:
    """Whether names with `kept` takes are all the same, and some of them had more."""
    names = {level[max(0, len(level) - 1 - kept)] for level in levels}
    return len(names) == 1 and any(len(level) - 1 > kept for level in levels)


def _levels(stem: str) -> list[str]:
    """A name, then the name without its last take, without its last two, …"""
    levels = [stem]
    while match := _TAKE.search(levels[-1]):
        shorter = levels[-1][: match.start()].rstrip("-_. @(")
        if not shorter:
            break
        levels.append(shorter)
    return levels
