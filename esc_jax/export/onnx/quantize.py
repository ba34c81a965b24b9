"""The int8 variant of a model: 8-bit weights, and 8-bit activations where they are worth it."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import logging
import pathlib
import tempfile
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnxruntime import quantization

_WEIGHTED = ("Conv", "Gemm", "MatMul")


class _Reader(quantization.CalibrationDataReader):
    """Clips one by one, from which the ranges of the activations are measured."""

    def __init__(self, name: str, clips: np.ndarray):
        self._batches = iter([{name: clip[None]} for clip in clips])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The inputs of the next clip; None after the last one."""
        return next(self._batches, None)


def quantize(source: pathlib.Path, target: pathlib.Path, clips: np.ndarray) -> str:
    """Writes the int8 variant of a model. The frontend stays in float32: its spectra need a larger range.

    A network of convolutions gets fixed ranges of its activations, measured on clips. In a transformer only the
    weights of the products are in int8 beforehand, because the ranges differ much between clips.

    Args:
        source, target: of the float32 model and of the variant.
        clips: (N, samples) float32.

    Returns:
        "static" or "dynamic".
    """
    with tempfile.TemporaryDirectory() as folder, _without_warnings():
        simplified = pathlib.Path(folder) / "model.onnx"
        _simplify(source, simplified)
        graph = onnx.load(simplified).graph
        frontend = [node.name for node in graph.node if not _is_in_model(node)]
        name = graph.input[0].name
        # Seven bits: the sum of two products of eight bits overflows on CPUs without VNNI.
        options: dict[str, Any] = {"per_channel": True, "reduce_range": True, "nodes_to_exclude": frontend}
        if _is_convolutional(graph):
            quantization.quantize_static(
                simplified,
                target,
                _Reader(name, clips),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=list(_WEIGHTED),
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                **options,
            )
            return "static"
        quantization.quantize_dynamic(simplified, target, op_types_to_quantize=["Gemm", "MatMul"], **options)
    return "dynamic"


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Discards warnings of onnxruntime.quantization, which recommend what `_simplify` does."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)


def _simplify(source: pathlib.Path, target: pathlib.Path) -> None:
    """Writes a model with its constants computed and its normalizations inside the convolutions before them."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    model = onnx.load(target)
    biases = {node.input[2] for node in model.graph.node if node.op_type == "Gemm" and len(node.input) > 2}
    for tensor in model.graph.initializer:
        if tensor.name in biases and len(tensor.dims) == 2 and tensor.dims[0] == 1:
            del tensor.dims[0]  # onnxruntime.quantization fails on a bias of two axes
    onnx.save(model, target)


def _is_in_model(node: Any) -> bool:
    return str(node.name).startswith("model/")


def _is_convolutional(graph: Any) -> bool:
    """Whether most of the layers with weights are convolutions."""
    weights = {tensor.name for tensor in graph.initializer}
    kinds = [node.op_type for node in graph.node if _is_in_model(node) and weights.intersection(node.input[1:2])]
    return kinds.count("Conv") > kinds.count("Gemm") + kinds.count("MatMul")
