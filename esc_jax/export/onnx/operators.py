"""The operations of JAX that the models use, as operators of ONNX."""

from __future__ import annotations

from collections.abc import Sequence
import math
from typing import Any

import numpy as np
from onnx import helper

from esc_jax.export.base import ExportError
from esc_jax.export.onnx.graph import Graph, Operator, Tensor, Value, inverse, is_symbolic

_UNARY = {
    "abs": "Abs", "ceil": "Ceil", "cos": "Cos", "erf": "Erf", "exp": "Exp", "floor": "Floor", "log": "Log",
    "logistic": "Sigmoid", "neg": "Neg", "not": "Not", "sign": "Sign", "sin": "Sin", "sqrt": "Sqrt", "tanh": "Tanh",
}  # fmt: skip
_BINARY = {
    "add": "Add", "and": "And", "div": "Div", "eq": "Equal", "ge": "GreaterOrEqual", "gt": "Greater",
    "le": "LessOrEqual", "lt": "Less", "min": "Min", "mul": "Mul", "or": "Or", "pow": "Pow", "sub": "Sub",
}  # fmt: skip
_REDUCTIONS = {"reduce_max": "ReduceMax", "reduce_min": "ReduceMin", "reduce_sum": "ReduceSum"}


def _unsupported(what: str) -> ExportError:
    return ExportError(f"{what} has no ONNX operator in this export: use --format=stablehlo")


def _elementwise(graph: Graph, kind: str, operands: Sequence[Value]) -> Tensor:
    """An operator that broadcasts its operands. The result is stored in the order of the largest of them."""
    tensors = [operand for operand in operands if isinstance(operand, Tensor)]
    rank = max(np.ndim(x) if isinstance(x, np.ndarray) else len(x.shape) for x in operands)
    large = [tensor for tensor in tensors if len(tensor.shape) == rank]
    if not large:  # constants that are repeated for the batch
        large = [graph.tensor(np.zeros((1,) * rank, np.float32))]
    first = max(large, key=lambda tensor: sum(is_symbolic(size) or size > 1 for size in tensor.shape))
    stored = [_stored_as(graph, operand, first.order) for operand in operands]
    shape = tuple(_broadcast([tensor.shape[axis] for tensor in stored if tensor.shape]) for axis in range(rank))
    return Tensor(graph.node(kind, [tensor.name for tensor in stored]), shape, first.order)


def _stored_as(graph: Graph, value: Value, order: tuple[int, ...]) -> Tensor:
    rank = np.ndim(value) if isinstance(value, np.ndarray) else len(graph.tensor(value).shape)
    if rank == 0:
        return graph.tensor(value)
    return graph.arranged(_compact(value) if isinstance(value, np.ndarray) else value, inverse(order))


def _compact(array: np.ndarray) -> np.ndarray:
    """The array with size 1 for axes along which it was repeated."""
    steps = zip(array.strides, array.shape, strict=True)
    return array[tuple(slice(0, 1) if step == 0 and size > 1 else slice(None) for step, size in steps)]


def _broadcast(sizes: Sequence[Any]) -> Any:
    """The size that results from broadcasting these sizes."""
    return next((size for size in sizes if is_symbolic(size) or size != 1), 1)


def _unary(kind: str) -> Operator:
    def operator(graph: Graph, equation: Any, operands: Sequence[Any]) -> Value:
        tensor = graph.tensor(operands[0])
        return Tensor(graph.node(kind, [tensor.name]), tensor.shape, tensor.order)

    return operator


def _binary(kind: str) -> Operator:
    def operator(graph: Graph, equation: Any, operands: Sequence[Any]) -> Value:
        return _elementwise(graph, kind, operands)

    return operator


def _reduction(kind: str) -> Operator:
    def operator(graph: Graph, equation: Any, operands: Sequence[Any]) -> Value:
        shape, reduced = equation.invars[0].aval.shape, equation.params["axes"]
        sizes = operands[0].shape if isinstance(operands[0], np.ndarray) else graph.tensor(operands[0]).logical
        target = [shape[axis] if axis in reduced else size for axis, size in enumerate(sizes)]
        tensor = graph.tensor(graph.expanded(operands[0], target))
        axes = {tensor.order[axis] for axis in reduced}
        name = graph.node(kind, [tensor.name, graph.ints(*sorted(axes))], keepdims=0)
        left = [axis for axis in range(len(tensor.shape)) if axis not in axes]
        order = tuple(left.index(axis) for axis in tensor.order if axis not in axes)
        return Tensor(name, tuple(tensor.shape[axis] for axis in left), order)

    return operator


