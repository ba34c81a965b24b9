"""The `audiofolder` layout of Hugging Face datasets.

    metadata.csv           file_name, and a column of labels; files relative to the table
    train/metadata.csv     or one table in each split folder: train, validation, test
    train/dog/1.wav        or no table, and class folders, in split folders or not

Splits become folds (`splits.SPLITS`). Without a column of labels, the folder of a file is its class.
"""

from collections.abc import Sequence
import dataclasses
import os
import pathlib

from esc_jax.data.layouts import splits
from esc_jax.data.layouts.class_folders import audio_tree
from esc_jax.data.layouts.csv_file import read_entries
from esc_jax.data.layouts.file_layout import Entries, FileLayout, resolve
from esc_jax.data.layouts.folder import find_classes
from esc_jax.data.layouts.lookup import Lookup, find_files
from esc_jax.data.layouts.options import Options
from esc_jax.data.layouts.table import Table
from esc_jax.data.rows import DataError
from esc_jax.errors import counted

TABLE = "metadata.csv"


def _tables(root: pathlib.Path) -> list[pathlib.Path]:
    """The table in the root, or those in the split folders."""
    if (root / TABLE).is_file():
        return [root / TABLE]
    return sorted(path for path in root.glob(f"*/{TABLE}") if splits.all_splits([path.parent.name]))


def matches(path: pathlib.Path) -> bool:
    """Whether a folder has a metadata.csv with a column file_name, or split folders."""
    if not path.is_dir():
        return False
    if tables := _tables(path):
        try:
            return "file_name" in Table(tables[0]).columns
        except DataError:
            return False
    folders = [entry.name for entry in os.scandir(path) if entry.is_dir() and not entry.name.startswith(".")]
    return splits.all_splits(folders)


class AudioFolderLayout(FileLayout):
    """Rows and audio files of an audiofolder; see `rows.Layout`.

    Args:
        path: the folder.
        options: how files are grouped, number of folds where there are no splits, columns of the tables.

    Raises:
        DataError: the folder does not exist, is in another layout, or a table is invalid.
    """

    def __init__(self, path: str | os.PathLike[str], options: Options = Options()):
        root = resolve(path)
        if not root.is_dir():
            raise DataError(f"data.dir: {root} is not a folder; an audiofolder is one with a {TABLE} or class folders")
        if paths := _tables(root):
            tables = [Table(path) for path in paths]
            _check_tables(root, tables)
            entries = _join([_read(root, table, [t for t in tables if t is not table], options) for table in tables])
        else:
            tree = audio_tree(root)
            names = find_classes(root, tree)
            entries = Entries(names, tree.files, [])
            _label_by_folder(entries, root)
        if entries.folds is None:
            _assign_splits(entries, root)
        super().__init__(root, entries, options)


def _check_tables(root: pathlib.Path, tables: Sequence[Table]) -> None:
    """Refuses tables with different columns, and split folders without a table."""
    first = tables[0]
    if first.path.parent == root:
        return
    for table in tables[1:]:
        if set(table.columns) != set(first.columns):
            raise DataError(
                f"data.dir: {first.path} has the columns {', '.join(first.columns)}, and {table.path} has"
                f" {', '.join(table.columns)}: the tables of all splits need the same columns"
            )
    described = {table.path.parent.name for table in tables}
    for entry in sorted(os.scandir(root), key=lambda entry: entry.name):
        if entry.is_dir() and splits.all_splits([entry.name]) and entry.name not in described:
            raise DataError(
                f"data.dir: {entry.path} has no {TABLE}, and {first.path.parent} has one: add the table, or move the"
                " folder out of the data set"
            )


def _read(root: pathlib.Path, table: Table, others: Sequence[Table], options: Options) -> Entries:
    """The files of a table; `others` are the tables of the other splits. Names are relative to the root."""
    path = table.path
    file = options.columns.get("file", "") or ("file_name" if "file_name" in table.columns else "")
    options = dataclasses.replace(options, columns={**options.columns, "file": file})
    if table.find("labels", options.columns.get("labels", "")):
        entries = read_entries(table, options, others=others)
    else:
        (column, *_) = table.require("file", file)
        lines, values = table.read([column])
        names, paths = find_files(values[column], lines, path, Lookup(path.parent).find, [path.parent])
        entries = Entries(names, paths, [])
    prefix = "" if path.parent == root else f"{path.parent.name}/"
    entries.paths = {prefix + name: path for name, path in entries.paths.items()}
    entries.names = [prefix + name for name in entries.names]
    if not entries.labels:
        _label_by_folder(entries, root)
    return entries


def _join(parts: Sequence[Entries]) -> Entries:
    """The files of several tables."""
    first = parts[0]
    if len(parts) == 1:
        return first
    whole = Entries([], {}, [], multi_label=any(part.multi_label for part in parts), grouping=first.grouping)
    whole.names = [name for part in parts for name in part.names]
    whole.paths = {name: path for part in parts for name, path in part.paths.items()}
    whole.labels = [labels for part in parts for labels in part.labels]
    for name in ("folds", "sources"):
        values = [getattr(part, name) for part in parts]
        if all(value is not None for value in values):
            setattr(whole, name, [item for value in values for item in value])
    return whole


def _label_by_folder(entries: Entries, root: pathlib.Path) -> None:
    """Labels files with the folder they lie in, below that of the split."""
    parts = [name.split("/")[:-1] for name in entries.names]
    if splits.all_splits({part[0] for part in parts if part}):
        parts = [part[1:] for part in parts]
    if loose := [name for name, part in zip(entries.names, parts, strict=True) if not part]:
        raise DataError(
            f"data.dir: {root} names no label of {counted(len(loose), 'file')}, such as {loose[0]}: add a column of"
            f" labels in {TABLE}, or a class folder"
        )
    entries.labels = [(part[0],) for part in parts]


def _assign_splits(entries: Entries, root: pathlib.Path) -> None:
    """Folds from the split folders, if all files lie in some."""
    first = [name.split("/")[0].lower() if "/" in name else "" for name in entries.names]
    if splits.all_splits(set(first)):
        entries.folds = [splits.SPLITS[name] for name in first]
        splits.log_splits(set(first), f"split folders of {root}")
    elif named := sorted(set(first) & splits.SPLITS.keys()):
        raise DataError(
            f"data.dir: only some files in {root} lie in a split folder ({', '.join(named)}); move the others, or use"
            " data.name=folder if these are classes"
        )
