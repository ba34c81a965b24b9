"""Hugging Face directories: found, read and written; arrays between torch's layout and ours.

A directory holds config.json, model.safetensors (or pytorch_model.bin) and preprocessor_config.json.
"""

from collections.abc import Callable, Iterable, Mapping
import json
import os
import pathlib
import re
from typing import Any

from flax import traverse_util
import numpy as np

from esc_jax.pretrained.checkpoint import PretrainedError, is_state_dict
from esc_jax.pretrained.torch_file import load_torch

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")

Path = tuple[str, ...]

# From torch's layout to ours, by rank: (O, I) → (I, O), (O, I, K) → (K, I, O), (O, I, H, W) → (H, W, I, O).
_TO_FLAX = {2: (1, 0), 3: (2, 1, 0), 4: (2, 3, 1, 0)}
_TO_TORCH = {2: (1, 0), 3: (2, 1, 0), 4: (3, 2, 0, 1)}


def find(path_or_hub_id: str | os.PathLike) -> pathlib.Path:
    """The file or directory of a checkpoint: a path that exists, or a hub id ("owner/name"), fetched or from the cache.

    Raises:
        PretrainedError: there is no such path, or the hub cannot be reached.
    """
    path = pathlib.Path(path_or_hub_id)
    if path.exists():
        return path
    name = str(path_or_hub_id)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name):
        raise PretrainedError(f"{name} does not exist: give the path of a checkpoint, or a hub id such as owner/name.")
    try:
        import huggingface_hub

        return pathlib.Path(huggingface_hub.snapshot_download(name, allow_patterns=[CONFIG, PREPROCESSOR, *WEIGHTS]))
    except Exception as error:  # No network, no such repository, a licence to accept, no huggingface_hub: one remedy.
        raise PretrainedError(
            f"{name} is no path here and could not be fetched from the Hugging Face hub ({type(error).__name__}): "
            f"download the directory ({CONFIG}, {WEIGHTS[0]}, {PREPROCESSOR}) and give its path."
        ) from error


def read_json(directory: pathlib.Path, name: str) -> dict[str, Any]:
    """One of the directory's json files; {} for a preprocessor that is not there."""
    path = directory / name
    if name == PREPROCESSOR and not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PretrainedError(
            f"{directory} holds no readable {name}: give a directory as Hugging Face publishes it, with {name} and "
            f"{WEIGHTS[0]}."
        ) from error
    except ValueError as error:
        raise PretrainedError(f"{path} is not json (a truncated download?): download it again.") from error
    if not isinstance(content, dict):
        raise PretrainedError(f"{path} holds no settings by name: download it again.")
    return content


def load(path: pathlib.Path) -> Any:
    """What a weights file holds, or the one in a directory."""
    if path.is_dir():
        files = [path / name for name in WEIGHTS if (path / name).exists()]
        if not files:
            raise PretrainedError(f"{path} holds neither {WEIGHTS[0]} nor {WEIGHTS[1]}: download one of them into it.")
        path = files[0]
    return _read_safetensors(path) if path.suffix == ".safetensors" else load_torch(path)


