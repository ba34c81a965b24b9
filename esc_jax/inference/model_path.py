"""What the path of a model names: a run of esc_jax, a packed classifier, or published weights."""

import difflib
import os
import pathlib
import re

from esc_jax import files
from esc_jax.errors import UserError
from esc_jax.pretrained import catalog

_WEIGHTS = (
    "model.safetensors",
    "pytorch_model.bin",
    "model.safetensors.index.json",
)  # in a folder as Hugging Face publishes it
PACKED = "classifier.safetensors"  # of a packed classifier in a folder
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class ModelPathError(UserError, ValueError):
    """A path that names no trained run, or nothing at all. The message is one sentence."""


def _is_checkpoint(path: pathlib.Path) -> bool:
    return path.name.isdigit() and (path / "meta").is_dir()


def is_run(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a run's workdir, its `checkpoints` folder or one checkpoint in it."""
    folder = files.expand(path)
    if not folder.is_dir():
        return False
    return (folder / "checkpoints").is_dir() or any(map(_is_checkpoint, (folder.resolve(), *folder.iterdir())))


def is_published(path: str | os.PathLike[str]) -> bool:
    """Whether a path is or looks like published weights: a name in the catalog, a file, a folder, or a hub id."""
    if weights := catalog.find(path):
        return not weights.included
    folder = files.expand(path)
    if folder.is_dir():
        return not is_run(folder) and any((folder / name).is_file() for name in _WEIGHTS)
    hub_id = _HUB_ID.fullmatch(os.fspath(path)) is not None and not folder.parent.exists()
    return folder.is_file() or hub_id


def packed_file(path: str | os.PathLike[str]) -> pathlib.Path | None:
    """The file of a packed classifier (`training.packed`): the path itself, the one in a folder, or that of a name in
    the catalog. None for others."""
    if file := catalog.included_file(path):
        return file
    place = files.expand(path)
    file = place / PACKED if place.is_dir() else place
    if file.suffix != ".safetensors" or not file.is_file():
        return None
    from esc_jax.training import packed  # imports JAX

    return file if packed.is_packed(file) else None


def has_config(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a run or a packed classifier, whose config states sample rate and frontend."""
    return is_run(path) or packed_file(path) is not None


def check_name(path: str | os.PathLike[str]) -> None:
    """Raises ModelPathError if nothing has this path, and published weights have a similar name."""
    name = os.fspath(path)
    near = difflib.get_close_matches(name, catalog.CATALOG, 2)
    if near and not catalog.find(name) and not os.path.exists(name):
        raise ModelPathError(f"{name}: no such folder or published weights; did you mean {' or '.join(near)}?")


def check_weights(key: str, path: str, runs: bool = False) -> None:
    """Checks that a key of a config names published weights, and not what esc_jax has trained.

    Args:
        key: of the config.
        path: its value; empty for none.
        runs: whether the key also takes runs.

    Raises:
        ModelPathError: the path is a packed classifier, or a run where none is allowed.
    """
    if not path or catalog.find(path) or not has_config(path) or (runs and is_run(path)):
        return
    problem = "is an exported classifier: the key takes runs and published weights"
    if not runs:
        problem = "is a classifier that esc_jax has trained: the key takes published weights"
    raise ModelPathError(f"config.{key}={path} {problem}")
