"""Initialization of models with published weights. Every array must fit."""

from collections.abc import Mapping, Sequence
import copy
from typing import Any

from absl import logging
from flax import traverse_util
import jax.numpy as jnp
import numpy as np

from esc_jax.pretrained import catalog, fetch, huggingface
from esc_jax.pretrained.catalog import Weights
from esc_jax.pretrained.published import PretrainedError, PublishedCheckpoint
from esc_jax.pretrained.registry import DIRECTORY_ONLY, FILE_ONLY, READERS

_OPTIONAL = {"layer_weights"}  # of HuBERT's weighted layer sum


def _find(path: str) -> Weights | None:
    """The entry of a name in the catalog. Raises PretrainedError for a classifier in the package."""
    weights = catalog.find(path)
    if weights and weights.included:
        raise PretrainedError(
            f"{path} is a trained classifier and not an encoder to start from: choose other weights, see esc-jax"
            " weights list"
        )
    return weights


def read(architecture: str, path: str) -> PublishedCheckpoint:
    """Reads a checkpoint of a known architecture.

    Args:
        architecture: `model.name` of a config.
        path: name in the catalog, file, folder or hub id.

    Raises:
        PretrainedError: the checkpoint cannot be read, or the architecture has no published checkpoints.
    """
    weights = _find(path)
    if architecture not in READERS:
        raise PretrainedError(
            f"model.pretrained: no published checkpoints are known for model.name={architecture};"
            f" they are for {', '.join(READERS)}"
        )
    if weights and weights.architecture != architecture:
        raise PretrainedError(f"model.pretrained={path} is for model.name={weights.architecture}, not {architecture}")
    return READERS[architecture](fetch.resolve(path))


def identify(path: str) -> PublishedCheckpoint:
    """Reads a checkpoint of any architecture.

    Args:
        path: name in the catalog, file, folder or hub id.

    Raises:
        PretrainedError: no reader can read it. The message contains the reason of each reader.
    """
    weights = _find(path)
    path = fetch.resolve(path)
    if weights:
        return READERS[weights.architecture](path)
    local_path = huggingface.resolve(path)
    excluded = FILE_ONLY if local_path.is_dir() else DIRECTORY_ONLY
    reasons = []
    for architecture in (name for name in READERS if name not in excluded):
        try:
            return READERS[architecture](path)
        except PretrainedError as error:
            reasons.append(f"as {architecture}, {str(error).rstrip('.')}")
    huggingface.load(local_path)  # raises the error of a damaged file once, instead of once per reader
    raise PretrainedError(f"{path} is not a known checkpoint: {'; '.join(reasons)}")


def sample_rate(checkpoint: PublishedCheckpoint, requested: int | None = None) -> int:
    """The sample rate in Hz at which a checkpoint was trained, or else the requested one.

    Raises:
        PretrainedError: both are known and differ, or neither is.
    """
    rate = checkpoint.frontend.get("sample_rate", requested)
    if rate is None or (requested and requested != rate):
        problem = f"was trained at {rate} Hz" if rate else "has no sample rate: choose one"
        raise PretrainedError(f"the {checkpoint.architecture} checkpoint {problem}")
    return rate


