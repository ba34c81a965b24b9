"""GTZAN, music of ten genres: a folder with one subfolder per genre, or a data set that TFDS prepared.

    genres/blues/blues.00000.wav     also genres_original/, or the genres in the folder itself; wav, au, flac, …

A row is a whole track of half a minute. Training uses windows of it (`Clips.windows`), and accuracies are over
windows. GTZAN is published without folds. `assign_folds` makes five, grouped by track and stratified by genre, from
the file names alone, so that they are the same on every machine. Tracks of one artist, and the tracks that the data set
contains twice, can be in different folds: as with every random split of this data set, accuracies are optimistic
(Sturm, "The GTZAN dataset: its contents, its faults", 2013).
"""

from collections.abc import Iterable, Sequence
import functools
import hashlib
import io
import json
import os
import pathlib

from absl import logging
import numpy as np
import soundfile

from esc_jax import files
from esc_jax.data import tf_example
from esc_jax.data.layouts import class_folders
from esc_jax.data.records import open_records
from esc_jax.data.rows import About, DataError, Grouping, Row, check_classes
from esc_jax.data.source import AudioError, read_file
from esc_jax.errors import first_line

FOLDS = 5
MISSING = (
    "data.name=gtzan: GTZAN is not downloaded, so give its folder with --config.data.dir=PATH: the unpacked archive"
    " (genres/blues/blues.00000.wav …), which Marsyas published and which Kaggle and the Hugging Face Hub carry"
    " (marsyas/gtzan), or what TFDS's own gtzan builder prepared with file_format=array_record"
)

_ROOTS = ("genres", "genres_original", ".")
_INFO = "dataset_info.json"
# What a damaged record, or a file of metadata that is damaged or missing, raises. array_record raises RuntimeError.
_DAMAGED = (OSError, ValueError, KeyError, IndexError, RuntimeError)
_ABOUT = About(
    description="Music: 1,000 tracks of thirty seconds, 10 genres, five folds of our own.",
    citation="""\
@article{tzanetakis2002musical,
  title = {Musical Genre Classification of Audio Signals},
  author = {Tzanetakis, George and Cook, Perry},
  journal = {IEEE Transactions on Speech and Audio Processing},
  volume = {10},
  number = {5},
  pages = {293--302},
  year = {2002},
  doi = {10.1109/TSA.2002.800560}
}""",
)

_GROUPING = Grouping("names", "every track is a recording of its own", assigned_folds=True)


def assign_folds(tracks: Iterable[str]) -> dict[str, int]:
    """Assigns every track a fold, 1 … FOLDS.

    The tracks of a genre are sorted by the SHA-256 of their names and assigned in turn. The sizes of a genre's folds
    differ by at most one, and the folds of a genre do not depend on other genres or on the order on disk.

    Args:
        tracks: "genre/name".
    """
    genres: dict[str, set[str]] = {}
    for track in tracks:
        genres.setdefault(track.split("/")[0], set()).add(track)
    orders = (sorted(names, key=lambda n: hashlib.sha256(n.encode()).digest()) for names in genres.values())
    return {track: place % FOLDS + 1 for names in orders for place, track in enumerate(names)}


def _rows(filenames: Iterable[str]) -> tuple[Row, ...]:
    """Rows of files "genre/name.suffix", sorted. A track in two formats is one source recording, in one fold."""
    filenames = sorted(filenames)
    track = {f: os.path.splitext(f)[0] for f in filenames}
    folds = assign_folds(track.values())
    genres = sorted({f.split("/")[0] for f in filenames})
    return tuple(
        Row(
            filename=f,
            fold=folds[track[f]],
            targets=(genres.index(f.split("/")[0]),),
            src_file=track[f],
            take="",
        )
        for f in filenames
    )


def _categories(rows: Iterable[Row]) -> tuple[str, ...]:
    return check_classes(sorted({row.filename.split("/")[0] for row in rows}), "data.dir")


def matches(path: pathlib.Path) -> bool:
    """Whether `path` is a data set that TFDS prepared, or holds GTZAN's folder of genres."""
    if (path / _INFO).is_file():
        return True
    return any(class_folders.audio_files(class_folders.list_files(path / root)) for root in _ROOTS[:-1])


