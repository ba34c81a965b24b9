"""The official ESC-50 layout: a folder or its zip archive.

    meta/esc50.csv     filename, fold, target, category; optionally src_file (ID of the source recording) and take
    audio/             the files it names: wav, flac, ogg, or any other format that libsndfile or ffmpeg reads

The layout may be in a subfolder, as in the published archive (`ESC-50-master/`).
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
from esc_jax.data.layouts import class_folders
from esc_jax.data.layouts.class_folders import nfc
from esc_jax.data.rows import About, DataError, Grouping, Row, check_classes
from esc_jax.data.source import AudioError, read_file
from esc_jax.errors import first_line

FOLDS = 100_000  # upper limit of fold numbers
COLUMNS = ("filename", "fold", "target", "category", "esc10", "src_file", "take")  # of the official file
CSV = "meta/esc50.csv"
MAX_MEMBER_BYTES = 2 << 30  # of a file in an archive, unpacked
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
        self.path = files.resolve(path)
        self._zip: zipfile.ZipFile | None = None
        self._members: dict[str, zipfile.ZipInfo] = {}
        self._root = self._find_root(self._list_names())
        self.rows, self.categories, self.grouping = self._read_table()
        self._files = self._find_files()
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
            return [table.relative_to(self.path).as_posix() for table in tables if table.is_file()]
        if not self.path.is_file():
            raise DataError(f"data.dir: {self.path} does not exist")
        try:
            self._zip = zipfile.ZipFile(self.path)
        except (*DAMAGED, ValueError) as error:
            raise DataError(
                f"data.dir: {self.path} is neither a folder nor a readable zip file ({_reason(error)})"
            ) from None
        for info in self._zip.infolist():
            self._members.setdefault(_member_name(info), info)
        names = list(self._members)
        self._members |= {info.filename: info for info in self._zip.infolist()}
        return names

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
            name = self._root + CSV
            content = self._unpack(self._zip, name) if self._zip else (self.path / name).read_bytes()
            reader = csv.DictReader(io.StringIO(nfc(content.decode("utf-8-sig", errors="replace"))))
            lines = [(reader.line_num, line) for line in reader]
        except (*DAMAGED, csv.Error, AudioError) as error:
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
            row = _parse_row(line, where)
            if row.filename.startswith(("/", "\\")) or ".." in pathlib.PureWindowsPath(row.filename).parts:
                raise DataError(f"{where}: {row.filename!r} leads out of the folder audio")
            if not row.filename or row.filename in rows:
                raise DataError(f"{where}: every row must name a file of its own, and this one has {row.filename!r}")
            rows[row.filename] = row
            (target,), category = row.targets, line["category"].strip()
            if names.setdefault(target, category) != category:
                raise DataError(f"{CSV}: target {target} is called {names[target]} and {category}")
        if not rows:
            raise DataError(f"{CSV} holds no clips")
        if sorted(names) != list(range(len(names))):
            raise DataError(f"{CSV}: the targets are not 0 to {max(names)} without a gap")
        categories = check_classes([names[t] for t in range(len(names))], CSV)
        return tuple(rows.values()), categories, _grouping(list(rows.values()))

    def _find_files(self) -> dict[str, str]:
        """Name in the table → name in the archive or folder, relative to `path`, of the files that exist.

        Names are those in Unicode's composed form: macOS stores decomposed ones.
        """
        names = {row.filename: f"{self._root}audio/{row.filename}" for row in self.rows}
        if self._zip is not None:
            return {name: path for name, path in names.items() if path in self._members}
        present = {name: path for name, path in names.items() if (self.path / path).exists()}
        if len(present) < len(names):
            folder = self.path / self._root / "audio"
            on_disk = {nfc(path.relative_to(self.path).as_posix()): path for path in folder.rglob("*")}
            for name in names.keys() - present.keys():
                if path := on_disk.get(nfc(names[name])):
                    present[name] = path.relative_to(self.path).as_posix()
        return present

    def _checksums(self) -> dict[str, tuple[int, int] | None]:
        """File → size and CRC-32, of the files that are named by a row and exist."""
        if self._zip is not None:
            infos = {name: self._members[key] for name, key in self._files.items()}
            return {name: (info.file_size, info.CRC) for name, info in infos.items()}
        paths = [self.path / key for key in self._files.values()]
        return dict(zip(self._files, files.checksums(paths), strict=True))

    def _unpack(self, archive: zipfile.ZipFile, name: str) -> bytes:
        """Content of a member of the archive. Raises AudioError for one that is too large."""
        info = self._members[name]
        if info.file_size > MAX_MEMBER_BYTES:
            limit, size = MAX_MEMBER_BYTES >> 30, info.file_size / (1 << 30)
            raise AudioError(f"{name}: unpacks to {size:.1f} GiB, and at most {limit} GiB are read from an archive")
        return archive.read(info)  # ZipFile's lock makes reads from several threads safe

    def where(self, row: Row) -> str:
        """Returns the name of a row's file for error messages."""
        return f"audio/{row.filename}"

    def locate(self, row: Row) -> pathlib.Path | bytes:
        """Returns the path of a clip's audio file, or its content if it lies in the archive. Raises AudioError."""
        return self.path / self._files[row.filename] if self._zip is None else self.read(row)

    def read(self, row: Row) -> bytes:
        """Returns the content of a clip's audio file. Raises AudioError."""
        name = self._files[row.filename]
        if self._zip is None:
            return read_file(self.path / name, self.where(row))
        try:
            return self._unpack(self._zip, name)
        except DAMAGED as error:
            raise AudioError(f"{self.where(row)}: cannot be read ({_reason(error)})") from None


def _member_name(info: zipfile.ZipInfo) -> str:
    """Name of a member in Unicode's composed form. Some archivers write UTF-8 without the flag that says so."""
    name = info.filename
    if not info.flag_bits & 0x800:
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return nfc(name)


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
