"""Export formats by name."""

import pathlib

from esc_jax import files
from esc_jax.export.base import ExportError
from esc_jax.export.huggingface import to_huggingface
from esc_jax.export.stablehlo import to_stablehlo

FORMATS = {"huggingface": to_huggingface, "stablehlo": to_stablehlo}


def export(checkpoint: str | pathlib.Path, form: str, out: str | pathlib.Path) -> pathlib.Path:
    """Writes the model of a checkpoint in a format: all of it, or nothing.

    Args:
        checkpoint: a run's workdir, its `checkpoints` folder or one step in it.
        form: a key of FORMATS.
        out: the folder to make; it may exist if it is empty.
    Returns:
        The folder.
    Raises:
        ExportError, PretrainedError: it cannot be written in this format. CheckpointError: there is nothing to write.
    """
    _check_out(out)
    from esc_jax import build

    return write(build.restore(checkpoint), form, out)


def write(run, form: str, out: str | pathlib.Path) -> pathlib.Path:
    """As `export`, of an `esc_jax.build.Restored`."""
    out = _check_out(out)
    # Its parents are made when there is something to put there: a failed export leaves none of them behind either.
    beside = next(parent for parent in out.parents if parent.is_dir())
    with files.temporary_folder(f".{out.name}.", beside) as folder:
        made = folder / out.name
        made.mkdir()  # with the usual permissions; the temporary folder is its owner's alone
        FORMATS[form](run, made)
        out.parent.mkdir(parents=True, exist_ok=True)
        made.replace(out)
    return out


def _check_out(out: str | pathlib.Path) -> pathlib.Path:
    """The absolute path of a folder that is new or empty. Raises ExportError for anything else."""
    out = pathlib.Path(out).expanduser().resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(f"--out={out} exists and is not an empty folder: name another, or remove it first")
    return out
