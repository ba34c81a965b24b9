"""A classifier in one file: weights, kernels in half precision, and what prediction needs to know about them.

The file is a safetensors file. Arrays have the names of `Model.variables` (`params/encoder/…`), and `novelty/…` for
those of the detector of unfamiliar sounds. The entry `esc_jax` of its metadata is the JSON object of a checkpoint
(`training.checkpoint`) without what only a resume needs.
"""

import json
import os
import pathlib
from typing import Any

from flax import traverse_util
import jax
import numpy as np

from esc_jax import files
from esc_jax.training import restore as restores
from esc_jax.training.checkpoint import MAX_META_BYTES, MAX_NOVELTY_VALUES, CheckpointError
from esc_jax.training.restore import Restored

SUFFIX = ".safetensors"
_KEY = "esc_jax"
_FORMAT = 1
_HALF_ERROR = 1e-3  # of the largest value of a kernel; half precision has 11 bits
# Entries of a checkpoint's JSON object that only a resume needs.
_RESUME = ("batches", "progress", "checksums", "crc32", "metric", "step", "format")


def save(restored: Restored, path: pathlib.Path, about: dict[str, Any] | None = None) -> None:
    """Writes a classifier to a file.

    Args:
        restored: the classifier.
        path: of the file.
        about: further entries of the JSON object, such as the measured accuracy.
    """
    import safetensors.numpy

    arrays = traverse_util.flatten_dict(jax.tree.map(_compact, dict(restored.model.variables)), sep="/")
    arrays |= traverse_util.flatten_dict({"novelty": restored.novelty or {}}, sep="/")
    meta = {key: value for key, value in restored.meta.items() if key not in _RESUME}
    meta |= {"packed": _FORMAT, "config": restored.config.to_dict(), "classes": list(restored.model.classes)}
    contents = safetensors.numpy.save(
        {name: np.ascontiguousarray(array) for name, array in arrays.items()}, {_KEY: json.dumps(meta | (about or {}))}
    )
    with files.atomic_write(path, "wb") as file:
        file.write(contents)


def _compact(values: Any) -> np.ndarray:
    """An array in half precision if it is a kernel in the range of half precision, else in float32."""
    array = np.asarray(values, np.float32)
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
        error = np.abs(half.astype(np.float32) - array).max(initial=0.0)
    return half if array.ndim > 1 and error <= _HALF_ERROR * np.abs(array).max(initial=0.0) else array


def _read_meta(path: pathlib.Path) -> dict[str, Any] | None:
    """The JSON object of a packed classifier; None for any other file."""
    import safetensors

    try:
        if path.suffix != SUFFIX or not path.is_file():
            return None
        with safetensors.safe_open(path, "numpy") as file:
            text = (file.metadata() or {}).get(_KEY)
    except (OSError, safetensors.SafetensorError):
        return None
    if text is None:
        return None
    try:
        if len(text) > MAX_META_BYTES:
            raise ValueError
        meta = json.loads(text)
        if not isinstance(meta, dict) or meta.get("packed") != _FORMAT:
            raise ValueError
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path} is damaged, or was written by another version of esc_jax") from None
    return meta


def is_packed(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a file of `save`."""
    try:
        return _read_meta(files.expand(path)) is not None
    except CheckpointError:
        return True


def load(path: str | os.PathLike[str]) -> Restored:
    """Reads a classifier from a file.

    Raises:
        CheckpointError: the file is damaged, or its contents do not belong together.
    """
    import safetensors
    import safetensors.numpy

    file = files.resolve(path)
    meta = _read_meta(file)
    if meta is None:
        raise CheckpointError(f"{file} is not a classifier of esc_jax")
    config, model, shapes = restores.build(meta | {"checksums": {}}, str(file))
    try:
        arrays = safetensors.numpy.load_file(file)
    except (OSError, ValueError, AttributeError, KeyError, TypeError, safetensors.SafetensorError):
        raise CheckpointError(f"{file} is damaged") from None
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise CheckpointError(f"{file} contains values that are not finite")
    novelty = {name: arrays.pop(name) for name in list(arrays) if name.startswith("novelty/")}
    if sum(array.size for array in novelty.values()) > MAX_NOVELTY_VALUES:
        raise CheckpointError(f"{file}: its detector of unfamiliar sounds is too large")
    expected = traverse_util.flatten_dict(jax.tree.map(lambda leaf: leaf.shape, dict(shapes)), sep="/")
    if {name: array.shape for name, array in arrays.items()} != expected:
        raise CheckpointError(f"{file}: its arrays are not those of its config")
    variables = {"params": {}, "batch_stats": {}} | traverse_util.unflatten_dict(arrays, sep="/")
    detector = traverse_util.unflatten_dict(novelty, sep="/").get("novelty")
    return Restored(model.with_variables(variables), config, file, 0, meta, detector)
