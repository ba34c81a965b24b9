"""GTZAN, music of ten genres, as it lies on disk: a folder of genres, or a data set that TFDS prepared.

    genres/blues/blues.00000.wav     also genres_original/, or the genres in the folder itself; wav, au, flac …

A row is a whole track, half a minute of music; training sees windows of it (`Clips.windows`), and accuracies are over
windows. GTZAN is published without folds. Ours are five, drawn by track and stratified by genre from nothing but the
names, so that they are the same on every machine and no track is on two sides. Artists are, for many have several
tracks, and some tracks are there twice: as with every random split of this set, that flatters any model (Sturm, "The
GTZAN dataset: its contents, its faults", 2013).
"""

from collections.abc import Iterable
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
from esc_jax.data.audio import EXTENSIONS, AudioError
from esc_jax.data.source import DataError, Row, check_classes

FOLDS = 5
MISSING = (
    "data.name=gtzan: GTZAN is not downloaded, so give its folder with --config.data.dir=PATH: the unpacked archive"
    " (genres/blues/blues.00000.wav …), which Marsyas published and which Kaggle and the Hugging Face Hub carry"
    " (marsyas/gtzan), or what TFDS's own gtzan builder prepared with file_format=array_record"
)

_ROOTS = ("genres", "genres_original", ".")
_INFO = "dataset_info.json"


def assign_folds(tracks: Iterable[str]) -> dict[str, int]:
    """Track → fold, 1 … FOLDS.

    The tracks of a genre are dealt out in the order of the hashes of their names: a fold's counts of a genre differ by
    at most one, and other genres, the order on disk and the machine have no say.

    Args:
        tracks: "genre/name".
    """
    genres: dict[str, set[str]] = {}
    for track in tracks:
        genres.setdefault(track.split("/")[0], set()).add(track)
    dealt = (sorted(names, key=lambda n: hashlib.sha256(n.encode()).digest()) for names in genres.values())
    return {track: place % FOLDS + 1 for names in dealt for place, track in enumerate(names)}


def _rows(filenames: Iterable[str]) -> tuple[Row, ...]:
    """Rows of files "genre/name.suffix", sorted. One track in two formats is one track, in one fold."""
    filenames = sorted(filenames)
    track = {f: os.path.splitext(f)[0] for f in filenames}
    folds = assign_folds(track.values())
    genres = sorted({f.split("/")[0] for f in filenames})
    return tuple(
        Row(
            filename=f,
            fold=folds[track[f]],
            target=genres.index(f.split("/")[0]),
            category=f.split("/")[0],
            src_file=track[f],
            take="",
        )
        for f in filenames
    )


def _categories(rows: Iterable[Row]) -> tuple[str, ...]:
    return check_classes(sorted({r.category for r in rows}), "data.dir")


def _files(root: pathlib.Path) -> dict[str, str]:
    """File → its path, of every file in the genre folders of `root`; none where there is no such folder.

    A name that is not UTF-8 has its odd bytes written out: TFDS and whoever prints it could not take it as it is.
    """
    if not root.is_dir():
        return {}
    try:
        found = {
            f"{genre.name}/{file.name}": file.path
            for genre in os.scandir(root)
            if genre.is_dir() and not genre.name.startswith(".")
            for file in os.scandir(genre)
            # macOS leaves ._NAME.wav beside NAME.wav where it unpacks an archive.
            if not file.name.startswith(".") and not file.is_dir()
        }
    except OSError as error:
        raise DataError(f"data.dir: {error.filename} cannot be read ({error.strerror})") from None
    return {os.fsencode(name).decode("utf-8", "backslashreplace"): path for name, path in found.items()}


def _tracks(files: Iterable[str]) -> list[str]:
    return [name for name in files if os.path.splitext(name)[1].lower() in EXTENSIONS]


def has_tracks(path: pathlib.Path) -> bool:
    """Whether `Tracks` would find any in this folder."""
    return any(_tracks(_files(path / root)) for root in _ROOTS)


