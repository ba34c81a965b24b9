"""The official ESC-50 layout: a folder or its zip archive.

    meta/esc50.csv     filename, fold, target, category; optionally src_file (ID of the source recording) and take
    audio/             the files it names: wav, flac, ogg, or any other format that libsndfile reads

The layout may sit one folder down, as in the published archive (`ESC-50-master/`).
"""

import contextlib
import csv
import hashlib
import io
import os
import pathlib
import zipfile
import zlib

from esc_jax import files
from esc_jax.data.audio import AudioError
from esc_jax.data.layouts import class_folders
from esc_jax.data.rows import About, DataError, Grouping, Row, check_classes
from esc_jax.errors import first_line

FOLDS = 100_000  # upper limit of fold numbers
COLUMNS = ("filename", "fold", "target", "category", "esc10", "src_file", "take")  # of the official file
CSV = "meta/esc50.csv"
_REQUIRED = COLUMNS[:4]
# What zipfile raises for a member that is damaged, truncated, encrypted or compressed by an unknown method.
DAMAGED = (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)

_ABOUT = About(
    description="Environmental sounds: 2,000 clips of five seconds, 50 classes, five folds.",
    homepage="https://github.com/karolpiczak/ESC-50",
    citation="""\
@inproceedings{piczak2015esc,
  title = {{ESC}: Dataset for Environmental Sound Classification},
  author = {Piczak, Karol J.},
  booktitle = {Proceedings of the 23rd ACM International Conference on Multimedia},
  pages = {1015--1018},
  year = {2015},
  doi = {10.1145/2733373.2806390}
}""",
    license="CC BY-NC 3.0; the ESC-10 part CC BY 3.0",
)


def matches(path: pathlib.Path) -> bool:
    """Whether `path` is read as this layout: a file that is no csv, and a folder that holds meta/esc50.csv."""
    if not path.is_dir():
        return path.suffix.lower() not in (".csv", ".tsv", ".txt")
    return (path / CSV).is_file() or any(path.glob(f"*/{CSV}"))


def _reason(error: Exception) -> str:
    """The message of an exception without the path, which the sentence around it names already."""
    return getattr(error, "strerror", None) or first_line(error)


