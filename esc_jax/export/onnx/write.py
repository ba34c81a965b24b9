"""Writes a model as ONNX files, and compares their outputs with those of JAX before anything is kept."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import onnx
import onnxruntime

from esc_jax.export import clips as check_clips
from esc_jax.export import comparison, model_card, stablehlo, usage
from esc_jax.export.base import CARD, DESCRIPTION, ExportError
from esc_jax.export.clips import Clips
from esc_jax.export.frontends import as_products
from esc_jax.export.onnx.graph import OPSET, Graph
from esc_jax.export.onnx.operators import OPERATORS
from esc_jax.export.onnx.quantize import quantize
from esc_jax.training.restore import Restored

MODEL, FEATURES, INT8, EXAMPLE = "model.onnx", "features.onnx", "model_int8.onnx", "example.py"
MAX_PARAMETERS = 500_000_000  # of 4 bytes: a file of protobuf has at most 2 GiB
_OUTPUT = "probabilities"


def write(restored: Restored, directory: pathlib.Path) -> None:
    """Writes all files of the export into an empty folder.

    Raises:
        ExportError: an operation has no ONNX operator here, the model is too large, or the outputs differ.
    """
    model = comparison.in_float32(restored)
    if model.parameter_count > MAX_PARAMETERS:
        raise ExportError(f"{model.parameter_count:,} parameters do not fit into an ONNX file: use --format=stablehlo")
    clips = check_clips.find(restored)
    classify = stablehlo.classifier(restored, model)
    waveforms = clips.checked
    features = comparison.outputs(model.frontend, waveforms)
    expected = comparison.outputs(classify, features)

    graph = Graph(OPERATORS, "waveform", model.clip_samples)
    inside = graph.call("frontend", as_products(model.frontend), graph.input)
    _save(restored, graph, graph.call("model", classify, inside), directory / MODEL)
    differences = {MODEL: compare(directory / MODEL, waveforms, expected)}
    if features.ndim == 3:  # a waveform has no features
        graph = Graph(OPERATORS, "features", *features.shape[1:])
        _save(restored, graph, graph.call("model", classify, graph.input), directory / FEATURES)
        differences[FEATURES] = compare(directory / FEATURES, features, expected)
    kind = quantize(directory / MODEL, directory / INT8, clips.calibration)
    int8 = {"kind": kind} | comparison.compare_decisions(
        restored, INT8, clips, expected, run(directory / INT8, waveforms)
    )

    content = _describe(restored, features.shape[1:], differences, int8, clips)
    (directory / DESCRIPTION).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (directory / EXAMPLE).write_text(usage.ONNX, encoding="utf-8")
    (directory / CARD).write_text(
        model_card.onnx_card(restored, content["files"], content["checked"]), encoding="utf-8"
    )


def _save(restored: Restored, graph: Graph, result: Any, path: pathlib.Path) -> None:
    """Writes a graph. Its metadata are what a program needs that has no JSON reader."""
    proto = graph.model(result, _OUTPUT)
    model = restored.model
    metadata = {"labels": "\n".join(model.classes), "sample_rate": model.sample_rate, "samples": model.clip_samples}
    onnx.helper.set_model_props(proto, {key: str(value) for key, value in metadata.items()})
    onnx.save(proto, path)


def run(path: pathlib.Path, inputs: np.ndarray, batch: int = comparison.BATCH) -> np.ndarray:
    """The outputs of a file in ONNX Runtime, (N, classes)."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # slow where other programs run
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: part})[0] for part in comparison.batches(inputs, batch)])


def compare(path: pathlib.Path, inputs: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference between the probabilities of a file and those of JAX, one clip at a time and three.

    Raises:
        ExportError: it is larger than comparison.TOLERANCE.
    """
    return comparison.check(path.name, "onnxruntime", (run(path, inputs, batch) for batch in (1, 3)), expected)


def _describe(
    restored: Restored, shape: tuple[int, ...], differences: dict[str, float], int8: dict[str, Any], clips: Clips
) -> dict[str, Any]:
    """The content of model.json."""
    content = stablehlo.describe(restored)
    del content["platforms"]
    files: dict[str, Any] = {
        name: {"input": "waveform", "largest_difference": difference} for name, difference in differences.items()
    }
    if FEATURES in files:
        files[FEATURES] |= {
            "input": "features",
            "shape": ["batch", *shape],
            "frontend": restored.config.frontend.to_dict(),
        }
    return content | {
        "opset": OPSET,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
        "files": files | {INT8: {"input": "waveform"} | int8},
        "checked": clips.source,
    }
