"""Reading and writing of Hugging Face directories, and conversion of arrays from and to torch's layout.

A directory contains config.json, model.safetensors (or its shards with model.safetensors.index.json, or
pytorch_model.bin) and preprocessor_config.json.
"""

from collections.abc import Callable, Iterable, Mapping
import json
import os
import pathlib
import re
from typing import Any

from flax import traverse_util
import numpy as np

from esc_jax import files
from esc_jax.errors import first_line, name_some, shorten
from esc_jax.pretrained.published import PretrainedError, is_state_dict
from esc_jax.pretrained.torch_file import load_torch

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
INDEX = "model.safetensors.index.json"  # of the shards of a large model
_SHARDS = "model-*-of-*.safetensors"
MAX_JSON_BYTES = 16 << 20
_NAMED = 8  # arrays that a message names

Path = tuple[str, ...]

# Axes of torch's arrays in the order of Flax, by rank: (O, I) → (I, O), (O, I, K) → (K, I, O),
# (O, I, H, W) → (H, W, I, O).
_TO_FLAX = {2: (1, 0), 3: (2, 1, 0), 4: (2, 3, 1, 0)}
_TO_TORCH = {2: (1, 0), 3: (2, 1, 0), 4: (3, 2, 0, 1)}


def resolve(path_or_hub_id: str | os.PathLike) -> pathlib.Path:
    """The local path of a checkpoint. A hub id is downloaded, or found in the cache of huggingface_hub.

    Args:
        path_or_hub_id: a path, or a hub id ("owner/name").

    Raises:
        PretrainedError: there is no such path, or the download failed.
    """
    path = files.expand(path_or_hub_id)
    if path.exists():
        return path
    name = str(path_or_hub_id)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name):
        raise PretrainedError(f"{name} does not exist: give the path of a checkpoint, or a hub id such as owner/name.")
    try:
        import huggingface_hub

        patterns = [CONFIG, PREPROCESSOR, *WEIGHTS, INDEX, _SHARDS]
        return pathlib.Path(huggingface_hub.snapshot_download(name, allow_patterns=patterns))
    except Exception as error:  # no network, no such repository, a licence to accept, no huggingface_hub
        raise PretrainedError(
            f"{name} is not a local path and could not be downloaded from the Hugging Face hub "
            f"({type(error).__name__}): download the directory ({CONFIG}, {WEIGHTS[0]}, {PREPROCESSOR}) and give its "
            "path."
        ) from error


def read_json(directory: pathlib.Path, name: str) -> dict[str, Any]:
    """Reads a JSON file of a directory.

    Args:
        directory: of the checkpoint.
        name: of the file. A missing preprocessor_config.json is read as {}.

    Raises:
        PretrainedError: the file is missing or is not a JSON object.
    """
    path = directory / name
    if name == PREPROCESSOR and not path.exists():
        return {}
    try:
        content = files.read_json(path, MAX_JSON_BYTES)
    except OSError as error:
        raise PretrainedError(
            f"{directory} contains no readable {name}: give a directory as Hugging Face publishes it, with {name} and "
            f"{WEIGHTS[0]}."
        ) from error
    except ValueError as error:
        raise PretrainedError(
            f"{path} is not valid JSON ({first_line(error)}; a truncated download?): download it again."
        ) from error
    if not isinstance(content, dict):
        raise PretrainedError(f"{path} is not a JSON object of a published checkpoint: download it again.")
    return content


def load(path: pathlib.Path) -> Any:
    """Reads a weights file, or the one in a directory.

    Raises:
        PretrainedError: there is none, or it cannot be read.
    """
    if path.is_dir():
        present = [path / name for name in WEIGHTS if (path / name).exists()]
        if not present and (path / INDEX).exists():
            return _read_shards(path)
        if not present:
            raise PretrainedError(
                f"{path} contains neither {WEIGHTS[0]} nor {WEIGHTS[1]}: download one of them into it."
            )
        path = present[0]
    return _read_safetensors(path) if path.suffix == ".safetensors" else load_torch(path)


