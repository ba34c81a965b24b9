"""Tables of two columns that a user gives: a class, and its name in another language or its threshold."""

from collections.abc import Callable, Collection, Mapping, Sequence
import math
import pathlib
import re

from esc_jax.data.layouts.table import Table
from esc_jax.data.rows import DataError
from esc_jax.errors import UserError


class ClassTableError(UserError, ValueError):
    """A table that cannot be used. The message is one sentence."""


def _read(path: pathlib.Path, second: str, is_row: Callable[[str, str], bool]) -> dict[str, str]:
    """The first column of a table → its second one.

    Args:
        path: the table.
        second: what the second column has.
        is_row: first two cells of the first line → whether they are a row; else, the line is a header.
    """
    try:
        table = Table(path, f"a class and its {second}", f"class,{second}")
        rows = [(line, [cell.strip() for cell in cells]) for line, cells in table.lines()]
    except DataError as error:
        raise ClassTableError(str(error).removeprefix("data.dir: ")) from None
    width = len(rows[0][1])
    entries: dict[str, str] = {}
    for line, cells in rows if is_row(*rows[0][1][:2]) else rows[1:]:
        if len(cells) != width:
            raise ClassTableError(f"{path}, line {line}: {len(cells)} values, but the first line has {width}")
        name, value = cells[:2]
        if name in entries:
            raise ClassTableError(f"{path}, line {line}: the class {name} has two lines")
        entries[name] = value
    if not entries:
        raise ClassTableError(f"{path} has no rows below its header")
    return entries


def read_names(path: pathlib.Path, classes: Collection[str]) -> dict[str, str]:
    """Class → its other name, from a table of two columns, separated by comma, semicolon or tab.

    Args:
        path: the table. Its first line is a header, unless it begins with a class.
        classes: of the model.
    """
    entries = _read(path, "name", lambda name, _: name in classes)
    if empty := [name for name, value in entries.items() if not value]:
        raise ClassTableError(f"{path}: the class {empty[0]} has no name")
    return entries


def _to_float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def read_numbers(path: pathlib.Path, classes: Collection[str]) -> dict[str, float]:
    """Class → its threshold from 0 to 1, from such a table. A first line with a number is no header either."""
    numbers = {}
    entries = _read(path, "threshold", lambda name, text: name in classes or not math.isnan(_to_float(text)))
    for name, text in entries.items():
        # Without a header, the comma of "rain;0,7" is taken for the one between the columns.
        if name not in classes and (parts := re.fullmatch(r"(.*)[;\t] *(\d*)", name)):
            name, text = parts[1], f"{parts[2]},{text}"
        if re.fullmatch(r"\d*,\d+", text):
            raise ClassTableError(f"{path}: the threshold of {name}, {text!r}, has a comma: use a decimal point")
        value = _to_float(text)
        if not 0 <= value <= 1:
            raise ClassTableError(f"{path}: the threshold of {name}, {text!r}, is not a number from 0 to 1")
        numbers[name] = value
    return numbers


def renamed(classes: Sequence[str], names: Mapping[str, str]) -> tuple[str, ...]:
    """The classes with their other names; a class without one keeps its own.

    Raises:
        ClassTableError: a name is for no class, or two classes get the same.
    """
    if unknown := [name for name in names if name not in classes]:
        raise ClassTableError(f"the model has no class {unknown[0]!r}, for which there is a name")
    new = tuple(names.get(name, name) for name in classes)
    if len(set(new)) < len(new):
        twice = next(name for name in new if new.count(name) > 1)
        raise ClassTableError(f"two classes would be called {twice!r}")
    return new