class Esc50Layout:
    """Rows and audio files of a folder or zip archive; see `rows.Layout`.

    Args:
        path: the folder or the zip file.

    Raises:
        DataError: the path does not exist or is not in this layout, a column or an audio file is missing, or a row is
            invalid.
    """

    about = _ABOUT
    task = "single_label"

    def __init__(self, path: str | os.PathLike[str]):
        self.path = pathlib.Path(path).expanduser().resolve()
        self._zip: zipfile.ZipFile | None = None
        self._names: dict[str, str] = {}  # composed name → name in the archive or in the folder, where it differs
        self._root = self._find_root(self._list_names())
        self.rows, self.categories, self.grouping = self._read_table()
        try:
            contents = self._checksums()
        except OSError as error:
            raise DataError(f"data.dir: {error.filename} cannot be read ({error.strerror})") from None
        missing = [row.filename for row in self.rows if row.filename not in contents]
        if missing:
            raise DataError(
                f"data.dir: {len(missing)} of the {len(self.rows)} files named in {CSV} are not in {self.path}"
                f" (the first: audio/{missing[0]})"
            )
        described = repr((self.rows, self.categories, [contents[row.filename] for row in self.rows]))
        digest = hashlib.sha256(described.encode())
        self.fingerprint = digest.hexdigest()[:16]

    def _list_names(self) -> list[str]:
        """Names in the archive, or of the tables in the folder, relative to `path`."""
        if self.path.is_dir():
            tables = [*self.path.glob(CSV), *self.path.glob(f"*/{CSV}")]
            return [table.relative_to(self.path).as_posix() for table in tables]
        if not self.path.is_file():
            raise DataError(f"data.dir: {self.path} does not exist")
        try:
            self._zip = zipfile.ZipFile(self.path)
        except (*DAMAGED, ValueError) as error:
            raise DataError(
                f"data.dir: {self.path} is neither a folder nor a readable zip file ({_reason(error)})"
            ) from None
        names = {_decoded_name(info): info.filename for info in self._zip.infolist()}
        self._names = {name: member for name, member in names.items() if name != member}
        return list(names)

    def _find_root(self, names: list[str]) -> str:
        """The folder of meta/ and audio/, relative to `path`: empty, or ending in a slash."""
        roots = sorted(n.removesuffix(CSV) for n in names if f"/{n}".endswith(f"/{CSV}") and n.count("/") <= 2)
        if not roots:
            hint = ""
            if class_folders.audio_files(class_folders.list_files(self.path)):
                hint = "; its folders of sounds, one for each class, are read with data.name=folder"
            raise DataError(f"data.dir: {self.path} holds no {CSV}, so it is not in the layout of ESC-50{hint}")
        if len(roots) > 1 and "" not in roots:
            several = " and ".join(root.rstrip("/") for root in roots)
            raise DataError(f"data.dir: {self.path} holds several data sets, {several}: give one of them")
        return min(roots, key=len)

    def _read_table(self) -> tuple[tuple[Row, ...], tuple[str, ...], Grouping]:
        try:
            reader = csv.DictReader(io.StringIO(self._bytes(CSV).decode("utf-8-sig", errors="replace")))
            lines = [(reader.line_num, line) for line in reader]
        except (*DAMAGED, csv.Error) as error:
            raise DataError(f"data.dir: {CSV} in {self.path} cannot be read ({_reason(error)})") from None
        columns = reader.fieldnames or ()
        absent = [c for c in _REQUIRED if c not in columns]
        if absent:
            raise DataError(f"{CSV} has no column {', '.join(absent)} (it has {', '.join(columns)})")
        rows: dict[str, Row] = {}
        names: dict[int, str] = {}
        for number, line in lines:
            where = f"{CSV}, line {number}"
            if None in line or None in line.values():  # how csv reports too many or too few values
                raise DataError(f"{where}: give it as many values as there are columns, {len(columns)}")
            row = _parse_row({key: class_folders.nfc(value) for key, value in line.items()}, where)
            if not row.filename or row.filename in rows:
                raise DataError(f"{where}: every row must name a file of its own, and this one has {row.filename!r}")
            rows[row.filename] = row
            (target,), category = row.targets, class_folders.nfc(line["category"].strip())
            if names.setdefault(target, category) != category:
                raise DataError(f"{CSV}: target {target} is called {names[target]} and {category}")
        if not rows:
            raise DataError(f"{CSV} holds no clips")
        if sorted(names) != list(range(len(names))):
            raise DataError(f"{CSV}: the targets are not 0 to {max(names)} without a gap")
        categories = check_classes([names[t] for t in range(len(names))], CSV)
        return tuple(rows.values()), categories, _grouping(list(rows.values()))

    def _checksums(self) -> dict[str, tuple[int, int] | None]:
        """File → size and CRC-32, of the files that are named by a row and exist."""
        folder = f"{self._root}audio/"
        if self._zip is not None:
            infos = {info.filename: info for info in self._zip.infolist()}
            named = {row.filename: infos.get(self._member(folder + row.filename)) for row in self.rows}
            return {name: (info.file_size, info.CRC) for name, info in named.items() if info}
        paths = {row.filename: self.path / folder / row.filename for row in self.rows}
        if not all(path.exists() for path in paths.values()):
            self._names = self._list_decomposed()
            paths = {name: self.path / self._member(folder + name) for name in paths}
        paths = {name: path for name, path in paths.items() if path.exists()}
        return dict(zip(paths, files.checksums(paths.values()), strict=True))

    def _list_decomposed(self) -> dict[str, str]:
        """Composed name → name, relative to `path`, of the files in the folder audio whose names are not composed."""
        walk = os.walk(self.path / self._root / "audio")
        paths = (pathlib.Path(folder, name) for folder, _, members in walk for name in members)
        names = [path.relative_to(self.path).as_posix() for path in paths]
        return {class_folders.nfc(name): name for name in names if class_folders.nfc(name) != name}

    def _member(self, name: str) -> str:
        """The name of a file in the archive or the folder, relative to `path`."""
        return self._names.get(name, name)

    def _bytes(self, name: str) -> bytes:
        if self._zip is not None:
            # ZipFile's lock makes reads from several threads safe.
            return self._zip.read(self._member(self._root + name))
        return (self.path / self._member(self._root + name)).read_bytes()

    def where(self, row: Row) -> str:
        """Returns the name of a row's file for error messages."""
        return f"audio/{row.filename}"

    def locate(self, row: Row) -> pathlib.Path | bytes:
        """Returns the path of a clip's audio file, or its content if it lies in the archive. Raises AudioError."""
        if self._zip is not None:
            return self.read(row)
        return self.path / self._member(f"{self._root}audio/{row.filename}")

    def read(self, row: Row) -> bytes:
        """Returns the content of a clip's audio file. Raises AudioError."""
        try:
            return self._bytes(f"audio/{row.filename}")
        except DAMAGED as error:
            raise AudioError(f"{self.where(row)}: cannot be read ({_reason(error)})") from None


def _decoded_name(info: zipfile.ZipInfo) -> str:
    """The composed name of a member. macOS writes UTF-8 without its flag, and such names are read as code page 437."""
    name = info.filename
    if not info.flag_bits & 0x800:
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return class_folders.nfc(name)


def _grouping(rows: list[Row]) -> Grouping:
    """Of a table: by its column `src_file` where it names recordings."""
    if all(row.src_file == row.filename for row in rows):
        return Grouping("none", f"{CSV} has no column src_file: every file counts as a recording of its own")
    return Grouping("column", f"{len({row.src_file for row in rows})} source recordings, from column src_file of {CSV}")


def _parse_row(line: dict[str, str], where: str) -> Row:
    """A line of the table. A clip without `src_file` is a recording of its own, whose ID is the filename."""
    try:
        row = Row(
            filename=line["filename"],
            fold=int(line["fold"]),
            targets=(int(line["target"]),),
            src_file=line.get("src_file", "").strip() or line["filename"],
            take=line.get("take", ""),
        )
    except ValueError:
        raise DataError(f"{where}: fold and target must be whole numbers") from None
    if not 0 <= row.fold < FOLDS:
        raise DataError(f"{where}: the fold must be a number from 0 to {FOLDS - 1}")
    return row