def _same(graph: Graph, equation: Any, operands: Sequence[Any]) -> Value:
    return operands[0]


def _square(graph: Graph, equation: Any, operands: Sequence[Any]) -> Value:
    return _elementwise(graph, "Mul", [operands[0], operands[0]])


def _integer_pow(graph: Graph, equation: Any, operands: Sequence[Any]) -> Value:
    if equation.params["y"] == 2:
        return _square(graph, equation, operands)
    return _elementwise(graph, "Pow", [operands[0], np.array(equation.params["y"], np.float32)])


def _max(graph: Graph, equation: Any, operands: Sequence[Any]) -> Value:
    x, other = operands
    if isinstance(x, Tensor) and isinstance(other, np.ndarray) and not other.any():
        return _unary("Relu")(graph, equation, [x])  # which runtimes compute together with a convolution
    return _elementwise(graph, "Max", operands)


def _rsqrt(graph: Graph, equation: Any, operands: Sequence[Any]) -> Value:
    root = _unary("Sqrt")(graph, equation, operands)
    return _unary("Reciprocal")(graph, equation, [root])


def _erfc(graph: Graph, equation: Any, operands: Sequence[Any]) -> Value:
    return _elementwise(graph, "Sub", [np.ones((), np.float32), _unary("Erf")(graph, equation, operands)])


def _clamp(graph: Graph, equation: Any, operands: Sequence[Any]) -> Value:
    low, x, high = operands
    return _elementwise(graph, "Min", [_elementwise(graph, "Max", [x, low]), high])


def _select(graph: Graph, equation: Any, operands: Sequence[Any]) -> Value:
    if len(operands) != 3:
        raise _unsupported("a choice between more than two values")
    condition, on_false, on_true = operands
    return _elementwise(graph, "Where", [condition, on_true, on_false])


def _cast(graph: Graph, equation: Any, operands: Sequence[Any]) -> Value:
    old, new = equation.invars[0].aval.dtype, equation.params["new_dtype"]
    tensor = graph.tensor(operands[0])
    if old == new:
        return tensor
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(new))
    return Tensor(graph.node("Cast", [tensor.name], to=kind), tensor.shape, tensor.order)


# Shapes.


def _reshape(graph: Graph, equation: Any, operands: Sequence[Any]) -> Value:
    return graph.reshaped(operands[0], equation.invars[0].aval.shape, equation.outvars[0].aval.shape)


def _transpose(graph: Graph, equation: Any, operands: Sequence[Any]) -> Value:
    tensor = graph.tensor(operands[0])
    return Tensor(tensor.name, tensor.shape, tuple(tensor.order[axis] for axis in equation.params["permutation"]))


def _broadcast_in_dim(graph: Graph, equation: Any, operands: Sequence[Any]) -> Value:
    """Only adds axes of size 1, which stand for any size."""
    kept = equation.params["broadcast_dimensions"]
    value, rank = operands[0], len(equation.outvars[0].aval.shape)
    sizes = value.shape if isinstance(value, np.ndarray) else graph.tensor(value).logical
    shape = [1] * rank
    for axis, size in zip(kept, sizes, strict=True):
        shape[axis] = size
    return value.reshape(shape) if isinstance(value, np.ndarray) else graph.reshaped(value, sizes, shape)


def _slice(graph: Graph, equation: Any, operands: Sequence[Any]) -> Value:
    shape, params = equation.invars[0].aval.shape, equation.params
    steps = params["strides"] or (1,) * len(shape)
    ranges = zip(params["start_indices"], params["limit_indices"], steps, strict=True)
    return _sliced(graph, operands[0], shape, list(ranges))


def _sliced(graph: Graph, value: Value, shape: Sequence[Any], ranges: Sequence[tuple[Any, Any, int]]) -> Tensor:
    """Values from start to limit in steps, for every axis."""
    tensor = graph.tensor(graph.expanded(value, shape))
    sizes, cuts = list(tensor.shape), []
    for axis, (start, limit, step) in enumerate(ranges):
        if step == 1 and not is_symbolic(start) and start == 0 and limit == shape[axis]:
            continue
        if is_symbolic(start) or is_symbolic(limit):
            raise _unsupported("a slice along the batch")
        cuts.append((int(start), int(limit), tensor.order[axis], int(step)))
        sizes[tensor.order[axis]] = len(range(start, limit, step))
    if not cuts:
        return tensor
    name = graph.node("Slice", [tensor.name, *(graph.ints(*numbers) for numbers in zip(*cuts, strict=True))])
    return Tensor(name, tuple(sizes), tensor.order)


