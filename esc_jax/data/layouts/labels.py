"""Labels in the cells of a table: one, or several with a separator between them (`data.label_separator`)."""

from collections.abc import Collection, Sequence

from absl import logging

from esc_jax.data.layouts.class_folders import nfc
from esc_jax.data.layouts.options import AUTO
from esc_jax.data.rows import DataError
from esc_jax.errors import counted

SEPARATORS = (";", "|", ",")  # in order of preference: a label can contain a comma


def choose_column(columns: Sequence[str], values: dict[str, list[str]]) -> str:
    """The column of the labels among those that may be: the first one that does not hold numbers, or else the first."""
    named = [name for name in columns if not all(value.isdecimal() for value in set(values[name]))]
    return (named or list(columns))[0]


def _separator(cells: set[str], given: str) -> str:
    """The separator in cells; " " stands for white space, and empty for none."""
    if given != AUTO:
        return given
    for separator in SEPARATORS:
        if any(separator in cell for cell in cells):
            return separator
    # A label of several words, such as "church bells", is one label.
    words = [cell.split() for cell in cells]
    single = {cell[0] for cell in words if len(cell) == 1}
    several = [cell for cell in words if len(cell) > 1]
    return " " if several and all(word in single for cell in several for word in cell) else ""


def split_labels(
    cells: Sequence[str], lines: Sequence[int], given: str, where: str, others: Collection[str] = ()
) -> tuple[list[tuple[str, ...]], bool]:
    """Splits cells into labels, and logs the separator.

    Args:
        cells: one of each row.
        lines: their lines in the table.
        given: `data.label_separator`. "auto" splits at a semicolon, a vertical bar or a comma, whichever of these, in
            this order, is in a cell; or at white space, if every word of every cell of several words is also the only
            label of another row.
        where: table and column, for messages.
        others: cells of the same column in other tables of the data set, which have the same separator.

    Returns:
        The labels of every row, and whether the data set is multi-label: whether a cell has several labels. In a
        multi-label set, an empty cell is a sound of none of the classes.

    Raises:
        DataError: no cell contains the given separator, all cells are empty, or, in a single-label set, one is.
    """
    distinct = {*cells, *others}
    separator = _separator(distinct, given)
    if given not in (AUTO, "") and not any(separator in cell for cell in distinct):
        raise DataError(
            f"data.label_separator={given!r} is in no cell of {where}, such as {cells[0]!r}; set it to the separator of"
            " the labels, or to auto"
        )
    known: dict[str, tuple[str, ...]] = {}
    for cell in distinct:
        parts = [cell] if not separator else cell.split() if separator == " " else cell.split(separator)
        known[cell] = tuple(dict.fromkeys(nfc(part.strip()) for part in parts if part.strip()))
    multi_label = any(len(labels) > 1 for labels in known.values())
    if not any(known.values()):
        raise DataError(f"{where} names no labels: every cell is empty; data.columns.labels names another column")
    empty = [line for cell, line in zip(cells, lines, strict=True) if not known[cell]]
    if empty and not multi_label:
        raise DataError(
            f"{where}, line {empty[0]}: names no label, as {len(empty)} of {len(cells)} rows: give each file a label,"
            " or put sounds of none of the classes into a folder of their own (data.background)"
        )
    if multi_label:
        shown = "white space" if separator == " " else repr(separator)
        logging.info(
            "%s: labels are separated at %s, up to %d in a file%s", where, shown, max(map(len, known.values())),
            f"; {counted(len(empty), 'file')} without one" if empty else "",
        )  # fmt: skip
    return [known[cell] for cell in cells], multi_label
