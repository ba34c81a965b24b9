"""Tables of two columns that a user gives: a class, and its name in another language or its threshold."""

from collections.abc import Mapping, Sequence
import math
import pathlib

from esc_jax.data.layouts.table import Table
from esc_jax.data.rows import DataError
from esc_jax.errors import UserError


class ClassTableError(UserError, ValueError):
    """A table that cannot be used. The message is one sentence."""


def _read(path: pathlib.Path) -> dict[str, str]:
    """The first column of a table with a header → its second one."""
    try:
        table = Table(path)
        lines, columns = table.read(table.columns[:2])
    except DataError as error:
        raise ClassTableError(str(error).removeprefix("data.dir: ")) from None
    classes, values = (columns[name] for name in table.columns[:2])
    entries: dict[str, str] = {}
    for line, name, value in zip(lines, classes, values, strict=True):
        if name in entries:
            raise ClassTableError(f"{path}, line {line}: the class {name} has two lines")
        entries[name] = value
    return entries


def read_names(path: pathlib.Path) -> dict[str, str]:
    """Class → its other name, from a table with a header, separated by comma, semicolon or tab."""
    entries = _read(path)
    if empty := [name for name, value in entries.items() if not value]:
        raise ClassTableError(f"{path}: the class {empty[0]} has no name")
    return entries


def read_numbers(path: pathlib.Path) -> dict[str, float]:
    """Class → its threshold from 0 to 1, from such a table."""
    numbers = {}
    for name, text in _read(path).items():
        try:
            value = float(text)
        except ValueError:
            value = math.nan
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
