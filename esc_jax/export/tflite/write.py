"""Writes a model as files of LiteRT, and compares their outputs with those of JAX before anything is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import importlib.metadata
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from typing import Any

from ai_edge_litert.interpreter import Interpreter
import jax
from jax import export
import jax.numpy as jnp
import numpy as np

from esc_jax.export import clips as check_clips
from esc_jax.export import comparison, model_card, stablehlo, usage
from esc_jax.export.base import CARD, DESCRIPTION, ExportError
from esc_jax.export.clips import Clips
from esc_jax.export.frontends import as_products
from esc_jax.training.restore import Restored

MODEL, FEATURES, INT8, EXAMPLE = "model.tflite", "features.tflite", "features_int8.tflite", "example.py"
_CONVERTER = pathlib.Path(__file__).parents[2] / "litert.py"
# The operations of the models have a form for XLA on CPUs, and one of plain convolutions for all other platforms. A
# plain convolution is one operator of LiteRT. The program itself is the same on every platform.
_PLATFORM = "tpu"

Function = Callable[[jax.Array], jax.Array]


def write(restored: Restored, directory: pathlib.Path) -> None:
    """Writes all files of the export into an empty folder.

    Raises:
        ExportError: the converter fails, or the outputs differ.
    """
    model = comparison.in_float32(restored)
    clips = check_clips.find(restored)
    classify = stablehlo.classifier(restored, model)
    frontend = as_products(model.frontend)
    waveforms = clips.checked
    features = comparison.outputs(model.frontend, waveforms)
    expected = comparison.outputs(classify, features)

    converter = _convert(
        directory,
        {
            MODEL: (lambda waveform: classify(frontend(waveform)), waveforms.shape[1:]),
            FEATURES: (classify, features.shape[1:]),
            INT8: (classify, features.shape[1:]),
        },
    )
    differences = {MODEL: compare(directory / MODEL, waveforms, expected)}
    differences[FEATURES] = compare(directory / FEATURES, features, expected)
    int8 = comparison.compare_decisions(restored, INT8, clips, expected, run(directory / INT8, features))

    content = _describe(restored, features.shape[1:], differences, int8, clips) | {"tensorflow": converter}
    (directory / DESCRIPTION).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (directory / EXAMPLE).write_text(usage.TFLITE, encoding="utf-8")
    card = model_card.tflite_card(restored, content["files"], content["checked"])
    (directory / CARD).write_text(card, encoding="utf-8")


def _convert(directory: pathlib.Path, functions: Mapping[str, tuple[Function, tuple[int, ...]]]) -> str:
    """Writes a file for each function of one clip. INT8 gets weights of 8 bits.

    Returns:
        The version of TensorFlow.

    Raises:
        ExportError: the converter fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        jobs = []
        for name, (function, shape) in functions.items():
            clip = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
            source = pathlib.Path(folder) / f"{name}.jax"
            source.write_bytes(export.export(jax.jit(function), platforms=[_PLATFORM])(clip).serialize())
            jobs.append((str(source), str(directory / name), "int8" if name == INT8 else "float32"))
        command = [sys.executable, "-P", str(_CONVERTER), json.dumps(jobs)]
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace")
    if done.returncode:
        # An error of the converter itself is followed by the stack of its calls.
        found = re.search(r"(?<!\w)error: (.+)", done.stderr)
        lines = [found[1]] if found else done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        reason = lines[-1][:300]
        raise ExportError(f"TensorFlow cannot convert the model ({reason}): use --format=onnx")
    return done.stdout.split()[-1]


def run(path: pathlib.Path, inputs: np.ndarray) -> np.ndarray:
    """The outputs of a file in the interpreter of LiteRT, (N, classes)."""
    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    source, result = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    rows = []
    for clip in inputs:
        interpreter.set_tensor(source, clip[None])
        interpreter.invoke()
        rows.append(interpreter.get_tensor(result)[0])
    return np.array(rows)


def compare(path: pathlib.Path, inputs: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference between the probabilities of a file and those of JAX.

    Raises:
        ExportError: it is larger than comparison.TOLERANCE.
    """
    return comparison.check(path.name, "LiteRT", [run(path, inputs)], expected)


def _describe(
    restored: Restored, shape: tuple[int, ...], differences: dict[str, float], int8: dict[str, Any], clips: Clips
) -> dict[str, Any]:
    """The content of model.json."""
    content = stablehlo.describe(restored)
    del content["platforms"]
    for part in ("input", "output"):
        content[part]["shape"][0] = 1
    features = {"input": "features", "shape": [1, *shape], "frontend": restored.config.frontend.to_dict()}
    return content | {
        "litert": importlib.metadata.version("ai-edge-litert"),
        "files": {
            MODEL: {"input": "waveform", "largest_difference": differences[MODEL]},
            FEATURES: features | {"largest_difference": differences[FEATURES]},
            INT8: features | {"kind": "dynamic"} | int8,
        },
        "checked": clips.source,
    }
