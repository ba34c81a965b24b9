"""Downloads the official ESC-50 archive: once, resumed after an interruption, and checked."""

import pathlib
import zipfile

from esc_jax import files
from esc_jax.data.layouts.esc50 import DAMAGED, Esc50Layout
from esc_jax.data.rows import DataError, PreparationError
from esc_jax.runtime import transfer

URL = "https://github.com/karolpiczak/ESC-50/archive/master.zip"
CLIPS = 2000
ARCHIVE = "ESC-50.zip"  # in the cache


def _check(part: pathlib.Path, url: str, clips: int) -> None:
    """Raises DataError unless the file is an undamaged archive with so many clips."""
    try:
        rows = len(Esc50Layout(part).rows)
        with zipfile.ZipFile(part) as archive:
            if broken := archive.testzip():
                raise DataError(f"{broken} in it is damaged")
    except DAMAGED as error:
        raise PreparationError(f"what {url} sent is damaged ({error}): start the same command again") from None
    except DataError as error:
        raise DataError(f"what {url} sent is not the ESC-50 archive: {error}") from None
    if rows != clips:
        raise DataError(f"the archive from {url} lists {rows} clips where ESC-50 has {clips}")


def download(
    directory: pathlib.Path, url: str = URL, clips: int = CLIPS, attempts: int = transfer.ATTEMPTS
) -> pathlib.Path:
    """Returns the path of the archive in `directory`; downloads it first if it is not there.

    Args:
        directory: folder of the archive, and of the part that an interrupted download leaves.
        url: address of the archive.
        clips: number of rows its table must have.
        attempts: how often a broken connection is resumed.

    Raises:
        DataError: the server cannot be reached, or the file it sends is not the archive.
    """
    target = directory / ARCHIVE
    if target.exists():
        return target
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with files.file_lock(target.with_suffix(".zip.lock")):  # of processes that start at once, one downloads
            if not target.exists():
                _download(target, url, clips, attempts)
    except OSError as error:
        raise PreparationError(
            f"could not write the ESC-50 archive to {directory}: {error.strerror or error}"
        ) from None
    return target


def _download(target: pathlib.Path, url: str, clips: int, attempts: int) -> None:
    """Downloads and checks the archive, while holding the lock."""
    try:
        transfer.download(url, target, "ESC-50", lambda part: _check(part, url, clips), attempts)
    except transfer.TransferError as error:
        raise PreparationError(
            f"could not download ESC-50 from {url} ({error}): start the same command again to go on from where it"
            " stopped, or give a copy of the data set with --config.data.dir=PATH"
        ) from None
    except DataError:
        raise
    except ValueError as error:
        raise DataError(f"data.url={url} is no address to download from: {error}") from None
