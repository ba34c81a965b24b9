"""Export formats by name."""

from __future__ import annotations

from collections.abc import Callable
import pathlib
import re
import shutil
from typing import TYPE_CHECKING

from esc_jax import files
from esc_jax.export.base import ExportError
from esc_jax.export.huggingface import to_huggingface
from esc_jax.export.onnx import to_onnx
from esc_jax.export.safetensors import to_safetensors
from esc_jax.export.stablehlo import to_stablehlo
from esc_jax.export.tflite import to_tflite

if TYPE_CHECKING:  # imports JAX, which the help text of the command does not need
    from esc_jax.training.restore import Restored

# Name → function that writes a model into an empty folder.
FORMATS: dict[str, Callable[[Restored, pathlib.Path], None]] = {
    "huggingface": to_huggingface,
    "onnx": to_onnx,
    "safetensors": to_safetensors,
    "stablehlo": to_stablehlo,
    "tflite": to_tflite,
}


def export(path: str | pathlib.Path, form: str, out: str | pathlib.Path) -> pathlib.Path:
    """Exports a classifier. The output folder is written completely, or not at all.

    Args:
        path: work directory of a run, its `checkpoints` folder or one step in it; or a published classifier by its name
            in the catalog, file, folder or hub id.
        form: key of FORMATS.
        out: folder to create. It may exist if it is empty.

    Returns:
        The absolute path of the folder.

    Raises:
        ExportError, PretrainedError: the model cannot be written in this format.
        CheckpointError, ModelPathError: there is no checkpoint, or it cannot be read.
    """
    _check_out(out)
    from esc_jax.inference import classifier  # imports JAX

    return write(classifier.restore_any(path), form, out)


def write(restored: Restored, form: str, out: str | pathlib.Path) -> pathlib.Path:
    """Exports a model that was restored from a checkpoint. Arguments and errors are those of `export`."""
    out = _check_out(out)
    # Missing parents of `out` are created last, so that a failed export leaves no folder behind. A folder that exists
    # is kept, with its permissions: it can be a mount point, which no other folder replaces.
    existing = next(place for place in (out, *out.parents) if place.is_dir())
    for leftover in _leftovers(out):
        shutil.rmtree(leftover, ignore_errors=True)
    with files.temporary_folder(f".{out.name}.", existing) as temporary:
        folder = temporary / out.name
        folder.mkdir()  # with default permissions, unlike the temporary folder
        FORMATS[form](restored, folder)
        if existing == out:
            for file in folder.iterdir():
                file.replace(out / file.name)
        else:
            out.parent.mkdir(parents=True, exist_ok=True)
            folder.replace(out)
    return out


def _check_out(out: str | pathlib.Path) -> pathlib.Path:
    """The absolute path of a folder that is missing or empty. Raises ExportError for any other path."""
    path = files.resolve(out)
    if path.exists() and (not path.is_dir() or set(path.iterdir()) - set(_leftovers(path))):
        raise ExportError(f"--out={path} exists and is not an empty folder: choose another one, or remove it")
    return path


def _leftovers(out: pathlib.Path) -> list[pathlib.Path]:
    """Temporary folders of `write` in an output folder, of exports that were killed."""
    if not out.is_dir():
        return []
    name = re.compile(rf"\.{re.escape(out.name)}\.[a-z0-9_]{{8}}")
    folders = [path for path in out.iterdir() if name.fullmatch(path.name) and path.is_dir()]
    return [path for path in folders if {entry.name for entry in path.iterdir()} <= {out.name}]
