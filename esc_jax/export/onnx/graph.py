"""The graph of a traced function: values, nodes and constants, and the walk through the jaxpr."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import hashlib
from typing import Any

import jax
from jax import export
from jax.extend.core import Literal
import jax.numpy as jnp
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from esc_jax.export.base import ExportError

OPSET, IR_VERSION = 21, 10
BATCH = "batch"


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor of the graph, whose axes may be stored in another order than the traced function has them.

    Convolutions of ONNX are channels-first, those of the models channels-last. With the order of the axes kept beside
    the tensor, a network has almost no transpositions. An axis of size 1 stands for one of any size: broadcasts are
    written only where an operator needs them.

    Attributes:
        name: in the graph.
        shape: as stored.
        order: axis of the function → axis of the tensor.
    """

    name: str
    shape: tuple[Any, ...]
    order: tuple[int, ...]

    @property
    def logical(self) -> tuple[Any, ...]:
        """The shape with the axes in the order of the function."""
        return tuple(self.shape[axis] for axis in self.order)


# Operations on constants, which need not be compiled.
_NUMPY: dict[str, Callable[..., np.ndarray]] = {
    "add": np.add,
    "mul": np.multiply,
    "neg": np.negative,
    "rsqrt": lambda x: np.reciprocal(np.sqrt(x)),
    "sub": np.subtract,
}
_WITHOUT_NODES = ("broadcast_in_dim", "reshape", "squeeze")  # if their operands are constants

# A value of the traced function. Arrays are constants.
Value = Tensor | np.ndarray
Operator = Callable[["Graph", Any, Sequence[Any]], Value]


def inverse(order: Sequence[int]) -> tuple[int, ...]:
    """The inverse permutation."""
    return tuple(int(axis) for axis in np.argsort(order))


def is_symbolic(size: Any) -> bool:
    """Whether a size depends on the batch size."""
    return not isinstance(size, int | np.integer)


