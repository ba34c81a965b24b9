"""Downloads the weights of the catalog.

A file is downloaded once into the cache, and its SHA-256 is verified. Where no publisher states it, that of the first
download is kept beside the file, and later downloads must have the same.
"""

import hashlib
import os
import pathlib
import zipfile
import zlib

from absl import logging

from esc_jax import files
from esc_jax.data.cache import cache_root
from esc_jax.errors import Failure
from esc_jax.pretrained import catalog, huggingface
from esc_jax.pretrained.catalog import Weights
from esc_jax.pretrained.published import PretrainedError
from esc_jax.pretrained.torch_file import check_zip
from esc_jax.runtime import transfer

OFFLINE = "ESC_JAX_OFFLINE"  # environment variable: nothing is downloaded where it is set

_BLOCK = 1 << 20


class DownloadError(PretrainedError, Failure):
    """Weights that could not be downloaded: a fault of the network or of the file. The message is one sentence."""

    status = 1


def folder() -> pathlib.Path:
    """Where downloaded weights are kept."""
    return cache_root() / "weights"


def local_file(weights: Weights) -> pathlib.Path | None:
    """The file of an entry; None where it was not downloaded, or is kept by huggingface_hub."""
    if weights.included:
        return weights.path
    path = folder() / weights.filename
    return path if weights.url and path.is_file() else None


def resolve(name: str) -> str:
    """The path, or the hub id, of weights: of a name in the catalog, which are downloaded first; else `name` itself.

    Raises:
        DownloadError: the file cannot be downloaded, or does not have the expected SHA-256.
    """
    weights = catalog.find(name)
    if weights is None:
        return name
    if weights.included:
        return os.fspath(weights.path)
    if not weights.url:
        return weights.hub_id
    target = folder() / weights.filename
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with files.file_lock(target.with_name(f"{target.name}.lock")):  # of processes that start at once, one downloads
            if not target.is_file():
                _download(weights, target)
            elif (problem := _mismatch(weights, target)) is not None:
                logging.warning("%s: downloaded again", problem)
                _download(weights, target)
    except OSError as error:
        raise DownloadError(f"{name}: could not write {target} ({error.strerror or error})") from None
    return os.fspath(target)


def download(name: str) -> str:
    """Downloads weights where they are not in the cache; returns their path. Errors as of `resolve`."""
    path = resolve(name)
    if path != catalog.CATALOG[name].hub_id:
        return path
    return os.fspath(huggingface.resolve(path))


def _download(weights: Weights, target: pathlib.Path) -> None:
    advice = f"download {weights.url} with a browser and give the path of the file"
    if os.environ.get(OFFLINE):
        raise DownloadError(f"{weights.name} is not in {target.parent}, and nothing is downloaded offline: {advice}")
    try:
        transfer.download(weights.url, target, weights.filename, lambda part: _check(weights, part, target))
    except transfer.TransferError as error:
        raise DownloadError(
            f"{weights.name} could not be downloaded ({error}): run the same command again to go on from where it"
            f" stopped, or {advice}"
        ) from None


def _record(target: pathlib.Path) -> pathlib.Path:
    """The file with the SHA-256 of the first download, and a CRC-32 of it."""
    return target.with_name(f"{target.name}.sha256")


def _write_record(target: pathlib.Path, digest: str) -> None:
    with files.atomic_write(_record(target), "w") as file:
        file.write(f"{digest} {zlib.crc32(digest.encode()):08x}\n")


def _expected(weights: Weights, target: pathlib.Path) -> str:
    """The SHA-256 that a file must have; empty where none is known."""
    if weights.sha256:
        return weights.sha256
    try:
        digest, checksum = _record(target).read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return ""
    return digest if f"{zlib.crc32(digest.encode()):08x}" == checksum else ""


def _check(weights: Weights, part: pathlib.Path, target: pathlib.Path) -> None:
    """Raises DownloadError where a complete download is not the expected file; keeps its hash if none is known."""
    digest, expected = _sha256(part), _expected(weights, target)
    if expected and digest != expected:
        raise DownloadError(
            f"{weights.name}: what {weights.url} sent has the SHA-256 {digest[:12]}… and not {expected[:12]}…: the file"
            " is damaged or has been replaced"
        )
    if not expected and not _is_whole(part):
        raise DownloadError(f"{weights.name}: what {weights.url} sent is incomplete: run the same command again")
    _write_record(target, digest)


def _is_whole(path: pathlib.Path) -> bool:
    """Whether the CRC-32 of every member of a zip file matches: torch writes such files. True for other files."""
    with open(path, "rb") as file:
        if file.read(2) != b"PK":
            return True
    try:
        check_zip(path)
    except (zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError):
        return False
    return True


def _mismatch(weights: Weights, target: pathlib.Path) -> str | None:
    """What is wrong with a downloaded file, in words; None if it is what was downloaded."""
    expected = _expected(weights, target)
    if not expected:  # the record is missing or damaged
        if _is_whole(target):
            _write_record(target, _sha256(target))
            return None
        return f"{target} is damaged"
    if _sha256(target) == expected:
        return None
    return f"{target} is damaged: its SHA-256 is not that of the published file"


def _sha256(path: pathlib.Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
