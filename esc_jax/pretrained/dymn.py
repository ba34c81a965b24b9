"""Reading of EfficientAT's `dymn` checkpoints (github.com/fschmid56/EfficientAT, MIT).

The file contains a state dict. The four kernels of a dynamic convolution are the rows of one matrix. Constants of the
dynamic ReLU are in the file as well, and are not read.
"""

from collections.abc import Iterator
import os
import pathlib

from flax import traverse_util
import numpy as np

from esc_jax.models import dymn, efficientat
from esc_jax.pretrained.efficientat import (
    AUDIOSET_CLASSES,
    Entry,
    convert,
    frontend_options,
    labels,
    linear,
    match_width,
    norm,
    state_dict,
)
from esc_jax.pretrained.published import PretrainedError, PublishedCheckpoint

_CONSTANTS = ("depth_act.lambdas", "depth_act.init_v")

# Name of a dynamic convolution → shape of one of its kernels.
Kernels = dict[str, tuple[int, ...]]


def read(path: str | os.PathLike) -> PublishedCheckpoint:
    """Reads a published `dymn…_as` state dict.

    Args:
        path: the `.pt` file. Class names are read as by `efficientat.read`.

    Returns:
        Architecture "dymn", head "mlp", frontend "efficientat_mel".

    Raises:
        PretrainedError: it is no such file, or arrays are missing, unknown or of another shape. The `replace_se`
            models, which have dynamic blocks in some places only, are not supported.
    """
    path = pathlib.Path(path)
    if "replace_se" in path.name:
        raise PretrainedError(f"{path} has dynamic blocks in some places only: give dymn04_as, dymn10_as or dymn20_as.")
    state = {name: array for name, array in state_dict(path).items() if not name.endswith(_CONSTANTS)}
    width = match_width(path, state, dymn.PUBLISHED_WIDTHS, _entries, "dymn")
    classes, shapes = state["classifier.5.bias"].shape[0], _kernels(width)
    flat = {variable: _convert(state[name], shapes.get(name)) for name, variable, _ in _entries(width, classes)}
    return PublishedCheckpoint(
        architecture="dymn",
        options={"width_mult": width, "temperature": 1.0},
        variables=traverse_util.unflatten_dict(flat),
        head={"name": "mlp", "classes": classes, "width": efficientat.head_width(width), "dropout": 0.2},
        frontend={"name": "efficientat_mel", "sample_rate": 32_000, **frontend_options(path.name)},
        labels=labels(path, classes),
        task="multi_label" if classes == AUDIOSET_CLASSES else "single_label",
    )


def _parts(spec: efficientat.BlockSpec) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """The dynamic convolutions of a block: their published names, ours, and the shape of a kernel."""
    if spec.expands:
        yield "exp", "expand", (spec.expanded, spec.inputs, 1, 1)
    yield "depth", "depthwise", (spec.expanded, 1, spec.kernel, spec.kernel)
    yield "proj", "project", (spec.outputs, spec.expanded, 1, 1)


def _kernels(width: float) -> Kernels:
    return {
        f"layers.{index}.{part}_conv.weight": shape
        for index, spec in enumerate(efficientat.layout(width))
        for part, _, shape in _parts(spec)
    }


def _entries(width: float, classes: int) -> Iterator[Entry]:
    """All arrays of a model that are read."""
    blocks = efficientat.layout(width)
    stem, last, hidden = blocks[0].inputs, 6 * blocks[-1].outputs, efficientat.head_width(width)
    yield from _conv_norm("in_c.0", "in_c.1", ("encoder", "stem"), (stem, 1, 3, 3))
    for index, spec in enumerate(blocks):
        name, path, size = f"layers.{index}", ("encoder", f"block{index + 1}"), dymn.context_size(spec, width)
        for part, ours, shape in _parts(spec):
            matrix = (1, 1, dymn.KERNELS, int(np.prod(shape)))
            yield f"{name}.{part}_conv.weight", ("params", *path, ours, "kernels"), matrix
            yield from linear(f"{name}.{part}_conv.residuals.0", (*path, ours, "attention"), (dymn.KERNELS, size))
            yield from norm(f"{name}.{part}_norm", (*path, ours, "norm"), shape[:1])
        coefficients = (2 * dymn.PIECES * spec.expanded, size)
        yield from linear(f"{name}.depth_act.coef_net.0", (*path, "relu", "coefficients"), coefficients)
        context, shape = f"{name}.context_gen", (size, spec.inputs, 1, 1)
        yield from _conv_norm(f"{context}.joint_conv", f"{context}.joint_norm", (*path, "context", "joint"), shape)
        for part, ours in (("f", "bins"), ("t", "frames")):
            yield from linear(f"{context}.conv_{part}", (*path, "context", ours), (spec.expanded, size, 1, 1))
    yield from _conv_norm("out_c.0", "out_c.1", ("encoder", "last"), (last, blocks[-1].outputs, 1, 1))
    yield from linear("classifier.2", ("head", "hidden"), (hidden, last))
    yield from linear("classifier.5", ("head", "classifier"), (classes, hidden))


def _conv_norm(conv: str, normalization: str, path: tuple[str, ...], shape: tuple[int, ...]) -> Iterator[Entry]:
    yield f"{conv}.weight", ("params", *path, "conv", "kernel"), shape
    yield from norm(normalization, (*path, "norm"), shape[:1])


def _convert(array: np.ndarray, kernel: tuple[int, ...] | None) -> np.ndarray:
    """An array in our layout; `kernel` is the shape of one of the kernels of a dynamic convolution."""
    if kernel is None:
        return convert(array)
    return np.stack([convert(row.reshape(kernel)) for row in array[0, 0]])