def read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Arrays by published name, from a weights file or from the directory that holds one; floats as float32."""
    arrays = load(path)
    if isinstance(arrays, dict) and isinstance(arrays.get("state_dict"), dict):
        arrays = arrays["state_dict"]
    if not is_state_dict(arrays):
        raise PretrainedError(f"{path} is no state dict: save one with `torch.save(model.state_dict(), path)`.")
    return {name: a.astype(np.float32) if a.dtype.kind == "f" else a for name, a in arrays.items()}


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise PretrainedError(f"{path} cannot be read ({error.strerror}): download it again.") from error
    if start.startswith(b"version https://git-lfs"):
        raise PretrainedError(f"{path} is a git-LFS pointer, not the weights: run `git lfs pull` where it was cloned.")
    # ml_dtypes teaches numpy bfloat16, which checkpoints of half size are stored in.
    import ml_dtypes
    import safetensors
    import safetensors.numpy

    try:
        arrays = safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise PretrainedError(
            f"{path} is truncated or no safetensors file: download it again and compare its size with the original's."
        ) from error
    return {name: a.astype(np.float32) if a.dtype == ml_dtypes.bfloat16 else a for name, a in arrays.items()}


def to_flax(
    shapes: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    name_of: Callable[[Path], str],
    what: str,
) -> dict[str, Any]:
    """A tree of our variables from published arrays: every array used, every variable filled, every shape equal.

    Args:
        shapes: nested dict whose leaves have `.shape`, e.g. `jax.eval_shape` of a model's init.
        arrays: by published name, in torch's layout.
        name_of: the published name of a leaf, from its path.
        what: names the checkpoint in the error.
    Raises:
        PretrainedError: with the names of both sides that found no partner, or whose shapes differ.
    """
    leaves = traverse_util.flatten_dict(dict(shapes))
    names = {path: name_of(path) for path in leaves}
    missing = sorted(set(names.values()) - set(arrays))
    unused = sorted(set(arrays) - set(names.values()))
    tree, different = {}, []
    for path, name in names.items():
        if name not in arrays:
            continue
        array = np.asarray(arrays[name])
        array = np.ascontiguousarray(array.transpose(_TO_FLAX.get(array.ndim, range(array.ndim))))
        if array.shape != leaves[path].shape:
            different.append(f"{name} {array.shape} for {leaves[path].shape}")
        tree[path] = array
    if missing or unused or different:
        raise PretrainedError(
            f"{what} does not fit the architecture it names, use the reader of its own: missing {_some(missing)}; not "
            f"used {_some(unused)}; of another shape {_some(different)}."
        )
    return traverse_util.unflatten_dict(tree)


def to_torch(variables: Mapping[str, Any], name_of: Callable[[Path], str]) -> dict[str, np.ndarray]:
    """The inverse of `to_flax`: arrays by published name, float32, in torch's layout."""
    arrays = {}
    for path, array in traverse_util.flatten_dict(dict(variables)).items():
        array = np.asarray(array, np.float32)
        arrays[name_of(path)] = np.ascontiguousarray(array.transpose(_TO_TORCH.get(array.ndim, range(array.ndim))))
    return arrays


def write(
    directory: str | os.PathLike, config: dict[str, Any], arrays: dict[str, np.ndarray], preprocessor: dict[str, Any]
) -> None:
    """Writes config.json, model.safetensors and preprocessor_config.json; the directory is made where needed."""
    import safetensors.numpy

    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file(arrays, directory / WEIGHTS[0], metadata={"format": "pt"})
    for name, content in ((CONFIG, config), (PREPROCESSOR, preprocessor)):
        (directory / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_labels(config: Mapping[str, Any], classes: int, what: str) -> tuple[str, ...] | None:
    """The class names of `id2label` in order; None where they are the placeholders LABEL_0, LABEL_1, …"""
    published = config.get("id2label")
    if not published or not isinstance(published, dict):
        return None
    by_index = {int(index): str(label) for index, label in published.items() if index.isdecimal()}
    if sorted(by_index) != list(range(classes)):
        raise PretrainedError(
            f"{what} names {len(by_index)} classes in {CONFIG} and has weights for {classes}: take both files from one "
            "checkpoint."
        )
    labels = tuple(by_index[i] for i in range(classes))
    return None if labels == tuple(f"LABEL_{i}" for i in range(classes)) else labels


def label_maps(labels: Iterable[str] | None, classes: int) -> dict[str, Any]:
    """`id2label` and `label2id` of a config.json, with the usual placeholders where the classes have no names."""
    labels = [f"LABEL_{i}" for i in range(classes)] if labels is None else list(labels)
    if len(labels) != classes:
        raise PretrainedError(f"{len(labels)} labels were given for a head of {classes} classes: give one for each.")
    return {"id2label": {str(i): n for i, n in enumerate(labels)}, "label2id": {n: i for i, n in enumerate(labels)}}


def _some(names: list[str], limit: int = 8) -> str:
    if not names:
        return "none"
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
