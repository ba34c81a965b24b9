"""Names from files, such as those of classes, in Markdown and in csv files."""

import re

# An underscore within a word is no markup.
_MARKUP = re.compile(r"[\\`*\[\]<>|]|(?<![^\W_])_|_(?![^\W_])")
# A spreadsheet runs a cell that begins with one of these as a formula. Apostrophes before it are part of the name.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def escape_markdown(text: str) -> str:
    """The text as it is, in Markdown: on one line, without markup and without HTML."""
    return " ".join(_MARKUP.sub(r"\\\g<0>", text).splitlines())


def escape_cell(text: str) -> str:
    """A cell of a csv file. An apostrophe comes before what a spreadsheet would run as a formula."""
    return f"'{text}" if _FORMULA.match(text) else text


def restore_cell(cell: str) -> str:
    """The text of a cell that `escape_cell` returned."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
