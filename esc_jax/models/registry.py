"""Architectures and heads by name, and the model of a config."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from flax import linen as nn
import jax.numpy as jnp

from esc_jax.models import heads
from esc_jax.models.beats import Beats
from esc_jax.models.efficientat import EfficientAT
from esc_jax.models.efficientnet import EfficientNet
from esc_jax.models.encoder import Classifier
from esc_jax.models.hubert import Hubert
from esc_jax.models.limits import ModelError, check
from esc_jax.models.patch_transformer import PatchTransformer
from esc_jax.models.resnet import ResNet

ENCODERS = {
    "beats": Beats,
    "efficientat": EfficientAT,
    "efficientnet": EfficientNet,
    "hubert": Hubert,
    "patch_transformer": PatchTransformer,
    "resnet": ResNet,
}
MASKING = ("beats", "hubert")  # those that leave padding out where they are told of it; to the others it is silence
HEADS = {"linear": heads.Linear, "projected": heads.Projected, "mlp": heads.Mlp}

# Fields that come from the run and not from the description of an architecture.
_RUN_FIELDS = ("name", "parent", "dtype", "axis_name")


def options(module: type) -> dict[str, Any]:
    """The fields of an encoder or head that a config sets, with their defaults."""
    fields = dataclasses.fields(module)
    return {f.name: f.default for f in fields if f.name not in (*_RUN_FIELDS, "classes") and f.init}


def defaults(encoder: str, head: str = "linear") -> dict[str, Any]:
    """What a config's `model` starts from."""
    return {
        "name": encoder,
        "pretrained": "",  # a published checkpoint: its file, folder or hub id
        "overrides": (),  # what this config says and not that checkpoint: "encoder.hidden_dropout", "frontend.normalize", …
        "eval_mode": "",  # regular expression of modules that run as in evaluation, though their parameters train
        "encoder": options(ENCODERS[encoder]),
        "head": {"name": head} | options(HEADS[head]),
        "dtype": "float32",
    }


def build(config: Mapping[str, Any], classes: int, axis_name: str | None = None) -> Classifier:
    """The classifier of a config's `model`; it has no variables yet, and nothing is computed.

    Args:
        config: name, encoder, head, dtype.
        classes: number of outputs.
        axis_name: mapped axis over which batch statistics are taken in training.

    Raises:
        ModelError: no such architecture or head, an option that it does not have, or a value that makes no model.
    """
    if config["name"] not in ENCODERS:
        raise ModelError(f"model.name={config['name']}: the architectures are {', '.join(ENCODERS)}")
    head = dict(config["head"])
    if head["name"] not in HEADS:
        raise ModelError(f"model.head.name={head['name']}: the heads are {', '.join(HEADS)}")
    encoder_class, head_class = ENCODERS[config["name"]], HEADS[head["name"]]
    run = {"dtype": jnp.dtype(config["dtype"])}
    if "axis_name" in {f.name for f in dataclasses.fields(encoder_class)}:
        run["axis_name"] = axis_name
    encoder = _module("model", config["name"], "encoder", encoder_class, config["encoder"], run)
    run = {"dtype": run["dtype"], "classes": classes}
    return Classifier(encoder, _module("model.head", head.pop("name"), "head", head_class, head, run))


def _module(key: str, name: str, part: str, kind: type, given: Mapping[str, Any], run: Mapping[str, Any]) -> nn.Module:
    """The encoder or head that `key`.name=`name` is, with the options of model.`part`."""
    if unknown := [option for option in given if option not in options(kind)]:
        raise ModelError(
            f"{key}.name={name} has no {', '.join(unknown)}, so the config's options are for another: take a config "
            f"that was made with {key}.name={name}"
        )
    module = kind(**given, **run)
    check(module, f"model.{part}.")
    return module