def _reverse(graph: Graph, equation: Any, operands: Sequence[Any]) -> Value:
    tensor = graph.tensor(graph.expanded(operands[0], equation.invars[0].aval.shape))
    axes = [tensor.order[axis] for axis in equation.params["dimensions"]]
    ends = [graph.ints(*[number] * len(axes)) for number in (-1, np.iinfo(np.int64).min, -1)]
    name = graph.node("Slice", [tensor.name, ends[0], ends[1], graph.ints(*axes), ends[2]])
    return Tensor(name, tensor.shape, tensor.order)


def _concatenate(graph: Graph, equation: Any, operands: Sequence[Any]) -> Value:
    axis = equation.params["dimension"]
    parts = [
        graph.plain(operand, variable.aval.shape)
        for operand, variable in zip(operands, equation.invars, strict=True)
        if is_symbolic(variable.aval.shape[axis]) or variable.aval.shape[axis] > 0
    ]
    if len(parts) == 1:
        return parts[0]
    name = graph.node("Concat", [part.name for part in parts], axis=axis)
    shape = equation.outvars[0].aval.shape
    return Tensor(name, tuple(shape), tuple(range(len(shape))))


def _pad(graph: Graph, equation: Any, operands: Sequence[Any]) -> Value:
    config = equation.params["padding_config"]
    if any(interior or low < 0 or high < 0 for low, high, interior in config):
        raise _unsupported("padding between the elements, or of negative width")
    tensor = graph.tensor(graph.expanded(operands[0], equation.invars[0].aval.shape))
    widths = [config[axis] for axis in inverse(tensor.order)]
    pads = graph.ints(*(int(low) for low, _, _ in widths), *(int(high) for _, high, _ in widths))
    name = graph.node("Pad", [tensor.name, pads, graph.tensor(operands[1]).name])
    sizes = zip(tensor.shape, widths, strict=True)
    return Tensor(name, tuple(size + int(low + high) for size, (low, high, _) in sizes), tensor.order)


# Sums of products.


def _convolution(graph: Graph, equation: Any, operands: Sequence[Any]) -> Value:
    params, numbers = equation.params, equation.params["dimension_numbers"]
    if params["batch_group_count"] != 1 or set(params["lhs_dilation"]) - {1} or np.min(params["padding"]) < 0:
        raise _unsupported("a transposed convolution")
    x, kernel = (
        graph.arranged(graph.expanded(operand, variable.aval.shape), spec)
        for operand, variable, spec in zip(operands, equation.invars, (numbers.lhs_spec, numbers.rhs_spec), strict=True)
    )
    low, high = zip(*params["padding"], strict=True)
    name = graph.node(
        "Conv",
        [x.name, kernel.name],
        dilations=list(params["rhs_dilation"]),
        group=params["feature_group_count"],
        kernel_shape=list(kernel.shape[2:]),
        pads=[int(width) for width in (*low, *high)],
        strides=list(params["window_strides"]),
    )
    shape, order = equation.outvars[0].aval.shape, inverse(numbers.out_spec)
    return Tensor(name, tuple(shape[axis] for axis in numbers.out_spec), order)


def _max_pool(graph: Graph, equation: Any, operands: Sequence[Any]) -> Value:
    params, shape = equation.params, equation.invars[0].aval.shape
    window, strides, padding = params["window_dimensions"], params["window_strides"], params["padding"]
    dilated = set(params["base_dilation"]) | set(params["window_dilation"])
    fixed = [axis for axis in range(len(shape)) if window[axis] == strides[axis] == 1 and not any(padding[axis])]
    if dilated != {1} or len(fixed) < 2:
        raise _unsupported("dilated pooling, or pooling over channels")
    axes = fixed[:2] + [axis for axis in range(len(shape)) if axis not in fixed[:2]]
    x = graph.arranged(graph.expanded(operands[0], shape), axes)
    low, high = zip(*(padding[axis] for axis in axes[2:]), strict=True)
    name = graph.node(
        "MaxPool",
        [x.name],
        kernel_shape=[window[axis] for axis in axes[2:]],
        strides=[strides[axis] for axis in axes[2:]],
        pads=[int(width) for width in (*low, *high)],
    )
    result = equation.outvars[0].aval.shape
    return Tensor(name, tuple(result[axis] for axis in axes), inverse(axes))


