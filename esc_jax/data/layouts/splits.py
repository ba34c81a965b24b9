"""Folds from the values of a table, and from the names of splits."""

from collections.abc import Collection, Sequence
import re

from absl import logging

from esc_jax.data.layouts.esc50 import FOLDS
from esc_jax.data.rows import DataError

# With data.test_fold=3, `protocol=validation` validates on the fold after the last, which is the first.
VALIDATION, TRAIN, TEST = 1, 2, 3
SPLITS = (
    dict.fromkeys(("validation", "valid", "val", "dev"), VALIDATION)
    | dict.fromkeys(("train", "training"), TRAIN)
    | dict.fromkeys(("test", "testing", "eval", "evaluation"), TEST)
)
_NUMBER = re.compile(r"(?:fold[-_ ]?)?(\d{1,6})(?:\.0*)?")  # 3, 3.0 (pandas, in a column with gaps), fold3


def all_splits(names: Collection[str]) -> bool:
    """Whether all names are names of splits, such as "train"."""
    return bool(names) and all(name.lower() in SPLITS for name in names)


def parse_folds(values: Sequence[str], lines: Sequence[int], where: str) -> list[int]:
    """Folds from the values of a column: whole numbers, or names of splits.

    Args:
        values: one of each row.
        lines: their lines in the table.
        where: table and column, for messages.

    Raises:
        DataError: a value is neither, or names and numbers are mixed.
    """
    known: dict[str, int] = {}
    named: dict[str, int] = {}
    for value, line in zip(values, lines, strict=True):
        if value in known:
            continue
        name = value.strip().lower()
        number = _NUMBER.fullmatch(name)
        if name in SPLITS:
            known[value] = named[name] = SPLITS[name]
        elif number and int(number[1]) < FOLDS:
            known[value] = int(number[1])
        else:
            raise DataError(
                f"{where}, line {line}: {value!r} is no fold: expected a whole number from 0 to {FOLDS - 1}, or one of"
                f" {', '.join(SPLITS)}"
            )
    if named and len(named) < len({value.strip().lower() for value in known}):
        raise DataError(f"{where}: has both numbers and names of splits ({', '.join(named)}): use one of them")
    if named:
        log_splits(named, where)
    return [known[value] for value in values]


def log_splits(names: Collection[str], where: str) -> None:
    """Logs which folds the splits with these names are."""
    folds = ", ".join(f"{name} is fold {SPLITS[name]}" for name in sorted(names, key=lambda name: SPLITS[name]))
    logging.info("%s: %s; test on a split with data.test_fold", where, folds)
