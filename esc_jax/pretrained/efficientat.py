"""Reading of EfficientAT's `mn` checkpoints (github.com/fschmid56/EfficientAT, MIT).

The file contains a state dict. The width is read from the shapes of the arrays. Hop and number of mel bands do not
change any array; they are read from the published file names (`mn10_as_hop_15_…`, `mn10_as_mels_40_…`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import csv
import os
import pathlib
import re

from flax import traverse_util
import numpy as np

from esc_jax.errors import name_some
from esc_jax.models import efficientat
from esc_jax.pretrained.published import PretrainedError, PublishedCheckpoint, is_state_dict
from esc_jax.pretrained.torch_file import load_torch

AUDIOSET_CLASSES = 527
LABELS_FILE = "class_labels_indices.csv"  # AudioSet's table of classes
_NAMED = 10  # arrays that a message names
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
    state = state_dict(path)
    width = match_width(path, state, efficientat.PUBLISHED_WIDTHS, _entries, "mn")
    classes = state["classifier.5.bias"].shape[0]
    flat = {variable: convert(state[name]) for name, variable, _ in _entries(width, classes)}
    return PublishedCheckpoint(
        architecture="efficientat",
        options={"width_mult": width},
        variables=traverse_util.unflatten_dict(flat),
        head={"name": "mlp", "classes": classes, "width": efficientat.head_width(width), "dropout": 0.2},
        frontend={"name": "efficientat_mel", "sample_rate": 32_000, **frontend_options(path.name)},
        labels=labels(path, classes),
        task="multi_label" if classes == AUDIOSET_CLASSES else "single_label",
    )


def state_dict(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a published file, without torch's counters. Raises PretrainedError for other files and strides."""
    state = load_torch(path)
    if not is_state_dict(state):
        raise PretrainedError(
            f"{path} is not a plain state dict: give one of EfficientAT's published mn…_as or dymn…_as files."
        )
    if strides := re.search(r"_s(\d{4})(?!\d)", path.name):
        raise PretrainedError(
            f"{path} was trained with the strides {', '.join(strides[1])}, by its name; only models with the strides 2,"
            " 2, 2, 2 are supported, and no array would show the difference."
        )
    return {name: array for name, array in state.items() if not name.endswith(_COUNTERS)}


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
                yield from linear(f"{name}.fc1", ("encoder", *path, "reduce"), shape)
                yield from linear(f"{name}.fc2", ("encoder", *path, "expand"), shape[::-1])
            else:
                yield from _conv_norm(name, path, shapes[part])
    yield from _conv_norm(f"features.{len(blocks) + 1}", ("last",), (last, blocks[-1].outputs, 1, 1))
    yield from linear("classifier.2", ("head", "hidden"), (hidden, last))
    yield from linear("classifier.5", ("head", "classifier"), (classes, hidden))


def _conv_norm(name: str, path: tuple[str, ...], shape: tuple[int, ...]) -> Iterator[Entry]:
    module = ("encoder", *path)
    yield f"{name}.0.weight", ("params", *module, "conv", "kernel"), shape
    yield from norm(f"{name}.1", (*module, "norm"), shape[:1])


def norm(name: str, path: tuple[str, ...], channels: tuple[int, ...]) -> Iterator[Entry]:
    """The arrays of a batch normalization."""
    yield f"{name}.weight", ("params", *path, "scale"), channels
    yield f"{name}.bias", ("params", *path, "bias"), channels
    yield f"{name}.running_mean", ("batch_stats", *path, "mean"), channels
    yield f"{name}.running_var", ("batch_stats", *path, "var"), channels


def linear(name: str, path: tuple[str, ...], shape: tuple[int, ...]) -> Iterator[Entry]:
    """The arrays of a linear layer, or of a 1×1 convolution with bias."""
    yield f"{name}.weight", ("params", *path, "kernel"), shape
    yield f"{name}.bias", ("params", *path, "bias"), shape[:1]


def convert(array: np.ndarray) -> np.ndarray:
    """Converts from torch's layout to ours by reversing the axes: (O, I, bins, frames) → (frames, bins, I, O).

    The kernel of a 1×1 convolution becomes a matrix.
    """
    if array.ndim == 4 and array.shape[2:] == (1, 1):
        array = array[:, :, 0, 0]
    return np.array(array.T, np.float32, order="C")


def match_width(
    path: pathlib.Path,
    state: Mapping[str, np.ndarray],
    widths: Sequence[float],
    entries: Callable[[float, int], Iterator[Entry]],
    kind: str,
) -> float:
    """The published width at which all names and shapes are those of `state`.

    Args:
        path, kind: for messages; "mn" or "dymn".
        state: arrays by their published names.
        widths: published widths.
        entries: from width and number of classes to the arrays of a model.

    Raises:
        PretrainedError: there is none.
    """
    classes = state["classifier.5.bias"].size if "classifier.5.bias" in state else 1
    mismatches = []
    for width in widths:
        expected = {name: shape for name, _, shape in entries(width, classes)}
        names = [sorted(state.keys() - expected.keys()), sorted(expected.keys() - state.keys())]
        shapes = [name for name in expected if name in state and state[name].shape != expected[name]]
        if not any(names) and not shapes:
            return width
        mismatches.append((len(names[0]) + len(names[1]), len(shapes), width, names, shapes, expected))
    count, _, width, (unknown, missing), shapes, expected = min(mismatches, key=lambda mismatch: mismatch[:3])
    if count:
        raise PretrainedError(
            f"{path} is not an EfficientAT {kind} checkpoint with its mlp head: "
            f"unknown arrays: {name_some(unknown, _NAMED)}, missing arrays: {name_some(missing, _NAMED)}."
        )
    example = shapes[0]
    raise PretrainedError(
        f"{path} has a width that is none of the published ones ({', '.join(map(str, widths))}): "
        f"at {width}, the nearest, {len(shapes)} arrays differ, {example} being {state[example].shape} and not "
        f"{expected[example]}."
    )


def frontend_options(name: str) -> dict[str, int]:
    """Settings of the frontend in a published file name: hop in ms (at 32 kHz) and number of mel bands."""
    options = {}
    if hop := re.search(r"_hop_(\d+)", name):
        options["hop"] = 32 * int(hop[1])
    if bins := re.search(r"_mels_(\d+)", name):
        options["bins"] = int(bins[1])
    return options


def labels(path: pathlib.Path, classes: int) -> tuple[str, ...] | None:
    """Class names from the table next to the checkpoint or that of the package; None if both have another length."""
    for table in (path.with_name(LABELS_FILE), pathlib.Path(__file__).with_name("audioset_labels.csv")):
        if table.is_file():
            with table.open(newline="", encoding="utf-8") as file:
                names = tuple(row["display_name"] for row in csv.DictReader(file))
            if len(names) == classes:
                return names
    return None
