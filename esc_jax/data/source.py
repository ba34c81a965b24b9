"""A data set in the official ESC-50 layout, as it lies on disk: a folder or its zip.

    meta/esc50.csv     filename, fold, target, category; src_file, where clips are cut from one recording, and take
    audio/             the files it names: wav, flac, ogg, or anything else that soundfile reads

The layout may sit one folder down, as in the published archive (`ESC-50-master/`).
"""

from collections.abc import Sequence
import csv
import dataclasses
import hashlib
import io
import os
import pathlib
import zipfile
import zlib

from esc_jax import files
from esc_jax.data.audio import AudioError
from esc_jax.errors import UserError, first_line

FOLDS = 100_000  # folds are numbers below it
COLUMNS = ("filename", "fold", "target", "category", "esc10", "src_file", "take")  # ESC-50's own
_NEEDED = COLUMNS[:4]
_CSV = "meta/esc50.csv"
# What zipfile raises for a member that is damaged, cut off or encrypted, or of a kind that it doesn't know.
DAMAGED = (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)


class DataError(UserError, ValueError):
    """A data set that cannot be used. The message is one sentence for the user."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the csv. A clip without a `src_file` is a recording of its own, called by its filename."""

    filename: str
    fold: int
    target: int
    category: str
    src_file: str
    take: str


def check_classes(names: Sequence[str], where: str) -> tuple[str, ...]:
    """The names, if they can be those of classes: TFDS keeps one a line, and strips them.

    Args:
        names: of the classes, by target.
        where: what they are from.

    Raises:
        DataError: one is empty, has several lines or white space at its ends, or is there twice.
    """
    for target, name in enumerate(names):
        if name.splitlines() != [name.strip()]:
            raise DataError(f"{where}: the name of class {target}, {name!r}, must be one line of text")
        if name in names[:target]:
            raise DataError(f"{where}: targets {names.index(name)} and {target} are both called {name}")
    return tuple(names)


def _reason(error: Exception) -> str:
    """The words of an exception, without the path that the sentence has already."""
    return getattr(error, "strerror", None) or first_line(error)


