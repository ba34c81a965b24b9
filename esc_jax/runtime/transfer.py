"""Downloads: resumed after an interruption, retried, and replaced in one rename."""

from collections.abc import Callable
import http.client
import os
import pathlib
import time
import urllib.error
import urllib.request

from absl import logging
import tqdm

from esc_jax.errors import Failure

ATTEMPTS = 5

_BLOCK = 1 << 18
_TIMEOUT_S = 30
_PAUSE_S = 2.0


class TransferError(Failure):
    """A file that could not be downloaded. The message is the reason, without the address."""


def _fetch(url: str, part: pathlib.Path, title: str) -> bool:
    """Appends the missing rest of the file to `part`. Returns whether the file is complete."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        # Nothing after `have`: the last attempt was interrupted after the last byte, or `part` is of another file.
        if error.headers.get("Content-Range", "").rpartition("/")[2] == str(have):
            return True
        part.unlink()
        return False
    with response:
        if response.status != 206:  # the server does not resume, and sends the file from its start
            have = 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        with (
            open(part, "ab" if have else "wb") as file,
            tqdm.tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=title, disable=None) as bar,
        ):
            while block := response.read(_BLOCK):
                file.write(block)
                bar.update(len(block))
    return total is None or part.stat().st_size == total


def download(
    url: str,
    target: pathlib.Path,
    title: str,
    check: Callable[[pathlib.Path], None] = lambda part: None,
    attempts: int = ATTEMPTS,
) -> None:
    """Downloads a file. An interrupted download leaves TARGET.part, from which the next call goes on.

    Args:
        url: address of the file.
        target: path of the file.
        title: of the progress bar.
        check: called with the complete file before it is renamed. If it raises an exception, the file is deleted.
        attempts: how often a broken connection is resumed.

    Raises:
        TransferError: the server cannot be reached.
        ValueError: `url` is no address.
        OSError: the file cannot be written.
        Exception: what `check` raises.
    """
    part = target.with_name(f"{target.name}.part")
    reason = ""
    for attempt in range(attempts):
        try:
            if _fetch(url, part, title):
                break
            reason = "the connection broke off"
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            reason = str(getattr(error, "reason", error))
        logging.info("download of %s: %s (attempt %d of %d)", url, reason, attempt + 1, attempts)
        if attempt + 1 < attempts:
            time.sleep(attempt * _PAUSE_S)  # the first retry at once, later ones after a pause
    else:
        raise TransferError(reason)
    try:
        check(part)
    except Exception:
        part.unlink()
        raise
    os.replace(part, target)
