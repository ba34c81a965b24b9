"""Downloads the official ESC-50 archive: once, resumed after an interruption, and checked."""

import http.client
import os
import pathlib
import time
import urllib.error
import urllib.request
import zipfile

from absl import logging
import tqdm

from esc_jax import files
from esc_jax.data.layouts.esc50 import DAMAGED, Esc50Layout
from esc_jax.data.rows import DataError, PreparationError

URL = "https://github.com/karolpiczak/ESC-50/archive/master.zip"
CLIPS = 2000

_BLOCK = 1 << 18
_TIMEOUT_S = 30
_PAUSE_S = 2.0


def _fetch(url: str, part: pathlib.Path) -> bool:
    """Appends the missing rest of the file to `part`. Returns whether the file is complete."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing after `have`: the last attempt was interrupted after the last byte
            return True
        raise
    with response:
        if response.status != 206:  # the server does not resume, and sends the file from its start
            have = 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        with (
            open(part, "ab" if have else "wb") as file,
            tqdm.tqdm(total=total, initial=have, unit="B", unit_scale=True, desc="ESC-50", disable=None) as bar,
        ):
            while block := response.read(_BLOCK):
                file.write(block)
                bar.update(len(block))
    return total is None or part.stat().st_size == total


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


def download(directory: pathlib.Path, url: str = URL, clips: int = CLIPS, attempts: int = 5) -> pathlib.Path:
    """Returns the path of the archive in `directory`; downloads it first if it is not there.

    Args:
        directory: folder of the archive, and of the part that an interrupted download leaves.
        url: address of the archive.
        clips: number of rows its table must have.
        attempts: how often a broken connection is resumed.

    Raises:
        DataError: the server cannot be reached, or the file it sends is not the archive.
    """
    target = directory / "ESC-50.zip"
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
    part = target.with_suffix(".zip.part")
    for attempt in range(attempts):
        try:
            if _fetch(url, part):
                break
            reason = "the connection broke off"
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            reason = str(getattr(error, "reason", error))
        except ValueError as error:
            raise DataError(f"data.url={url} is no address to download from: {error}") from None
        logging.info("download of %s: %s (attempt %d of %d)", url, reason, attempt + 1, attempts)
        if attempt + 1 < attempts:
            time.sleep(attempt * _PAUSE_S)  # the first retry at once, later ones after a pause
    else:
        raise PreparationError(
            f"could not download ESC-50 from {url} ({reason}): start the same command again to go on from where it"
            " stopped, or give a copy of the data set with --config.data.dir=PATH"
        )
    try:
        _check(part, url, clips)
    except DataError:
        part.unlink()
        raise
    os.replace(part, target)
