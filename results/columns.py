"""The rows of the csv files of this folder, and how a cell of a table is written."""

from collections.abc import Callable
import csv
import dataclasses
import functools
import pathlib
import re

DATA = pathlib.Path(__file__).resolve().parent
SHORT_ID = re.compile(r"\d[\w.]*|[a-k]")  # the others are not shown
EMPTY = "–"

Row = dict[str, str]


class TableError(Exception):
    """A page or a csv file that cannot be used."""


@functools.cache
def read(name: str) -> tuple[Row, ...]:
    """The rows of NAME.csv."""
    with open(DATA / f"{name}.csv", newline="", encoding="utf-8") as file:
        return tuple(csv.DictReader(file))


def by_id(name: str, row_id: str) -> Row:
    """The row of NAME.csv whose id is `row_id`."""
    for row in read(name):
        if row["id"] == row_id:
            return row
    raise TableError(f"{name}.csv has no row with the id {row_id}")


@dataclasses.dataclass(frozen=True)
class Column:
    """A header, and the text of a row's cell, which may depend on the folder of the page (links)."""

    header: str
    cell: Callable[[Row], str]
    link: str = ""  # page below docs/ that the cell links to


def column(header: str, key: str) -> Column:
    """A column of the csv file as it is."""
    return Column(header, lambda row: row[key] or EMPTY)


def spread(row: Row, key: str, signed: bool = False) -> str:
    """`12.0 (11.5–13.1)`; `11.5–13.1` without a middle, `more than 60` without a maximum as well."""
    value, low, high = (_number(row.get(name, ""), signed) for name in (key, f"{key}_low", f"{key}_high"))
    joint = " to " if signed else "–"
    if low and high:
        return f"{value} ({low}{joint}{high})" if value else f"{low}{joint}{high}"
    if high:
        return f"{value} (at most {high})"
    return value or (f"more than {low}" if low else EMPTY)


def _number(text: str, signed: bool) -> str:
    if signed and text and float(text) > 0:
        return f"+{text}"
    return text.replace("-", "−") if signed else text


def span(header: str, key: str, signed: bool = False) -> Column:
    """A value with its range."""
    return Column(header, lambda row: spread(row, key, signed))


def label_cell(row: Row) -> str:
    return f"[{row['id']}] {row['experiment']}" if SHORT_ID.fullmatch(row["id"]) else row["experiment"]


def folds_cell(row: Row) -> str:
    return f"{row['trained_on']} → {row['tested_on']}"


def per_fold(prefix: str) -> Column:
    def cell(row: Row) -> str:
        values = [(fold, row[f"{prefix}_{fold}"]) for fold in range(1, 6) if row[f"{prefix}_{fold}"]]
        text = ", ".join(value for _, value in values)
        return f"{text} (folds {values[0][0]}–{values[-1][0]})" if len(values) > 1 else text or EMPTY

    return Column("TTA per fold" if prefix == "tta" else "accuracy per fold", cell)


def deviation_cell(row: Row) -> str:
    return " / ".join(row[key] or EMPTY for key in ("accuracy_std", "tta_std")) if row["accuracy_std"] else EMPTY


def bracketed(header: str, key: str) -> Column:
    return Column(header, lambda row: f"[{row[key]}]")


def quoted(header: str, key: str) -> Column:
    """A value with its range from another csv file: the cell of `key` has file, id and column, or is empty."""

    def cell(row: Row) -> str:
        if not row[key]:
            return EMPTY
        file, row_id, name = row[key].split()
        return spread(by_id(file, row_id), name)

    return Column(header, cell)


def measured_cell(row: Row) -> str:
    return by_id(row["file"], row["id"])[row["column"]]


def target_cell(row: Row) -> str:
    return f"{row['bound']} {row['target']}".strip()


def met_cell(row: Row) -> str:
    measured, target = float(measured_cell(row)), float(row["target"])
    return "yes" if (measured <= target if row["bound"] == "at most" else measured >= target) else "no"
