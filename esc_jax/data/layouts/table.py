"""Tables: csv files with a header, separated by comma, semicolon or tab."""

from collections.abc import Iterator, Sequence
import csv
import pathlib

from esc_jax.data.layouts.class_folders import nfc
from esc_jax.data.rows import DataError
from esc_jax.errors import first_line

SUFFIXES = (".csv", ".tsv", ".txt")
DELIMITERS = (",", ";", "\t")
# Usual names of the columns by their role, in order of preference: in lower case, without "_", "-" and spaces.
USUAL = {
    "file": ("filename", "file", "path", "fname", "filepath", "slicefilename"),
    "labels": ("label", "category", "class", "labels", "target", "classname"),
    "fold": ("fold", "split", "foldid"),
    "group": ("source", "srcfile", "recording", "group", "fsid"),
}
NONE = "none"  # value of data.columns.fold and .group: not used, whatever the columns are called


def _plain(name: str) -> str:
    return nfc(name).strip().lower().translate({ord(c): None for c in "_- "})


class Table:
    """A table whose header has been read.

    Args:
        path: the file.
        row: what a row has, for messages.
        header: an example of a first line, for messages.

    Attributes:
        columns: names of the columns.
        delimiter: between the cells.

    Raises:
        DataError: the file cannot be read, is empty or binary, or has a single column.
    """

    def __init__(self, path: pathlib.Path, row: str = "a file and its label", header: str = "filename,label"):
        self.path = path
        if not path.is_file():
            raise DataError(f"data.dir: {path} {'is not a csv file' if path.exists() else 'does not exist'}")
        self.delimiter = ","
        first = next((line for line in self._text() if line.strip()), "")
        if not first:
            raise DataError(f"data.dir: {path} is empty: its first line names the columns, for example {header}")
        try:
            headers = {
                delimiter: next(csv.reader([first], delimiter=delimiter, skipinitialspace=True))
                for delimiter in DELIMITERS
            }
        except csv.Error as error:
            raise DataError(f"data.dir: the first line of {path} cannot be read ({error})") from None
        files = set(USUAL["file"])
        self.delimiter = max(headers, key=lambda d: (bool(files & set(map(_plain, headers[d]))), len(headers[d])))
        _, self.columns = next(self.lines())
        if len(self.columns) < 2:
            raise DataError(
                f"data.dir: {path} has one column, {self.columns[0]!r}: {row} are separated by comma, semicolon or tab"
            )

    def find(self, role: str, given: str = "") -> list[str]:
        """Returns the columns of a role, the preferred one first.

        Args:
            role: key of USUAL.
            given: `data.columns.ROLE`; if not empty, the column is the one of this name.

        Raises:
            DataError: there is no column `given`.
        """
        if given == NONE and role in ("fold", "group"):
            return []
        if given:
            matching = [name for name in self.columns if nfc(name) == nfc(given)]
            matching += [name for name in self.columns if nfc(name).lower() == nfc(given).lower()]
            if not matching:
                raise DataError(
                    f"data.columns.{role}={given}: {self.path} has no such column; it has {', '.join(self.columns)}"
                )
            return matching[:1]
        plain = {_plain(name): name for name in reversed(self.columns)}
        return [plain[usual] for usual in USUAL[role] if usual in plain]

    def require(self, role: str, given: str = "") -> list[str]:
        """As `find`. Raises DataError if there is no such column."""
        if columns := self.find(role, given):
            return columns
        meaning = {"file": "the files", "labels": "the labels"}.get(role, f"the {role}")
        raise DataError(
            f"data.dir: {self.path} has no column of {meaning} by one of the names {', '.join(USUAL[role])}; it has"
            f" {', '.join(self.columns)}: name it with data.columns.{role}"
        )

    def read(self, names: Sequence[str]) -> tuple[list[int], dict[str, list[str]]]:
        """Reads columns.

        Args:
            names: of the columns.

        Returns:
            The line of every row in the file, and the values of every column, without white space at their ends.

        Raises:
            DataError: a row has more or fewer values than there are columns, there are no rows, or the file is damaged.
        """
        places = {name: self.columns.index(name) for name in names}
        values: dict[str, list[str]] = {name: [] for name in places}
        shared: dict[str, str] = {}  # most columns have few different values
        lines: list[int] = []
        rows = self.lines()
        next(rows)
        for line, row in rows:
            if len(row) != len(self.columns):
                raise DataError(
                    f"{self.path}, line {line}: give it as many values as there are columns, {len(self.columns)}; it"
                    f" has {len(row)}"
                )
            lines.append(line)
            for name, place in places.items():
                value = row[place].strip()
                if len(shared) < 100_000:
                    value = shared.setdefault(value, value)
                values[name].append(value)
        if not lines:
            raise DataError(f"data.dir: {self.path} has no rows below its header")
        return lines, values

    def _text(self) -> Iterator[str]:
        """Lines of the file."""
        try:
            with open(self.path, "rb") as raw:
                encoding = "utf-16" if raw.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
            with open(self.path, encoding=encoding, newline="") as file:
                for line in file:
                    if "\0" in line:
                        raise DataError(f"data.dir: {self.path} is not a text file; expected a csv")
                    yield line
        except UnicodeError:
            raise DataError(f"data.dir: {self.path} is not UTF-8: save it as CSV UTF-8") from None
        except OSError as error:
            raise DataError(f"data.dir: {self.path} cannot be read ({error.strerror})") from None

    def lines(self) -> Iterator[tuple[int, list[str]]]:
        """Number and values of the lines that are not empty, the header first."""
        reader = csv.reader(self._text(), delimiter=self.delimiter, skipinitialspace=True)
        try:
            for row in reader:
                if any(cell and not cell.isspace() for cell in row):
                    yield reader.line_num, row
        except csv.Error as error:
            raise DataError(f"{self.path}, line {reader.line_num}: not a csv ({first_line(error)})") from None
