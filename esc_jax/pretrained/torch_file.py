"""Files written by `torch.save`, opened without running anything in them: tensors become numpy arrays.

The only module that imports torch, and only when a file is opened.
"""

import os
import pathlib
from typing import Any
import zipfile

import numpy as np

from esc_jax.pretrained.checkpoint import PretrainedError

_ZIP = b"PK\x03\x04"


def load_torch(path: str | os.PathLike) -> Any:
    """What a `.pt` file holds: nested dicts, lists and tuples with numpy arrays in the place of tensors.

    Floating-point tensors narrower than float32 (float16, bfloat16) come back as float32, which holds them exactly;
    integers, float32 and float64 keep their type. Strings, numbers and None are left alone.

    Args:
        path: the file, in torch's zip format or the older pickle format.
    Returns:
        The object saved, e.g. {"cfg": {...}, "model": {name: array}}.
    Raises:
        PretrainedError: one sentence on why the file cannot be used and what to do. Nothing in a file is executed:
            torch's `weights_only` unpickler builds tensors and plain containers and refuses anything else.
    """
    path = pathlib.Path(path)
    start = _first_bytes(path)
    try:
        import torch
    except ImportError as error:
        raise PretrainedError(f"Reading {path} needs torch: pip install -r requirements-torch.txt.") from error
    try:
        if start.startswith(_ZIP):  # whose checksums torch does not look at
            with zipfile.ZipFile(path) as file:
                if spoiled := file.testzip():
                    raise zipfile.BadZipFile(spoiled)
        return _to_numpy(torch.load(path, map_location="cpu", weights_only=True), torch)
    except Exception as error:  # Of a cut or foreign file, whatever the byte at which it is noticed brings about.
        if "GLOBAL " in str(error):  # which torch writes before the name of what it does not let in
            raise PretrainedError(
                f"{path} holds more than weights (Python objects or code), which is never loaded: save its state "
                "dict alone with `torch.save(model.state_dict(), path)`."
            ) from error
        raise PretrainedError(
            f"{path} is damaged, truncated or not a torch checkpoint: download it again and compare its size with the "
            "source's."
        ) from error


def _first_bytes(path: pathlib.Path) -> bytes:
    """The start of the file, after everything that can be said about it before torch is needed."""
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise PretrainedError(f"{path} cannot be read ({error.strerror}): give a checkpoint's own path.") from error
    if not start:
        raise PretrainedError(f"{path} is empty: download it again.")
    if start.startswith(b"version https://git-lfs"):
        raise PretrainedError(f"{path} is a git-LFS pointer, not the weights: run `git lfs pull` where it was cloned.")
    if start.lstrip().startswith(b"<"):
        raise PretrainedError(f"{path} is a web page, not the weights: download the file itself.")
    return start


def _to_numpy(value: Any, torch: Any) -> Any:
    """`value` with every tensor replaced; dicts lose their class (OrderedDict → dict), not their order."""
    if isinstance(value, torch.Tensor):
        value = value.detach()
        if value.is_floating_point() and value.element_size() < 4:
            value = value.float()
        return np.array(value.numpy())  # a copy: views of one storage must not stay tied to each other
    if isinstance(value, dict):
        return {key: _to_numpy(item, torch) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([_to_numpy(item, torch) for item in value])
    return value
