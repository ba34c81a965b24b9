"""Published weights into a model: strictly, or not at all."""

from collections.abc import Mapping
import copy
from typing import Any

from flax import traverse_util
import jax.numpy as jnp
import numpy as np

from esc_jax.pretrained.checkpoint import Pretrained, PretrainedError
from esc_jax.pretrained.registry import READERS


def read(architecture: str, path: str) -> Pretrained:
    """The checkpoint at `path` (or of a hub id), which must be of `architecture`. Raises PretrainedError."""
    if architecture not in READERS:
        raise PretrainedError(
            f"model.pretrained: no published checkpoints are known for model.name={architecture};"
            f" they are for {', '.join(READERS)}"
        )
    return READERS[architecture](path)


def adopt(config, found: Pretrained):
    """A copy of a config in which the encoder and the frontend are those of the checkpoint.

    Raises:
        PretrainedError: the config's sample rate is not the one the encoder was trained at.
    """
    config = copy.deepcopy(config)
    frontend = dict(found.frontend)
    rate = frontend.pop("sample_rate", config.data.sample_rate)
    if rate != config.data.sample_rate:
        raise PretrainedError(
            f"config.data.sample_rate={config.data.sample_rate}, and the checkpoint was trained at {rate} Hz:"
            f" set config.data.sample_rate={rate}"
        )
    with config.unlocked():
        config.model.encoder.update(found.options)
        same = config.frontend.get("name") == frontend["name"]
        config.frontend = {**config.frontend.to_dict(), **frontend} if same else frontend
    return config


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {"/".join(path): leaf for path, leaf in traverse_util.flatten_dict(dict(tree)).items()}


def merge(variables: Mapping[str, Any], found: Pretrained) -> dict[str, Any]:
    """`variables` with the encoder of the checkpoint; its head too, where that has the same shapes.

    Args:
        variables: {"params": {"encoder", "head"}, "batch_stats"}, as the model initialises them.
        found: what a reader gave.

    Raises:
        PretrainedError: an array of the checkpoint has no place, a parameter of the encoder no array, or a shape
            differs; with all the names.
    """
    merged = {collection: dict(tree) for collection, tree in variables.items()}
    for collection in merged:
        ours = _flat(merged[collection].get("encoder", {}))
        theirs = _flat(found.variables.get(collection, {}).get("encoder", {}))
        surplus, missing = sorted(theirs.keys() - ours.keys()), sorted(ours.keys() - theirs.keys())
        shapes = [k for k in sorted(ours.keys() & theirs.keys()) if ours[k].shape != theirs[k].shape]
        if surplus or missing or shapes:
            parts = [("not in the model", surplus), ("not in the checkpoint", missing), ("of another shape", shapes)]
            said = "; ".join(f"{what}: {', '.join(names)}" for what, names in parts if names)
            raise PretrainedError(f"model.pretrained: the checkpoint does not fit the encoder ({collection}): {said}")
        if ours:
            filled = {tuple(k.split("/")): jnp.asarray(v) for k, v in theirs.items()}
            merged[collection]["encoder"] = traverse_util.unflatten_dict(filled)
    ours = _flat(merged["params"]["head"])
    theirs = _flat(found.variables["params"].get("head", {}))
    if {k: v.shape for k, v in ours.items()} == {k: np.shape(v) for k, v in theirs.items()}:
        merged["params"]["head"] = traverse_util.unflatten_dict(
            {tuple(k.split("/")): jnp.asarray(v) for k, v in theirs.items()}
        )
    return merged