def read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads the arrays of a weights file, or of the one in a directory.

    Returns:
        Arrays by published name. Floats are converted to float32.

    Raises:
        PretrainedError: the file cannot be read or is no state dict.
    """
    arrays = load(path)
    if isinstance(arrays, dict) and isinstance(arrays.get("state_dict"), dict):
        arrays = arrays["state_dict"]
    if not is_state_dict(arrays):
        raise PretrainedError(f"{path} is not a state dict: save one with `torch.save(model.state_dict(), path)`.")
    return {name: a.astype(np.float32) if a.dtype.kind == "f" else a for name, a in arrays.items()}


def _read_shards(directory: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of all shards that the index of a directory names."""
    places = read_json(directory, INDEX).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise PretrainedError(f"{directory / INDEX} has no weight_map: download it again.")
    arrays: dict[str, np.ndarray] = {}
    for name in sorted(set(map(str, places.values()))):
        if pathlib.PurePath(name).name != name:
            raise PretrainedError(f"{directory / INDEX} names {shorten(name)}, which is outside of its folder.")
        if not (directory / name).is_file():
            raise PretrainedError(f"{directory} has no {shorten(name)}, a shard that its index names: download it.")
        arrays |= _read_safetensors(directory / name)
    if missing := sorted(set(places) - set(arrays)):
        raise PretrainedError(f"{directory}: the shards lack {name_some(missing, _NAMED)}: download them again.")
    return arrays


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise PretrainedError(f"{path} cannot be read ({error.strerror}): download it again.") from error
    if start.startswith(b"version https://git-lfs"):
        raise PretrainedError(f"{path} is a git-LFS pointer, not the weights: run `git lfs pull` where it was cloned.")
    # ml_dtypes adds bfloat16 to numpy.
    import ml_dtypes
    import safetensors
    import safetensors.numpy

    try:
        arrays = safetensors.numpy.load_file(path)
    except (AttributeError, KeyError, TypeError) as error:  # numpy has no such type
        raise PretrainedError(
            f"{path} has arrays of a type that numpy does not have, such as 8-bit floats: use float32 or float16."
        ) from error
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise PretrainedError(
            f"{path} is truncated or not a safetensors file: download it again and compare its size with that of "
            "the source."
        ) from error
    return {name: a.astype(np.float32) if a.dtype == ml_dtypes.bfloat16 else a for name, a in arrays.items()}


def to_flax(
    shapes: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    name_of: Callable[[Path], str],
    source: str,
) -> dict[str, Any]:
    """Converts published arrays to a tree of variables. All names and shapes must match.

    Args:
        shapes: nested dict whose leaves have `.shape`, e.g. `jax.eval_shape` of a model's init.
        arrays: by published name, in torch's layout.
        name_of: path of a variable → published name.
        source: name of the checkpoint, for the message.

    Raises:
        PretrainedError: arrays are missing, unused or of another shape. The message lists them.
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
            f"{source} does not match the architecture that it names: download it again, or set model.name to its "
            f"architecture; missing {name_some(missing, _NAMED)}; not used {name_some(unused, _NAMED)}; of another "
            f"shape {name_some(different, _NAMED)}."
        )
    return traverse_util.unflatten_dict(tree)


def to_torch(variables: Mapping[str, Any], name_of: Callable[[Path], str]) -> dict[str, np.ndarray]:
    """Inverse of `to_flax`: float32 arrays by published name, in torch's layout."""
    arrays = {}
    for path, array in traverse_util.flatten_dict(dict(variables)).items():
        array = np.asarray(array, np.float32)
        arrays[name_of(path)] = np.ascontiguousarray(array.transpose(_TO_TORCH.get(array.ndim, range(array.ndim))))
    return arrays


def write(
    directory: str | os.PathLike, config: dict[str, Any], arrays: dict[str, np.ndarray], preprocessor: dict[str, Any]
) -> None:
    """Writes config.json, model.safetensors and preprocessor_config.json. Creates the directory if necessary."""
    import safetensors.numpy

    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file(arrays, directory / WEIGHTS[0], metadata={"format": "pt"})
    for name, content in ((CONFIG, config), (PREPROCESSOR, preprocessor)):
        (directory / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_labels(config: Mapping[str, Any], classes: int, source: str) -> tuple[str, ...] | None:
    """The class names in a config.json.

    Args:
        config: content of the file.
        classes: number of logits.
        source: name of the checkpoint, for the message.

    Returns:
        Names in the order of the logits; None if there are none, or only the placeholders LABEL_0, LABEL_1, …

    Raises:
        PretrainedError: there are more or fewer names than logits.
    """
    published = config.get("id2label")
    if not published or not isinstance(published, dict):
        return None
    by_index = {int(index): str(label) for index, label in published.items() if index.isdecimal()}
    if sorted(by_index) != list(range(classes)):
        raise PretrainedError(
            f"{source} names {len(by_index)} classes in {CONFIG} and has weights for {classes}: take both files from "
            "one checkpoint."
        )
    labels = tuple(by_index[i] for i in range(classes))
    return None if labels == tuple(f"LABEL_{i}" for i in range(classes)) else labels


def label_maps(labels: Iterable[str] | None, classes: int) -> dict[str, Any]:
    """`id2label` and `label2id` of a config.json, with the usual placeholders if `labels` is None."""
    labels = [f"LABEL_{i}" for i in range(classes)] if labels is None else list(labels)
    if len(labels) != classes:
        raise PretrainedError(f"{len(labels)} labels were given for a head of {classes} classes: give one for each.")
    return {"id2label": {str(i): n for i, n in enumerate(labels)}, "label2id": {n: i for i, n in enumerate(labels)}}