def with_checkpoint_options(config: Any, checkpoint: PublishedCheckpoint) -> Any:
    """A copy of a config with the encoder and frontend of a checkpoint, except the options in `model.overrides`.

    Raises:
        PretrainedError: the config's sample rate differs from that of the checkpoint, or `model.overrides` names
            something else than an option of the encoder or frontend.
    """
    config = copy.deepcopy(config)
    frontend = dict(checkpoint.frontend)
    rate = frontend.pop("sample_rate", config.data.sample_rate)
    if rate != config.data.sample_rate:
        raise PretrainedError(
            f"config.data.sample_rate={config.data.sample_rate}, and the checkpoint was trained at {rate} Hz:"
            f" set config.data.sample_rate={rate}"
        )
    same_frontend = config.frontend.get("name") == frontend["name"]
    published = {"encoder": dict(checkpoint.options), "frontend": frontend}
    configured = {"encoder": config.model.encoder, "frontend": config.frontend if same_frontend else {}}
    for key in config.model.overrides:
        part, _, name = str(key).partition(".")
        if name not in configured.get(part, {}):
            known = [f"{part}.{name}" for part, options in configured.items() for name in options if name != "name"]
            raise PretrainedError(
                f"config.model.overrides: there is no option {key}; the options are {', '.join(known)}"
            )
        published[part].pop(name, None)
    with config.unlocked():
        config.model.encoder.update(published["encoder"])
        config.frontend = (
            {**config.frontend.to_dict(), **published["frontend"]} if same_frontend else published["frontend"]
        )
    return config


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {"/".join(path): leaf for path, leaf in traverse_util.flatten_dict(dict(tree)).items()}


def _unflat(flat: Mapping[str, Any]) -> dict[str, Any]:
    return traverse_util.unflatten_dict({tuple(key.split("/")): jnp.asarray(leaf) for key, leaf in flat.items()})


def merge(variables: Mapping[str, Any], checkpoint: PublishedCheckpoint, classes: Sequence[str] = ()) -> dict[str, Any]:
    """Replaces the encoder of initialized variables by that of a checkpoint, and the head if its classes are the same.

    Args:
        variables: {"params": {"encoder", "head"}, "batch_stats"}, as initialized.
        checkpoint: to be merged.
        classes: of the model, in the order of its logits. A published head with the same classes is permuted to this
            order. Without `classes`, or if the checkpoint has no labels, the head is used if its shapes are equal.

    Raises:
        PretrainedError: the encoder has other arrays than the checkpoint, or other shapes. The message lists them.
    """
    merged = {collection: dict(tree) for collection, tree in variables.items()}
    for collection in merged:
        initial = _flat(merged[collection].get("encoder", {}))
        published = _flat(checkpoint.variables.get(collection, {}).get("encoder", {}))
        # Parameters of an option that the config turns on keep their initial values.
        published |= {k: initial[k] for k in _OPTIONAL & (initial.keys() - published.keys())}
        _check_arrays(initial, published, collection)
        if initial:
            merged[collection]["encoder"] = _unflat(published)
    head = _published_head(checkpoint, classes)
    shapes = {name: np.shape(array) for name, array in _flat(merged["params"]["head"]).items()}
    if head is not None and {name: np.shape(array) for name, array in head.items()} == shapes:
        merged["params"]["head"] = _unflat(head)
        if classes and not checkpoint.labels:
            logging.warning(
                "the checkpoint has no class names: its logits are assumed to be in the order of the classes"
            )
    return merged


def _check_arrays(initial: Mapping[str, Any], published: Mapping[str, Any], collection: str) -> None:
    """Raises PretrainedError if two flat trees differ in their names or shapes."""
    problems = {
        "not in the model": sorted(published.keys() - initial.keys()),
        "not in the checkpoint": sorted(initial.keys() - published.keys()),
        "of another shape": sorted(
            k for k in initial.keys() & published.keys() if initial[k].shape != published[k].shape
        ),
    }
    if any(problems.values()):
        details = "; ".join(f"{problem}: {', '.join(names)}" for problem, names in problems.items() if names)
        raise PretrainedError(f"model.pretrained: the checkpoint does not fit the encoder ({collection}): {details}")


def _published_head(checkpoint: PublishedCheckpoint, classes: Sequence[str]) -> dict[str, Any] | None:
    """The head of a checkpoint with its classes in this order; None if it has other classes."""
    head = _flat(checkpoint.variables["params"].get("head", {}))
    if not (checkpoint.labels and classes):
        return head
    if sorted(checkpoint.labels) != sorted(classes):
        return None
    order = [checkpoint.labels.index(name) for name in classes]
    return {k: np.asarray(v)[..., order] if k.startswith("classifier/") else v for k, v in head.items()}
