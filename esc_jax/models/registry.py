"""Architectures and heads by name, and the model of a config."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from flax import linen as nn
import jax.numpy as jnp

from esc_jax.extensions import Registry
from esc_jax.models import heads
from esc_jax.models.beats import Beats
from esc_jax.models.dymn import DyMN
from esc_jax.models.eat import Eat
from esc_jax.models.efficientat import EfficientAT
from esc_jax.models.efficientnet import EfficientNet
from esc_jax.models.encoder import Classifier
from esc_jax.models.hubert import Hubert
from esc_jax.models.limits import ModelError, check_options
from esc_jax.models.patch_transformer import PatchTransformer
from esc_jax.models.resnet import ResNet

ENCODERS: Registry[type] = Registry(
    "esc_jax.models",
    {
        "beats": Beats,
        "dymn": DyMN,
        "eat": Eat,
        "efficientat": EfficientAT,
        "efficientnet": EfficientNet,
        "hubert": Hubert,
        "patch_transformer": PatchTransformer,
        "resnet": ResNet,
    },
)
HEADS: Registry[type] = Registry(
    "esc_jax.heads", {"linear": heads.Linear, "projected": heads.Projected, "mlp": heads.Mlp}
)

# Fields that are not options of an architecture: the run sets them.
_RUN_FIELDS = ("name", "parent", "dtype", "axis_name")


def options(module: type) -> dict[str, Any]:
    """The options of an encoder or head that a config contains, with their defaults."""
    fields = dataclasses.fields(module)
    return {f.name: f.default for f in fields if f.name not in (*_RUN_FIELDS, "classes") and f.init}


def uses_padding(encoder: str) -> bool:
    """Whether an encoder excludes padding if it gets a mask (`uses_padding` of its class); the others ignore it."""
    return getattr(ENCODERS[encoder], "uses_padding", False)


def defaults(encoder: str, head: str = "linear") -> dict[str, Any]:
    """Keys of a config's `model`.

    Args:
        encoder: key of `ENCODERS`.
        head: key of `HEADS`.
    """
    return {
        "name": encoder,
        "pretrained": "",  # a published checkpoint: its name (`esc-jax weights list`), file, folder or hub id
        "overrides": (),  # options that the config sets, not the checkpoint: "encoder.hidden_dropout", …
        "eval_mode": "",  # regular expression of modules that run in evaluation mode while their parameters train
        "encoder": options(ENCODERS[encoder]),
        "head": {"name": head} | options(HEADS[head]),
        "dtype": "float32",
    }


def build(config: Mapping[str, Any], classes: int, axis_name: str | None = None) -> Classifier:
    """The classifier of a config, without variables. Nothing is computed.

    Args:
        config: `model` of a config: name, encoder, head, dtype.
        classes: number of logits.
        axis_name: mapped axis over which batch statistics are averaged in training, or None.

    Raises:
        ModelError: no architecture or head has this name, or it has no such option, or the value is not allowed.
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


def _module(
    key: str, name: str, part: str, module_class: type, values: Mapping[str, Any], run: Mapping[str, Any]
) -> nn.Module:
    """An encoder or head with the options of model.`part`. `key`.name=`name` is its config key, for messages."""
    if unknown := [option for option in values if option not in options(module_class)]:
        raise ModelError(
            f"{key}.name={name} has no option {', '.join(unknown)}: take a config that was made with {key}.name={name}"
        )
    module = module_class(**values, **run)
    check_options(module, f"model.{part}.")
    return module
