"""A data set of files in a folder, whatever names their labels: the common part of most layouts."""

import collections
from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import hashlib
import itertools
import os
import pathlib

from absl import logging

from esc_jax import files
from esc_jax.data.folds import assign_folds
from esc_jax.data.layouts.grouping import group_by_name
from esc_jax.data.layouts.options import Options
from esc_jax.data.rows import MAX_CLASSES, About, DataError, Grouping, Row, check_classes
from esc_jax.data.source import read_file

RECORDINGS = About(description="Recordings of your own.", citation="")
_SHOWN = 10  # classes named in a warning


@dataclasses.dataclass
class Entries:
    """Files of a data set, in any order, and what is known of them.

    Attributes:
        names: unique names of the files, relative to the data set.
        paths: name → path.
        labels: class names of every file; exactly one if `multi_label` is false.
        folds: fold of every file; None to assign them.
        sources: source recording of every file; None to find them in the names.
        takes: which clip of its recording each file is; None if that is not known.
        grouping: how `sources` are known.
        multi_label: whether a file may have any number of classes.
        classes: class names by index; None: those that occur, sorted.
    """

    names: list[str]
    paths: Mapping[str, str]
    labels: list[tuple[str, ...]]
    folds: list[int] | None = None
    sources: list[str] | None = None
    takes: list[str] | None = None
    grouping: Grouping = Grouping("none", "")
    multi_label: bool = False
    classes: Sequence[str] | None = None


class FileLayout:
    """Rows and audio files of a folder; see `rows.Layout`.

    Args:
        path: the data set.
        entries: its files.
        options: how files are grouped, and how many folds are assigned.
        about: the data set.

    Raises:
        DataError: there are fewer than two classes, or too many; a class name is not usable; no folds can be assigned.
    """

    def __init__(self, path: pathlib.Path, entries: Entries, options: Options, about: About = RECORDINGS):
        self.path, self.about = path, about
        self.task = "multi_label" if entries.multi_label else "single_label"
        self.categories = _classes(entries, path)
        index = {name: target for target, name in enumerate(self.categories)}
        known: dict[tuple[str, ...], tuple[int, ...]] = {}
        for labels in entries.labels:
            if labels not in known:
                known[labels] = tuple(sorted({index[label] for label in labels}))
        order = sorted(range(len(entries.names)), key=entries.names.__getitem__)
        names = [entries.names[i] for i in order]
        targets = [known[entries.labels[i]] for i in order]
        self.grouping = entries.grouping
        if entries.sources is None:
            sources, self.grouping = group_by_name(names, targets, options.group_pattern)
        else:
            sources = [entries.sources[i] for i in order]
        if entries.folds is None:
            folds = self._assign_folds(sources, targets, options.folds)
            self.grouping = dataclasses.replace(self.grouping, assigned_folds=True)
        else:
            folds = [entries.folds[i] for i in order]
        takes = [entries.takes[i] for i in order] if entries.takes else itertools.repeat("", len(names))
        self.rows = tuple(map(Row, names, folds, targets, sources, takes))
        self._paths = entries.paths
        self.fingerprint = self._fingerprint()

    def _assign_folds(self, sources: Sequence[str], targets: Sequence[tuple[int, ...]], number: int) -> list[int]:
        if len(set(sources)) < 2:
            raise DataError(
                f"data.dir: all {len(sources)} files in {self.path} are of one recording, {sources[0]}, so that no"
                f" folds can be assigned ({self.grouping.description}); set data.group_pattern or data.columns.group"
            )
        recordings: dict[int, set[str]] = collections.defaultdict(set)
        for source, classes in zip(sources, targets, strict=True):
            for target in classes:
                recordings[target].add(source)
        if few := [name for target, name in enumerate(self.categories) if 0 < len(recordings[target]) < number]:
            logging.warning(
                "classes with fewer recordings than folds, so that some folds have none: %d (data.folds=%d): %s%s",
                len(few), number, ", ".join(few[:_SHOWN]), " …" if len(few) > _SHOWN else "",
            )  # fmt: skip
        logging.info("%d folds are assigned, by recording and stratified by class", number)
        return assign_folds(sources, targets, number)

    def _fingerprint(self) -> str:
        """Hash of the rows, the classes and the content of the files."""
        digest = hashlib.sha256(repr((self.task, self.categories)).encode())
        contents: Iterator[tuple[int, int] | None] = files.iter_checksums(self._path(row) for row in self.rows)
        for row, content in zip(self.rows, contents, strict=True):
            digest.update(repr((row, content)).encode())
        return digest.hexdigest()[:16]

    def _path(self, row: Row) -> str:
        return self._paths[row.filename]

    def where(self, row: Row) -> str:
        """Returns the name of a row's file for error messages."""
        return row.filename

    def locate(self, row: Row) -> pathlib.Path:
        """Returns the path of a row's audio file."""
        return pathlib.Path(self._path(row))

    def read(self, row: Row) -> bytes:
        """Returns the content of a row's audio file. Raises AudioError."""
        return read_file(self.locate(row), self.where(row))


def _classes(entries: Entries, path: pathlib.Path) -> tuple[str, ...]:
    """Class names by index. Numbers are sorted as numbers."""
    names = entries.classes
    if names is None:
        distinct = {label for labels in set(entries.labels) for label in labels}
        names = sorted(distinct)
        if all(name.isdecimal() for name in names):
            names.sort(key=int)
    if len(names) > MAX_CLASSES:
        raise DataError(
            f"data.dir: the {len(entries.names)} files in {path} have {len(names)} different labels, such as {names[0]}"
            f" and {names[1]}, and at most {MAX_CLASSES} are possible; data.columns.labels names the column of a csv"
        )
    if len(names) < 2:
        raise DataError(
            f"data.dir: {path} holds {f'one class, {names[0]}' if names else 'no labels'}; at least two classes are"
            " needed, such as the sound and everything else"
        )
    return check_classes(names, f"data.dir: {path}")


def resolve(path: str | os.PathLike[str]) -> pathlib.Path:
    """Returns the path of a data set, absolute. Raises DataError if it does not exist."""
    resolved = files.resolve(path)
    if not resolved.exists():
        raise DataError(f"data.dir: {resolved} does not exist")
    return resolved


def find_root(path: pathlib.Path, table: str) -> pathlib.Path | None:
    """Returns the folder that contains `table`: `path`, or the only one in it that does; None if there is none."""
    if (path / table).is_file():
        return path
    roots = [found.parents[table.count("/")] for found in path.glob(f"*/{table}")] if path.is_dir() else []
    return roots[0] if len(roots) == 1 else None