class Tracks:
    """Rows and bytes of a folder of genres: what `Source` is for the layout of ESC-50.

    Args:
        path: the folder.

    Raises:
        DataError: no such folder, it cannot be read, or it has fewer than two genres.
    """

    layout = "gtzan"

    def __init__(self, path: str | os.PathLike):
        given = pathlib.Path(path).expanduser().resolve()
        if not given.exists():
            raise DataError(f"data.dir: {given} does not exist")
        if not given.is_dir():
            raise DataError(f"data.dir: {given} is no folder; GTZAN's archive has to be unpacked")
        for root in _ROOTS:
            # The folder of the genres, not the one above: whoever opens it again cannot find another data set in it.
            self.path = (given / root).resolve()
            found = _files(self.path)
            if names := _tracks(found):
                break
        else:
            raise DataError(
                f"data.dir: {given} holds no folders of audio files (wav, au, flac, mp3 …), one for each genre, so"
                " it is not in the layout of GTZAN"
            )
        if len(names) < len(found):
            others = sorted(found.keys() - set(names))
            logging.info("%s: %d files are no audio by their names, as %s", self.path, len(others), others[0])
        self._paths = {name: found[name] for name in names}
        self.rows = _rows(names)
        self.categories = _categories(self.rows)
        if len(self.categories) < 2:
            raise DataError(f"data.dir: {self.path} holds one genre, {self.categories[0]}; at least two are needed")
        contents = files.checksums(self._paths[row.filename] for row in self.rows)
        digest = hashlib.sha256(repr(self.rows).encode() + repr(contents).encode())
        self.fingerprint: str = digest.hexdigest()[:16]  # of the names, their folds, and the content

    def where(self, row: Row) -> str:
        """What to call a row's file in errors."""
        return row.filename

    def read(self, row: Row) -> bytes:
        """The bytes of a track's audio file. Raises AudioError."""
        try:
            return pathlib.Path(self._paths[row.filename]).read_bytes()
        except OSError as error:
            raise AudioError(f"{self.where(row)}: cannot be read ({error.strerror})") from None


class TfdsTracks:
    """The same of a folder that TFDS's gtzan builder prepared (…/gtzan/1.0.0).

    TFDS's features of audio need TensorFlow, as preparing does: only that process looks at `rows`.

    Args:
        path: the folder, with dataset_info.json in it.

    Raises:
        DataError: it is another data set, or written in a format without random access.
    """

    layout = "gtzan"

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path).expanduser().resolve()
        try:
            info = (self.path / _INFO).read_bytes()
            name, file_format = (json.loads(info).get(k, "") for k in ("name", "fileFormat"))
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
        self.fingerprint: str = hashlib.sha256(repr(files.checksums(paths)).encode()).hexdigest()[:16]

    @functools.cached_property
    def _builder(self):
        import tensorflow_datasets as tfds

        return tfds.builder_from_directory(self.path)

    @functools.cached_property
    def _records(self) -> dict[str, tuple]:
        """File name → (records of its split, number in them)."""
        import tensorflow_datasets as tfds

        names = self._builder.info.features["label"].names
        found = {}
        for split in self._builder.info.splits:
            whole = self._builder.as_data_source(split=split)
            light = self._builder.as_data_source(split=split, decoders={"audio": tfds.decode.SkipDecoding()})
            for i in range(len(light)):
                record = light[i]
                found[f"{names[record['label']]}/{record['audio/filename'].decode()}"] = (whole, i)
        return found

    @functools.cached_property
    def rows(self) -> tuple[Row, ...]:
        """As in `Tracks`."""
        return _rows(self._records)

    @functools.cached_property
    def categories(self) -> tuple[str, ...]:
        """As in `Tracks`: the genres there are."""
        return _categories(self.rows)

    def where(self, row: Row) -> str:
        """What to call a row's record in errors."""
        return row.filename

    def read(self, row: Row) -> bytes:
        """A track as the bytes of a wav file, so that it is decoded and resampled as all others are."""
        records, i = self._records[row.filename]
        file = io.BytesIO()
        rate = self._builder.info.features["audio"].sample_rate
        soundfile.write(file, np.asarray(records[i]["audio"]).astype(np.int16), rate, "PCM_16", format="WAV")
        return file.getvalue()


def open_tracks(path: str | os.PathLike) -> Tracks | TfdsTracks:
    """GTZAN in whichever of its two layouts `path` is. Raises DataError."""
    prepared = (pathlib.Path(path).expanduser() / _INFO).is_file()
    return TfdsTracks(path) if prepared else Tracks(path)
