"""Published weights into a model: strictly, or not at all."""

from collections.abc import Mapping, Sequence
import copy
from typing import Any

from absl import logging
from flax import traverse_util
import jax.numpy as jnp
import numpy as np

from esc_jax.pretrained import huggingface
from esc_jax.pretrained.checkpoint import Pretrained, PretrainedError
from esc_jax.pretrained.registry import DIRECTORIES, FILES, READERS

_OPTIONAL = {"layer_weights"}  # of HuBERT's weighted layer sum


def read(architecture: str, path: str) -> Pretrained:
    """The checkpoint at `path` (or of a hub id), which must be of `architecture`. Raises PretrainedError."""
    if architecture not in READERS:
        raise PretrainedError(
            f"model.pretrained: no published checkpoints are known for model.name={architecture};"
            f" they are for {', '.join(READERS)}"
        )
    return READERS[architecture](path)


def identify(path: str) -> Pretrained:
    """The checkpoint at `path` (or of a hub id), of whichever architecture it is. Raises PretrainedError."""
    place = huggingface.find(path)
    others = FILES if place.is_dir() else DIRECTORIES
    refusals = []
    for architecture in (name for name in READERS if name not in others):
        try:
            return READERS[architecture](path)
        except PretrainedError as error:
            refusals.append(f"as {architecture}, {str(error).rstrip('.')}")
    huggingface.load(place)  # what nobody can read is said here, and not once by every reader
    raise PretrainedError(f"{path} is no checkpoint that is known here: {'; '.join(refusals)}")


def sample_rate(found: Pretrained, asked: int | None = None) -> int:
    """Hz that the encoder was trained at, or else what is asked for. Raises PretrainedError where neither says."""
    rate = found.frontend.get("sample_rate", asked)
    if rate is None or (asked and asked != rate):
        said = f"was trained at {rate} Hz" if rate else "was trained at no sample rate: choose one"
        raise PretrainedError(f"the {found.architecture} checkpoint {said}")
    return rate


def with_checkpoint_options(config, found: Pretrained):
    """A copy of a config in which the encoder and the frontend are those of the checkpoint, but for `model.keep`.

    Raises:
        PretrainedError: the config's sample rate is not the one the encoder was trained at, or `model.keep` names
            something else than an option of the encoder or frontend.
    """
    config = copy.deepcopy(config)
    frontend = dict(found.frontend)
    rate = frontend.pop("sample_rate", config.data.sample_rate)
    if rate != config.data.sample_rate:
        raise PretrainedError(
            f"config.data.sample_rate={config.data.sample_rate}, and the checkpoint was trained at {rate} Hz:"
            f" set config.data.sample_rate={rate}"
        )
    same = config.frontend.get("name") == frontend["name"]
    brought = {"encoder": dict(found.options), "frontend": frontend}
    ours = {"encoder": config.model.encoder, "frontend": config.frontend if same else {}}
    for key in config.model.overrides:
        part, _, name = str(key).partition(".")
        if name not in ours.get(part, {}):
            known = [f"{part}.{name}" for part, options in ours.items() for name in options if name != "name"]
            raise PretrainedError(f"config.model.overrides: there is no {key} to keep; there are {', '.join(known)}")
        brought[part].pop(name, None)
    with config.unlocked():
        config.model.encoder.update(brought["encoder"])
        config.frontend = {**config.frontend.to_dict(), **brought["frontend"]} if same else brought["frontend"]
    return config


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {"/".join(path): leaf for path, leaf in traverse_util.flatten_dict(dict(tree)).items()}


def merge(variables: Mapping[str, Any], found: Pretrained, classes: Sequence[str] = ()) -> dict[str, Any]:
    """`variables` with the encoder of the checkpoint; its head too, where that tells the same classes apart.

    Args:
        variables: {"params": {"encoder", "head"}, "batch_stats"}, as the model initialises them.
        found: what a reader gave.
        classes: of the model, in the order of its logits. A published head with the same ones is put in this order;
            without published labels, or without `classes`, the same shapes are enough.

    Raises:
        PretrainedError: an array of the checkpoint has no place, a parameter of the encoder no array, or a shape
            differs; with all the names.
    """
    merged = {collection: dict(tree) for collection, tree in variables.items()}
    for collection in merged:
        ours = _flat(merged[collection].get("encoder", {}))
        theirs = _flat(found.variables.get(collection, {}).get("encoder", {}))
        # What the published model has only as an option, and the config switched on, starts as initialised.
        theirs |= {k: ours[k] for k in _OPTIONAL & (ours.keys() - theirs.keys())}
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
    if found.labels and classes:
        order = [found.labels.index(name) for name in classes if name in found.labels]
        if len(order) != len(classes) or len(order) != len(found.labels):
            return merged
        theirs = {k: np.asarray(v)[..., order] if k.startswith("classifier/") else v for k, v in theirs.items()}
    if {k: v.shape for k, v in ours.items()} == {k: np.shape(v) for k, v in theirs.items()}:
        filled = {tuple(k.split("/")): jnp.asarray(v) for k, v in theirs.items()}
        merged["params"]["head"] = traverse_util.unflatten_dict(filled)
        if classes and not found.labels:
            logging.warning("the checkpoint's head names no classes: they are taken to be in the order of the data's")
    return merged
