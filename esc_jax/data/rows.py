"""What every layout on disk provides: one row per audio file, and the bytes of that file."""

from collections.abc import Sequence
import dataclasses
import pathlib
from typing import Protocol

from esc_jax.errors import UserError

MAX_CLASSES = 10_000  # a model with as many outputs would hardly fit into memory


class DataError(UserError, ValueError):
    """The data set cannot be used. The message is one sentence for the user."""


class PreparationError(DataError):
    """The data set could not be downloaded, written or prepared: a fault of the machine, not of the request."""

    status = 1


@dataclasses.dataclass(frozen=True, slots=True)  # a data set may have a million
class Row:
    """One audio file of a data set.

    Attributes:
        filename: unique within the data set.
        fold: number of the fold, 0 or more.
        targets: class indices, ascending; exactly one in a single-label data set.
        src_file: ID of the source recording. Clips with the same ID are always placed in the same split.
        take: which clip of that recording it is; may be empty.
    """

    filename: str
    fold: int
    targets: tuple[int, ...]
    src_file: str
    take: str


@dataclasses.dataclass(frozen=True)
class Grouping:
    """How the source recordings of a data set are known. Clips of one recording are always placed in the same split.

    Attributes:
        kind: "column" (the data set names them), "names" (derived from file names) or "none" (every file counts as a
            recording of its own, so that clips of one recording may be in training and in test).
        description: a sentence for logs and reports.
        assigned_folds: whether the folds were assigned by esc_jax, for a data set without folds.
    """

    kind: str
    description: str
    assigned_folds: bool = False


@dataclasses.dataclass(frozen=True)
class About:
    """Description of a data set for TFDS (`tfds.core.DatasetInfo`)."""

    description: str
    citation: str
    homepage: str = ""
    license: str = ""


class Layout(Protocol):
    """A data set as it lies on disk.

    Attributes:
        path: folder or archive.
        rows: the audio files, in a fixed order.
        categories: class names by index.
        task: name of the task that the labels are for: "single_label", or "multi_label" where a file may have any
            number of classes.
        grouping: how the source recordings are known.
        fingerprint: hash of the rows and of the content of their files. It does not depend on the path.
        about: what TFDS says about the data set.
    """

    path: pathlib.Path
    fingerprint: str
    about: About
    task: str
    grouping: Grouping

    @property
    def rows(self) -> tuple[Row, ...]:
        """The audio files."""

    @property
    def categories(self) -> tuple[str, ...]:
        """Class names by index."""

    def where(self, row: Row) -> str:
        """Returns the name of a row's file for error messages."""

    def locate(self, row: Row) -> pathlib.Path | bytes:
        """Returns the path of a row's audio file; its content if it lies inside an archive. Raises AudioError."""

    def read(self, row: Row) -> bytes:
        """Returns the content of a row's audio file. Raises AudioError."""


def check_classes(names: Sequence[str], where: str) -> tuple[str, ...]:
    """Checks class names. TFDS stores one per line and strips them.

    Args:
        names: class names by index.
        where: their origin, for error messages.

    Raises:
        DataError: a name is empty, contains a line break, starts or ends with white space, or is used twice.
    """
    places: dict[str, int] = {}
    for target, name in enumerate(names):
        if name.splitlines() != [name.strip()]:
            raise DataError(f"{where}: the name of class {target}, {name!r}, must be one line of text")
        if places.setdefault(name, target) != target:
            raise DataError(f"{where}: targets {places[name]} and {target} are both called {name}")
    return tuple(names)
