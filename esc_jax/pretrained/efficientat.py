"""Reading of EfficientAT's `mn` checkpoints (github.com/fschmid56/EfficientAT, MIT).

The file contains a state dict. The width is read from the shapes of the arrays. Hop and number of mel bands do not
change any array; they are read from the published file names (`mn10_as_hop_15_…`, `mn10_as_mels_40_…`).
"""

from collections.abc import Iterator, Mapping
import csv
import os
import pathlib
import re

from flax import traverse_util
import numpy as np

from esc_jax.models import efficientat
from esc_jax.pretrained.published import PretrainedError, PublishedCheckpoint, is_state_dict
from esc_jax.pretrained.torch_file import load_torch

_AUDIOSET_CLASSES = 527
LABELS_FILE = "class_labels_indices.csv"  # AudioSet's table of classes
_COUNTERS = "num_batches_tracked"  # torch's number of training steps, which is not used with a fixed momentum

# Published name, path in our variables, shape of the published array.
Entry = tuple[str, tuple[str, ...], tuple[int, ...]]


def read(path: str | os.PathLike) -> PublishedCheckpoint:
    """Reads a published `mn…` state dict.

    Args:
        path: the `.pt` file. Class names are read from `class_labels_indices.csv` in the same folder if it exists, else
            from the table of AudioSet's 527 classes in this package. A head of another size has no labels.

    Returns:
        Architecture "efficientat", head "mlp", frontend "efficientat_mel".

    Raises:
        PretrainedError: it is no such file, or arrays are missing, unknown or of another shape.
    """
    path = pathlib.Path(path)
    state = load_torch(path)
    if not is_state_dict(state):
        raise PretrainedError(f"{path} is not a plain state dict: give one of EfficientAT's published mn…_as files.")
    state = {name: array for name, array in state.items() if not name.endswith(_COUNTERS)}
    if strides := re.search(r"_s(\d{4})(?!\d)", path.name):
        raise PretrainedError(
            f"{path} was trained with the strides {', '.join(strides[1])}, by its name; only models with the strides 2,"
            " 2, 2, 2 are supported, and no array would show the difference."
        )
    width = _match(path, state)
    classes = state["classifier.5.bias"].shape[0]
    flat = {variable: _convert(state[name]) for name, variable, _ in _entries(width, classes)}
    return PublishedCheckpoint(
        architecture="efficientat",
        options={"width_mult": width},
        variables=traverse_util.unflatten_dict(flat),
        head={"name": "mlp", "classes": classes, "width": efficientat.head_width(width), "dropout": 0.2},
        frontend={"name": "efficientat_mel", "sample_rate": 32_000, **_frontend_options(path.name)},
        labels=_labels(path, classes),
        task="multi_label" if classes == _AUDIOSET_CLASSES else "single_label",
    )


def _entries(width: float, classes: int) -> Iterator[Entry]:
    """All arrays of a model, in the order of the published file."""
    blocks = efficientat.layout(width)
    stem, last, hidden = blocks[0].inputs, 6 * blocks[-1].outputs, efficientat.head_width(width)
    yield from _conv_norm("features.0", ("stem",), (stem, 1, 3, 3))
    for index, spec in enumerate(blocks, start=1):
        parts = ["expand"] * spec.expands + ["depthwise"] + ["se"] * bool(spec.squeeze) + ["project"]
        shapes = {
            "expand": (spec.expanded, spec.inputs, 1, 1),
            "depthwise": (spec.expanded, 1, spec.kernel, spec.kernel),
            "project": (spec.outputs, spec.expanded, 1, 1),
        }
        for position, part in enumerate(parts):
            name, path = f"features.{index}.block.{position}", (f"block{index}", part)
            if part == "se":
                name, shape = f"{name}.conc_se_layers.0", (spec.squeeze, spec.expanded)
                yield from _linear(f"{name}.fc1", ("encoder", *path, "reduce"), shape)
                yield from _linear(f"{name}.fc2", ("encoder", *path, "expand"), shape[::-1])
            else:
                yield from _conv_norm(name, path, shapes[part])
    yield from _conv_norm(f"features.{len(blocks) + 1}", ("last",), (last, blocks[-1].outputs, 1, 1))
    yield from _linear("classifier.2", ("head", "hidden"), (hidden, last))
    yield from _linear("classifier.5", ("head", "classifier"), (classes, hidden))