def _dot_general(graph: Graph, equation: Any, operands: Sequence[Any]) -> Value:
    contracted, batch = equation.params["dimension_numbers"]
    shapes = [variable.aval.shape for variable in equation.invars]
    free = [
        [axis for axis in range(len(shape)) if axis not in (*used, *kept)]
        for shape, used, kept in zip(shapes, contracted, batch, strict=True)
    ]
    result = tuple(equation.outvars[0].aval.shape)
    left, right = operands
    if not batch[0] and len(contracted[0]) == 1 and len(shapes[1]) == 2:  # a matrix: nothing is reshaped
        (channels,), axes = contracted[0], [*contracted[1], *free[1]]
        if _is_channels_first(left, channels) and isinstance(right, np.ndarray):
            return _pointwise(graph, left, right.transpose(axes), channels)
        x = graph.arranged(graph.expanded(left, shapes[0]), [*free[0], channels])
        matrix = graph.arranged(graph.expanded(right, shapes[1]), axes)
        return Tensor(graph.node("MatMul", [x.name, matrix.name]), result, tuple(range(len(result))))
    first = _factor(graph, left, shapes[0], (batch[0], free[0], contracted[0]))
    second = _factor(graph, right, shapes[1], (batch[1], contracted[1], free[1]))
    product = (*(shapes[0][axis] for axis in batch[0]), first.shape[-2], second.shape[-1])
    tensor = Tensor(graph.node("MatMul", [first.name, second.name]), product, tuple(range(len(product))))
    return graph.reshaped(tensor, product, result)


def _factor(graph: Graph, value: Value, shape: Sequence[Any], groups: Sequence[Sequence[int]]) -> Tensor:
    """A factor as a stack of matrices: its batch axes, then one axis for each of the other two groups.

    Batch axes of size 1 may stand for more: MatMul broadcasts them.
    """
    kept, *others = groups
    sizes = value.shape if isinstance(value, np.ndarray) else graph.tensor(value).logical
    target = [sizes[axis] if axis in kept else size for axis, size in enumerate(shape)]
    stored = graph.arranged(graph.expanded(value, target), [axis for group in groups for axis in group])
    flat = Tensor(stored.name, stored.shape, tuple(range(len(shape))))
    new = [target[axis] for axis in kept] + [math.prod(target[axis] for axis in group) for group in others]
    return graph.tensor(graph.reshaped(flat, flat.shape, new))


def _is_channels_first(value: Value, channels: int) -> bool:
    """Whether these channels of an image are stored before its height and width."""
    return isinstance(value, Tensor) and len(value.shape) == 4 and value.order[channels] == 1


def _pointwise(graph: Graph, x: Tensor, matrix: np.ndarray, channels: int) -> Tensor:
    """A matrix product over the channels of an image that is stored channels-first, as a 1 × 1 convolution."""
    kernel = graph.constant(matrix.T[..., None, None])
    name = graph.node("Conv", [x.name, kernel], kernel_shape=[1, 1])
    order = tuple(position for axis, position in enumerate(x.order) if axis != channels)
    return Tensor(name, (x.shape[0], matrix.shape[1], *x.shape[2:]), (*order, 1))


OPERATORS: dict[str, Operator] = {
    **{name: _unary(kind) for name, kind in _UNARY.items()},
    **{name: _binary(kind) for name, kind in _BINARY.items()},
    **{name: _reduction(kind) for name, kind in _REDUCTIONS.items()},
    "broadcast_in_dim": _broadcast_in_dim,
    "clamp": _clamp,
    "concatenate": _concatenate,
    "conv_general_dilated": _convolution,
    "convert_element_type": _cast,
    "copy": _same,
    "dot_general": _dot_general,
    "erfc": _erfc,
    "expand_dims": _reshape,
    "jit hard_silu": _unary("HardSwish"),  # a function of jax.nn, which runtimes compute at once
    "integer_pow": _integer_pow,
    "max": _max,
    "pad": _pad,
    "reduce_window_max": _max_pool,
    "reshape": _reshape,
    "rev": _reverse,
    "rsqrt": _rsqrt,
    "select_n": _select,
    "slice": _slice,
    "square": _square,
    "squeeze": _reshape,
    "stop_gradient": _same,
    "transpose": _transpose,
}
