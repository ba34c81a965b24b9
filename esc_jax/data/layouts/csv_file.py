"""A csv that names files and their labels.

    filename,label,fold,recording
    garden/01.wav,rain,1,garden
    /data/street.flac,traffic,2,street

The columns are found by their usual names (`table.USUAL`), or named by `data.columns`. A relative name is looked up in
the folder of the csv, then in the folder `audio` beside the csv.
"""

from collections.abc import Sequence
import os
import pathlib

from esc_jax.data.layouts import splits
from esc_jax.data.layouts.class_folders import nfc
from esc_jax.data.layouts.file_layout import Entries, FileLayout, resolve
from esc_jax.data.layouts.labels import choose_column, split_labels
from esc_jax.data.layouts.lookup import Lookup, find_files
from esc_jax.data.layouts.options import Options
from esc_jax.data.layouts.table import SUFFIXES, Table
from esc_jax.data.rows import DataError, Grouping


def _tables(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.glob("*.?sv") if path.suffix in SUFFIXES and not path.name.startswith("."))


def matches(path: pathlib.Path) -> bool:
    """Whether `path` is a csv file, or a folder with exactly one, which has columns of files and of labels."""
    if path.is_file():
        return path.suffix.lower() in SUFFIXES
    if not path.is_dir() or len(tables := _tables(path)) != 1:
        return False
    try:
        table = Table(tables[0])
    except DataError:
        return False
    return bool(table.find("file") and table.find("labels"))


def find_table(path: str | os.PathLike[str]) -> pathlib.Path:
    """Returns the csv file of a path: the path itself, or the only one in a folder. Raises DataError."""
    resolved = resolve(path)
    if not resolved.is_dir():
        return resolved
    tables = _tables(resolved)
    if len(tables) == 1:
        return tables[0]
    listed = f"{len(tables)} csv files, {', '.join(table.name for table in tables[:5])}" if tables else "no csv file"
    hint = "" if tables else "; class folders are read with data.name=folder"
    raise DataError(f"data.dir: {resolved} holds {listed}: give the path of one{hint}")


def read_entries(table: Table, options: Options, subfolder: str = "", others: Sequence[Table] = ()) -> Entries:
    """Reads a table that names files and labels.

    Args:
        table: the table.
        options: names of the columns, and separator of labels.
        subfolder: of the table's folder, in which names are looked up too.
        others: further tables of the data set, with the same columns: the separator of labels is that of all tables.

    Raises:
        DataError: a column is missing, a file is missing or unusable, or a label or fold is invalid.
    """
    (file, *_), columns = table.require("file", options.columns.get("file", "")), options.columns
    labels = table.require("labels", columns.get("labels", ""))
    labels = [name for name in labels if name != file] or labels
    fold = table.find("fold", columns.get("fold", ""))[:1]
    group = table.find("group", columns.get("group", ""))[:1]
    lines, values = table.read([file, *labels, *fold, *group])
    elsewhere = [other.read(labels)[1] for other in others]
    label = choose_column(labels, {name: sum((part[name] for part in elsewhere), values[name]) for name in labels})
    cells, multi_label = split_labels(
        values[label],
        lines,
        options.label_separator,
        f"column {label} of {table.path}",
        {cell for part in elsewhere for cell in part[label]},
    )
    names, paths = _find(values[file], lines, table.path, subfolder)
    entries = Entries(names, paths, cells, multi_label=multi_label)
    if fold:
        entries.folds = splits.parse_folds(values[fold[0]], lines, f"column {fold[0]} of {table.path}")
    if group:
        entries.sources = [value or name for value, name in zip(values[group[0]], names, strict=True)]
        number = len(set(entries.sources))
        entries.grouping = Grouping(
            "column", f"{number} source recordings, from column {group[0]} of {table.path.name}"
        )
    return entries


def _find(names: list[str], lines: list[int], table: pathlib.Path, subfolder: str) -> tuple[list[str], dict[str, str]]:
    """Unique names and paths of the files that a table names."""
    lookup = Lookup(table.parent)
    # An absolute path says where the data lie. Files are called by what the absolute paths do not have in common.
    absolute = {os.path.dirname(os.path.normpath(name)) for name in names if os.path.isabs(name)}
    common = os.path.commonpath(absolute) if absolute else ""
    prefix = "absolute/" if absolute and not all(map(os.path.isabs, names)) else ""

    def find(name: str) -> tuple[str, str] | None:
        if os.path.isabs(name):
            path = os.path.normpath(name)
            if os.path.isfile(path):
                return prefix + nfc(os.path.relpath(path, common).replace(os.sep, "/")), path
            if os.path.exists(path):
                raise DataError(f"{name!r} is not an audio file: remove the row, or name a file")
            return None
        return lookup.find(name) or (lookup.find(f"{subfolder}/{name}") if subfolder else None)

    folders = [table.parent, *([table.parent / subfolder] if subfolder else [])]
    return find_files(names, lines, table, find, folders)


class CsvLayout(FileLayout):
    """Rows and audio files of a csv; see `rows.Layout`.

    Args:
        path: the csv file, or a folder with exactly one.
        options: names of the columns, separator of labels, how files are grouped, number of folds.

    Raises:
        DataError: as in `read_entries`; or there is no csv, or several.
    """

    def __init__(self, path: str | os.PathLike[str], options: Options = Options()):
        table = Table(find_table(path))
        super().__init__(table.path, read_entries(table, options, subfolder="audio"), options)