def _conv_norm(name: str, path: tuple[str, ...], shape: tuple[int, ...]) -> Iterator[Entry]:
    module, channels = ("encoder", *path), shape[:1]
    yield f"{name}.0.weight", ("params", *module, "conv", "kernel"), shape
    yield f"{name}.1.weight", ("params", *module, "norm", "scale"), channels
    yield f"{name}.1.bias", ("params", *module, "norm", "bias"), channels
    yield f"{name}.1.running_mean", ("batch_stats", *module, "norm", "mean"), channels
    yield f"{name}.1.running_var", ("batch_stats", *module, "norm", "var"), channels


def _linear(name: str, path: tuple[str, ...], shape: tuple[int, ...]) -> Iterator[Entry]:
    yield f"{name}.weight", ("params", *path, "kernel"), shape
    yield f"{name}.bias", ("params", *path, "bias"), shape[:1]


def _convert(array: np.ndarray) -> np.ndarray:
    """Converts from torch's layout to ours by reversing the axes: (O, I, bins, frames) → (frames, bins, I, O).

    The kernel of a 1×1 convolution becomes a matrix.
    """
    if array.ndim == 4 and array.shape[2:] == (1, 1):
        array = array[:, :, 0, 0]
    return np.array(array.T, np.float32, order="C")


def _match(path: pathlib.Path, state: Mapping[str, np.ndarray]) -> float:
    """The published width at which all names and shapes are those of `state`. Raises PretrainedError."""
    classes = state["classifier.5.bias"].size if "classifier.5.bias" in state else 1
    mismatches = []
    for width in efficientat.PUBLISHED_WIDTHS:
        expected = {name: shape for name, _, shape in _entries(width, classes)}
        names = [sorted(state.keys() - expected.keys()), sorted(expected.keys() - state.keys())]
        shapes = [name for name in expected if name in state and state[name].shape != expected[name]]
        if not any(names) and not shapes:
            return width
        mismatches.append((len(names[0]) + len(names[1]), len(shapes), width, names, shapes, expected))
    count, _, width, (unknown, missing), shapes, expected = min(mismatches, key=lambda mismatch: mismatch[:3])
    if count:
        raise PretrainedError(
            f"{path} is not an EfficientAT mn checkpoint with its mlp head: "
            f"{_list_names('unknown arrays', unknown)}, {_list_names('missing arrays', missing)}."
        )
    example = shapes[0]
    raise PretrainedError(
        f"{path} has a width that is none of the published ones ({', '.join(map(str, efficientat.PUBLISHED_WIDTHS))}): "
        f"at {width}, the nearest, {len(shapes)} arrays differ, {example} being {state[example].shape} and not "
        f"{expected[example]}."
    )


def _list_names(label: str, names: list[str], limit: int = 10) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"{label}: {', '.join(names[:limit]) or 'none'}{more}"


def _frontend_options(name: str) -> dict[str, int]:
    """Settings of the frontend in a published file name: hop in ms (at 32 kHz) and number of mel bands."""
    options = {}
    if hop := re.search(r"_hop_(\d+)", name):
        options["hop"] = 32 * int(hop[1])
    if bins := re.search(r"_mels_(\d+)", name):
        options["bins"] = int(bins[1])
    return options


def _labels(path: pathlib.Path, classes: int) -> tuple[str, ...] | None:
    """Class names from the table next to the checkpoint or that of the package; None if both have another length."""
    for table in (path.with_name(LABELS_FILE), pathlib.Path(__file__).with_name("audioset_labels.csv")):
        if table.is_file():
            with table.open(newline="", encoding="utf-8") as file:
                names = tuple(row["display_name"] for row in csv.DictReader(file))
            if len(names) == classes:
                return names
    return None