class Graph:
    """Nodes and constants of an ONNX graph under construction.

    Args:
        operators: name of a primitive of JAX → function (graph, equation, operands) that adds its nodes.
        name: of the input.
        sizes: shape of the input without the batch.
    """

    def __init__(self, operators: dict[str, Operator], name: str, *sizes: int):
        self.operators = operators
        shape = export.symbolic_shape(", ".join((BATCH, *map(str, sizes))))
        self.input = Tensor(name, tuple(shape), tuple(range(len(shape))))
        self.scope = ""
        self._batch = ""
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[tuple[Any, ...], onnx.TensorProto] = {}

    # Values.

    def constant(self, array: np.ndarray) -> str:
        """The name of a constant. Equal constants are stored once."""
        array = np.ascontiguousarray(array).reshape(np.shape(array))
        key = (array.dtype.str, array.shape, hashlib.sha256(array.tobytes()).digest())
        if key not in self.initializers:
            self.initializers[key] = numpy_helper.from_array(array, f"constant_{len(self.initializers)}")
        return str(self.initializers[key].name)

    def ints(self, *values: int) -> str:
        """The name of a constant of integers, as most operators take axes and shapes."""
        return self.constant(np.array(values, np.int64))

    def node(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Adds a node with one output, and returns the name of the output."""
        name = f"{self.scope}{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def tensor(self, value: Value) -> Tensor:
        """The value as a tensor of the graph."""
        if isinstance(value, np.ndarray):
            return Tensor(self.constant(value), value.shape, tuple(range(value.ndim)))
        return value

    def arranged(self, value: Value, axes: Sequence[int]) -> Tensor:
        """The value stored with these axes of the function in this order."""
        if isinstance(value, np.ndarray):
            stored = value.transpose(axes)
            return Tensor(self.constant(stored), stored.shape, inverse(axes))
        tensor = self.tensor(value)
        order = tuple(tensor.order[axis] for axis in axes)
        if order == tuple(range(len(order))):
            return tensor
        name = self.node("Transpose", [tensor.name], perm=order)
        return Tensor(name, tuple(tensor.shape[axis] for axis in order), inverse(axes))

    def expanded(self, value: Value, shape: Sequence[Any]) -> Value:
        """The value with every axis of size 1 that stands for more, and axes in any order."""
        if isinstance(value, np.ndarray):
            if not any(map(is_symbolic, shape)):
                return np.broadcast_to(value, [int(size) for size in shape])
            value = self.tensor(value)
        tensor = self.tensor(value)
        if tensor.logical == tuple(shape):
            return tensor
        sizes = tuple(shape[axis] for axis in inverse(tensor.order))
        return Tensor(self.node("Expand", [tensor.name, self._target(tensor.shape, sizes)]), sizes, tensor.order)

    def _target(self, old: Sequence[Any], new: Sequence[Any]) -> str:
        """The name of the shape to which Expand broadcasts: the size 1 keeps the one of the tensor."""
        repeated = [is_symbolic(to) and not is_symbolic(size) for size, to in zip(old, new, strict=True)]
        if not any(repeated):
            return self.ints(*(1 if is_symbolic(size) else int(size) for size in new))
        parts = []
        for size, repeat in zip(new, repeated, strict=True):
            if repeat and str(size) != BATCH:
                raise ExportError("a constant is repeated for parts of the clips: use --format=stablehlo")
            parts.append(self._batch_size() if repeat else self.ints(1 if is_symbolic(size) else int(size)))
        return self.node("Concat", parts, axis=0)

    def _batch_size(self) -> str:
        if not self._batch:
            self._batch = self.node("Shape", [self.input.name], start=0, end=1)
        return self._batch

    def plain(self, value: Value, shape: Sequence[Any]) -> Tensor:
        """The value with all its axes in the order and size of the function."""
        return self.arranged(self.expanded(value, shape), range(len(shape)))

    def reshaped(self, value: Value, old: Sequence[Any], new: Sequence[Any]) -> Value:
        """The value of shape `old` with another shape."""
        if isinstance(value, np.ndarray) and not any(map(is_symbolic, (*old, *new))):
            return np.asarray(self.expanded(value, old)).reshape([int(size) for size in new])
        tensor = self.plain(value, old)
        if tensor.shape == tuple(new):
            return tensor
        # At most one size depends on the batch size.
        target = self.ints(*(-1 if is_symbolic(size) else int(size) for size in new))
        name = self.node("Reshape", [tensor.name, target])
        return Tensor(name, tuple(new), tuple(range(len(new))))

    # The walk.

    def call(self, scope: str, function: Callable[..., Any], value: Tensor) -> Tensor:
        """Adds the nodes of function(value).

        Args:
            scope: prefix of the names of the nodes.
            function: of one float32 array, with one array as result.
            value: its argument.

        Raises:
            ExportError: an operation has no ONNX operator here.
        """
        self.scope = f"{scope}/"
        traced = jax.make_jaxpr(function)(jax.ShapeDtypeStruct(value.logical, jnp.float32))
        (result,) = self._walk(traced.jaxpr, [np.asarray(leaf) for leaf in traced.consts], [value])
        return self.plain(result, traced.out_avals[0].shape)

    def _walk(self, jaxpr: Any, consts: Sequence[Any], values: Sequence[Value]) -> list[Value]:
        """The results of a jaxpr for these arguments."""
        known: dict[Any, Value] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *values), strict=True))

        def read(variable: Any) -> Value:
            return np.asarray(variable.val) if isinstance(variable, Literal) else known[variable]

        for equation in _needed(jaxpr):
            if _is_empty(equation):  # such as padding of width 0
                continue
            operands = [known.get(v) if _is_unused(v, known) else read(v) for v in equation.invars]
            results = self._results(equation, operands)
            known.update(zip(equation.outvars, results, strict=True))
        return [read(variable) for variable in jaxpr.outvars]

    def _results(self, equation: Any, operands: list[Any]) -> list[Value]:
        """The results of one equation."""
        name, params = equation.primitive.name, equation.params
        if name == "platform_index":  # the form for CPU is made for XLA: gathers and sums of slices
            return [np.array(params["platforms"].index(None))]
        if name == "cond" and isinstance(operands[0], np.ndarray):
            branch = params["branches"][int(operands[0])]
            return self._walk(branch.jaxpr, branch.consts, operands[1:])
        inner = params.get("jaxpr", params.get("call_jaxpr"))
        if name == "jit" and f"jit {params['name']}" in self.operators:
            name = f"jit {params['name']}"
        elif inner is not None:
            closed = hasattr(inner, "consts")
            return self._walk(inner.jaxpr if closed else inner, inner.consts if closed else (), operands)
        if all(isinstance(operand, np.ndarray) for operand in operands) and not _has_symbolic_shape(equation):
            if name in _NUMPY:
                return [np.asarray(_NUMPY[name](*operands))]
            if name in _WITHOUT_NODES:
                return [self.operators[name](self, equation, operands)]
            shapes = [variable.aval.shape for variable in equation.invars]
            arrays = [jnp.asarray(self.expanded(x, shape)) for x, shape in zip(operands, shapes, strict=True)]
            results = equation.primitive.bind(*arrays, **params)
            return [np.asarray(x) for x in (results if equation.primitive.multiple_results else [results])]
        if name not in self.operators:
            raise ExportError(
                f"the operation {name} of the model has no ONNX operator in this export: use --format=stablehlo"
            )
        return [self.operators[name](self, equation, operands)]

    def model(self, result: Tensor, name: str) -> onnx.ModelProto:
        """The graph as a model with this result, under a name."""
        self.nodes.append(helper.make_node("Identity", [result.name], [name], name=name))
        inputs, outputs = (
            helper.make_tensor_value_info(label, TensorProto.FLOAT, list(map(_dimension, tensor.shape)))
            for label, tensor in ((self.input.name, self.input), (name, result))
        )
        graph = helper.make_graph(self.nodes, "esc_jax", [inputs], [outputs], list(self.initializers.values()))
        # onnx writes the newest version of the file format by default, which released runtimes cannot read yet.
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def _dimension(size: Any) -> Any:
    return BATCH if is_symbolic(size) else int(size)


def _needed(jaxpr: Any) -> list[Any]:
    """The equations on which the results depend."""
    wanted = {v for v in jaxpr.outvars if not isinstance(v, Literal)}
    kept = []
    for equation in reversed(jaxpr.eqns):
        if wanted.isdisjoint(equation.outvars):
            continue
        kept.append(equation)
        if not _is_empty(equation):
            wanted.update(v for v in equation.invars if not isinstance(v, Literal) and not _has_no_elements(v))
    return kept[::-1]


def _has_no_elements(variable: Any) -> bool:
    return any(not is_symbolic(size) and size == 0 for size in variable.aval.shape)


def _is_empty(equation: Any) -> bool:
    return all(map(_has_no_elements, equation.outvars))


def _is_unused(variable: Any, known: dict[Any, Value]) -> bool:
    return not isinstance(variable, Literal) and _has_no_elements(variable) and variable not in known


def _has_symbolic_shape(equation: Any) -> bool:
    return any(is_symbolic(size) for v in (*equation.invars, *equation.outvars) for size in v.aval.shape)
