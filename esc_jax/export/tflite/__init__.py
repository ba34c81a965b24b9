"""Export as files of LiteRT (TensorFlow Lite), from waveform or features to probabilities."""

from __future__ import annotations

import importlib.util
import pathlib
from typing import TYPE_CHECKING

from esc_jax.export.base import ExportError

if TYPE_CHECKING:  # imports JAX, which the help text of the command does not need
    from esc_jax.training.restore import Restored

ARCHITECTURES = ("efficientat", "efficientnet", "resnet")
_PACKAGES = ("ai_edge_litert", "tensorflow")  # the interpreter, and the converter, which runs in another process


def to_tflite(restored: Restored, directory: pathlib.Path) -> None:
    """Writes model.tflite, features.tflite, features_int8.tflite, model.json, example.py and README.md.

    The files compute the calibrated probabilities of one clip with LiteRT's built-in operators. Before it returns,
    their outputs are compared with those of JAX on clips.

    Args:
        restored: model of a run.
        directory: empty folder.

    Raises:
        ExportError: a package is missing, the architecture is none of ARCHITECTURES, the converter fails, or the
            outputs differ.
    """
    name = restored.config.model.name
    if name not in ARCHITECTURES:
        raise ExportError(
            f"--format=tflite is for {', '.join(ARCHITECTURES)}, and not for model.name={name}: use --format=onnx"
        )
    for package in _PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise ExportError(f"--format=tflite needs the package {package}: pip install 'esc-jax[tflite]'")
    from esc_jax.export.tflite.write import write

    write(restored, directory)