class GtzanLayout:
    """Rows and audio files of a folder of genres; see `rows.Layout`.

    Args:
        path: the folder.

    Raises:
        DataError: the folder does not exist, cannot be read, or has fewer than two genres.
    """

    about = _ABOUT
    task = "single_label"
    grouping = _GROUPING

    def __init__(self, path: str | os.PathLike[str]):
        given = files.resolve(path)
        if not given.exists():
            raise DataError(f"data.dir: {given} does not exist")
        if not given.is_dir():
            raise DataError(f"data.dir: {given} is no folder; GTZAN's archive has to be unpacked")
        for root in _ROOTS:
            self.path = (given / root).resolve()
            paths = class_folders.list_files(self.path)
            if names := class_folders.audio_files(paths):
                break
        else:
            raise DataError(
                f"data.dir: {given} holds no folders of audio files (wav, au, flac, mp3 …), one for each genre, so"
                " it is not in the layout of GTZAN"
            )
        if len(names) < len(paths):
            others = sorted(paths.keys() - set(names))
            logging.info(
                "%s: files that are not used, because their names are not those of audio files: %d, such as %s",
                self.path,
                len(others),
                others[0],
            )
        names = class_folders.readable_files(names, self.path)
        self._paths = {name: paths[name] for name in names}
        self.rows = _rows(names)
        self.categories = _categories(self.rows)
        if len(self.categories) < 2:
            raise DataError(f"data.dir: {self.path} holds one genre, {self.categories[0]}; at least two are needed")
        contents = files.checksums(self._paths[row.filename] for row in self.rows)
        self.fingerprint = hashlib.sha256(repr(self.rows).encode() + repr(contents).encode()).hexdigest()[:16]

    def where(self, row: Row) -> str:
        """Returns the name of a row's file for error messages."""
        return row.filename

    def locate(self, row: Row) -> pathlib.Path:
        """Returns the path of a track's audio file."""
        return pathlib.Path(self._paths[row.filename])

    def read(self, row: Row) -> bytes:
        """Returns the content of a track's audio file. Raises AudioError."""
        return read_file(self._paths[row.filename], self.where(row))


class TfdsGtzanLayout:
    """Rows and tracks of a folder that TFDS's own gtzan builder prepared (…/gtzan/1.0.0); see `rows.Layout`.

    The records are read with array_record alone; neither TFDS nor TensorFlow is needed.

    Args:
        path: the folder, with dataset_info.json in it.

    Raises:
        DataError: it is another data set, or in a format without random access.
    """

    about = _ABOUT
    task = "single_label"
    grouping = _GROUPING

    def __init__(self, path: str | os.PathLike[str]):
        self.path = files.resolve(path)
        try:
            info = json.loads((self.path / _INFO).read_bytes())
            name, file_format = (info.get(key, "") for key in ("name", "fileFormat"))
            paths = sorted(entry.path for entry in os.scandir(self.path) if entry.is_file())
        except (OSError, ValueError, AttributeError):
            raise DataError(f"data.dir: {self.path / _INFO} cannot be read") from None
        if name != "gtzan":
            raise DataError(f"data.dir: {self.path} is the TFDS data set {name}, not gtzan")
        if file_format != "array_record":
            raise DataError(
                f"data.dir: {self.path} holds {file_format or 'tfrecord'} files, which need TensorFlow to be read: let"
                " TFDS prepare gtzan with file_format=array_record, or give the folder of the audio files"
            )
        self.fingerprint = hashlib.sha256(repr(files.checksums(paths)).encode()).hexdigest()[:16]
        self._shards = [path for path in paths if ".array_record-" in os.path.basename(path)]

    @functools.cached_property
    def _records(self) -> dict[str, int]:
        """File name → place of its record."""
        try:
            genres = (self.path / "label.labels.txt").read_text(encoding="utf-8").splitlines()
            records = {}
            for place in range(len(self._data_source)):
                example = tf_example.decode(self._data_source[place], ("label", "audio/filename"))
                records[f"{genres[int(example['label'][0])]}/{example['audio/filename'][0].decode()}"] = place
        except _DAMAGED as error:
            raise DataError(f"data.dir: the records in {self.path} cannot be read ({first_line(error)})") from None
        return records

    @functools.cached_property
    def _data_source(self) -> Sequence[bytes]:
        return open_records(self._shards)

    @functools.cached_property
    def rows(self) -> tuple[Row, ...]:
        """As in `GtzanLayout`."""
        return _rows(self._records)

    @functools.cached_property
    def categories(self) -> tuple[str, ...]:
        """As in `GtzanLayout`: the genres that have tracks."""
        return _categories(self.rows)

    def where(self, row: Row) -> str:
        """Returns the name of a row's record for error messages."""
        return row.filename

    def locate(self, row: Row) -> bytes:
        """As `read`. Raises AudioError."""
        return self.read(row)

    def read(self, row: Row) -> bytes:
        """Returns a track as a wav file, to be decoded and resampled like any other. Raises AudioError."""
        try:
            example = tf_example.decode(self._data_source[self._records[row.filename]], ("audio",))
            samples = np.asarray(example["audio"]).astype(np.int16)
            features = json.loads((self.path / "features.json").read_bytes())
            rate = int(features["featuresDict"]["features"]["audio"]["audio"]["sampleRate"])
        except _DAMAGED as error:
            raise AudioError(f"{self.where(row)}: cannot be read ({first_line(error)})") from None
        file = io.BytesIO()
        soundfile.write(file, samples, rate, "PCM_16", format="WAV")
        return file.getvalue()


def open_gtzan(path: str | os.PathLike[str]) -> GtzanLayout | TfdsGtzanLayout:
    """Opens GTZAN in whichever of its two layouts `path` is. Raises DataError."""
    prepared = (files.expand(path) / _INFO).is_file()
    return TfdsGtzanLayout(path) if prepared else GtzanLayout(path)