class Source:
    """Rows and bytes of a tree or zip in the official layout.

    Args:
        path: the folder or the zip file.

    Raises:
        DataError: no such path, not in this layout, a column or an audio file is missing, a row cannot be read.
    """

    layout = "esc50"

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path).expanduser().resolve()
        self._zip = None
        if self.path.is_dir():
            found = sorted([*self.path.glob(_CSV), *self.path.glob(f"*/{_CSV}")])
            names = [p.relative_to(self.path).as_posix() for p in found]
        elif self.path.is_file():
            try:
                self._zip = zipfile.ZipFile(self.path)
            except (*DAMAGED, ValueError) as error:
                raise DataError(
                    f"data.dir: {self.path} is neither a folder nor a readable zip file ({_reason(error)})"
                ) from None
            names = self._zip.namelist()
        else:
            raise DataError(f"data.dir: {self.path} does not exist")
        roots = sorted(n.removesuffix(_CSV) for n in names if f"/{n}".endswith(f"/{_CSV}") and n.count("/") <= 2)
        if not roots:
            raise DataError(
                f"data.dir: {self.path} holds no {_CSV}, so it is not in the layout of ESC-50{self._hint()}"
            )
        if len(roots) > 1 and "" not in roots:
            several = " and ".join(root.rstrip("/") for root in roots)
            raise DataError(f"data.dir: {self.path} holds several data sets, {several}: give one of them")
        self._root = min(roots, key=len)
        self.rows = self._read_rows()
        try:
            contents = self._contents()
        except OSError as error:
            raise DataError(f"data.dir: {error.filename} cannot be read ({error.strerror})") from None
        missing = [row.filename for row in self.rows if row.filename not in contents]
        if missing:
            raise DataError(
                f"data.dir: {len(missing)} of the {len(self.rows)} files named in {_CSV} are not in {self.path}"
                f" (the first: audio/{missing[0]})"
            )
        digest = hashlib.sha256(repr(self.rows).encode() + repr([contents[r.filename] for r in self.rows]).encode())
        self.fingerprint: str = digest.hexdigest()[:16]  # of the csv and the content of the files it names
        self.categories: tuple[str, ...] = self._categories()

    def _hint(self) -> str:
        from esc_jax.data import gtzan

        if self.path.is_dir() and gtzan.has_tracks(self.path):
            return "; its folders of sounds, one for each class, are read with data.name=gtzan"
        return ""

    def _read_rows(self) -> tuple[Row, ...]:
        try:
            reader = csv.DictReader(io.StringIO(self._bytes(_CSV).decode("utf-8-sig", errors="replace")))
            lines = [(reader.line_num, line) for line in reader]
        except (*DAMAGED, csv.Error) as error:
            raise DataError(f"data.dir: {_CSV} in {self.path} cannot be read ({_reason(error)})") from None
        absent = [c for c in _NEEDED if c not in (reader.fieldnames or ())]
        if absent:
            raise DataError(f"{_CSV} has no column {', '.join(absent)} (it has {', '.join(reader.fieldnames or ())})")
        rows = {}
        for number, line in lines:
            where = f"{_CSV}, line {number}"
            if None in line or None in line.values():  # what `csv` makes of values too many or too few
                raise DataError(f"{where}: give it as many values as there are columns, {len(reader.fieldnames)}")
            try:
                row = Row(
                    filename=line["filename"],
                    fold=int(line["fold"]),
                    target=int(line["target"]),
                    category=line["category"].strip(),
                    src_file=line.get("src_file", "").strip() or line["filename"],
                    take=line.get("take", ""),
                )
            except ValueError:
                raise DataError(f"{where}: fold and target must be whole numbers") from None
            if not 0 <= row.fold < FOLDS:
                raise DataError(f"{where}: the fold must be a number from 0 to {FOLDS - 1}")
            if not row.filename or row.filename in rows:
                raise DataError(f"{where}: every row must name a file of its own, and this one has {row.filename!r}")
            rows[row.filename] = row
        if not rows:
            raise DataError(f"{_CSV} holds no clips")
        return tuple(rows.values())

    def _contents(self) -> dict[str, tuple[int, int] | None]:
        """File → its size and CRC-32, of the files that the rows name and that are there."""
        folder = f"{self._root}audio/"
        if self._zip is not None:
            infos = {info.filename: info for info in self._zip.infolist()}
            named = {row.filename: infos.get(folder + row.filename) for row in self.rows}
            return {name: (info.file_size, info.CRC) for name, info in named.items() if info}
        paths = {row.filename: self.path / folder / row.filename for row in self.rows}
        paths = {name: path for name, path in paths.items() if path.exists()}
        return dict(zip(paths, files.checksums(paths.values()), strict=True))

    def _categories(self) -> tuple[str, ...]:
        names = {}
        for row in self.rows:
            if names.setdefault(row.target, row.category) != row.category:
                raise DataError(f"{_CSV}: target {row.target} is called {names[row.target]} and {row.category}")
        if sorted(names) != list(range(len(names))):
            raise DataError(f"{_CSV}: the targets are not 0 to {max(names)} without a gap")
        return check_classes([names[t] for t in range(len(names))], _CSV)

    def _bytes(self, name: str) -> bytes:
        if self._zip is not None:
            # ZipFile's lock makes reads from several threads safe.
            return self._zip.read(self._root + name)
        return (self.path / self._root / name).read_bytes()

    def where(self, row: Row) -> str:
        """What to call a row's file in errors."""
        return f"audio/{row.filename}"

    def read(self, row: Row) -> bytes:
        """The bytes of a clip's audio file. Raises AudioError."""
        try:
            return self._bytes(f"audio/{row.filename}")
        except DAMAGED as error:
            raise AudioError(f"{self.where(row)}: cannot be read ({_reason(error)})") from None


def open_source(path: str | os.PathLike):
    """The data set at `path`, in whichever layout it is: `Source`, or one with its attributes. Raises DataError."""
    from esc_jax.data import gtzan

    root = pathlib.Path(path).expanduser()
    if not root.is_dir() or (root / _CSV).is_file() or any(root.glob(f"*/{_CSV}")):
        return Source(root)
    try:
        return gtzan.open_tracks(root)
    except DataError as error:
        raise DataError(f"{error}; nor is it in the layout of ESC-50: it holds no {_CSV}") from None
