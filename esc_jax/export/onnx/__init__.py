"""Export as ONNX files, from waveform or features to probabilities."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

from esc_jax.export.base import ExportError

if TYPE_CHECKING:  # imports JAX, which the help text of the command does not need
    from esc_jax.training.restore import Restored


def to_onnx(restored: Restored, directory: pathlib.Path) -> None:
    """Writes model.onnx, features.onnx, model_int8.onnx, model.json, example.py and README.md.

    The files compute the probabilities of the run, calibrated, for any batch size: model.onnx and model_int8.onnx from
    waveforms, features.onnx from the features of the frontend. Before it returns, their outputs are compared with
    those of JAX on clips.

    Args:
        restored: model of a run.
        directory: empty folder.

    Raises:
        ExportError: a package is missing, an operation of the model has no ONNX operator, or the outputs differ.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise ExportError(f"--format=onnx needs the package {error.name}: pip install 'esc-jax[onnx]'") from None
    from esc_jax.export.onnx.write import write

    write(restored, directory)
