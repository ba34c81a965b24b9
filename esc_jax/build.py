"""A config's model and frontend, with weights: drawn at random, published, or those of a finished run."""

from collections.abc import Sequence
import copy
import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from esc_jax import config as configs
from esc_jax.frontends import registry as frontends
from esc_jax.models import registry as models
from esc_jax.models.encoder import Classifier
from esc_jax.pretrained import merge
from esc_jax.training import checkpoint, parallel


def _parts(config, classes: int):
    """Model and frontend of a config, and the function of a PRNG key that draws its variables."""
    frontend = frontends.build(config.frontend, config.data.sample_rate)
    model = models.build(config.model, classes, axis_name=parallel.AXIS)
    samples = round((config.augment.crop_s or config.data.clip_s) * config.data.sample_rate)

    def initialise(key: jax.Array) -> dict[str, Any]:
        made = model.init(key, frontend(jnp.zeros((1, samples))))
        return {"params": made["params"], "batch_stats": made.get("batch_stats", {})}

    return model, frontend, initialise


def build(config, classes: int) -> tuple[Classifier, Any, dict[str, Any]]:
    """Model and frontend of a config, and the initial variables: (model, frontend, variables).

    Published weights are not read here: see `start`.
    """
    model, frontend, initialise = _parts(config, classes)
    # It runs once: optimising its hundreds of random draws costs ten times what it saves.
    draw = jax.jit(initialise, compiler_options={"xla_backend_optimization_level": 0})
    return model, frontend, draw(jax.random.key(config.seed))


def start(config, classes: Sequence[str]):
    """As `build`, with the weights of `model.pretrained` where it is set: (config, model, frontend, variables).

    The config returned describes the encoder and frontend that the checkpoint brought; the one given is left alone.
    `classes` are the names, in the order of the logits.
    """
    config = copy.deepcopy(config)
    if not config.model.pretrained:
        return (config, *build(config, len(classes)))
    found = merge.read(config.model.name, config.model.pretrained)
    config = merge.adopt(config, found)
    model, frontend, variables = build(config, len(classes))
    return config, model, frontend, merge.merge(variables, found, classes)


def published(path: str, sample_rate: int | None = None):
    """A published checkpoint as it is: (config, model, frontend, variables), the head as drawn where it has none.

    Args:
        path: its file, folder or hub id.
        sample_rate: Hz, for an encoder that was not trained at one.

    Raises:
        PretrainedError: it is none that is known, or was trained at another rate.
    """
    found = merge.identify(path)
    config = configs.defaults(model=found.architecture)
    config.data.sample_rate = merge.sample_rate(found, sample_rate)
    config.data.mask_padding = found.architecture in models.MASKING
    config = merge.adopt(config, found)
    model, frontend, variables = build(config, 1)
    return config, model, frontend, merge.merge(variables, found)


@dataclasses.dataclass(frozen=True)
class Restored:
    """A finished run's model; all of it comes from the checkpoint, nothing else is needed.

    Attributes:
        config: of the run, as it was.
        classes: class names in the order of the logits.
        sample_rate: Hz that the frontend expects.
        clip_s: seconds of a clip in training; shorter input was padded with zeros at its end.
        mask_padding: whether the model was told of that.
        model, frontend: to be called as in `training.step.predict_step`.
        variables: {"params", "batch_stats"}: the average of the weights where the run kept one.
        folder, step: where the checkpoint lies.
        meta: all that it says about itself (`training.checkpoint`).
    """

    config: ml_collections.ConfigDict
    classes: tuple[str, ...]
    sample_rate: int
    clip_s: float
    mask_padding: bool
    model: Classifier
    frontend: Any
    variables: dict[str, Any]
    folder: pathlib.Path
    step: int
    meta: dict[str, Any]


def restore(path: str | pathlib.Path) -> Restored:
    """The model of a run, from its workdir, its `checkpoints` folder or one step in it.

    Raises:
        CheckpointError: there is none, it is of another version of the format, or it cannot be read.
    """
    folder, step = checkpoint.find(path)
    meta = checkpoint.read_meta(folder, step)
    config = ml_collections.ConfigDict(meta["config"])
    config.data.mask_padding = config.data.get("mask_padding", False)  # runs of before it
    classes = tuple(meta["classes"])
    model, frontend, initialise = _parts(config, len(classes))
    shapes = jax.eval_shape(initialise, jax.random.key(0))
    return Restored(
        config=config,
        classes=classes,
        sample_rate=int(meta["sample_rate"]),
        clip_s=float(config.data.clip_s),
        mask_padding=config.data.mask_padding,
        model=model,
        frontend=frontend,
        variables=checkpoint.read_weights(folder, step, shapes),
        folder=folder,
        step=step,
        meta=meta,
    )
