"""The model of a finished run, from its checkpoint alone."""

import dataclasses
import pathlib
from typing import Any

import jax
import ml_collections

from esc_jax.models import model as models
from esc_jax.models.model import Model
from esc_jax.training import checkpoint


@dataclasses.dataclass(frozen=True)
class Restored:
    """A checkpoint that was read.

    Attributes:
        model: with the weights to predict with: their moving average where the run kept one.
        config: of the run.
        folder, step: where the checkpoint is.
        meta: everything that it says about itself (`training.checkpoint`).
        novelty: arrays of `evaluation.novelty`; None where there are none.
    """

    model: Model
    config: ml_collections.ConfigDict
    folder: pathlib.Path
    step: int
    meta: dict[str, Any]
    novelty: Any | None = None


def restore(path: str | pathlib.Path) -> Restored:
    """The model of a run, from its workdir, its `checkpoints` folder or one step in it.

    Raises:
        CheckpointError: there is none, it has another format version, or it cannot be read.
    """
    folder, step = checkpoint.find(path)
    meta = checkpoint.read_meta(folder, step)
    config = ml_collections.ConfigDict(meta["config"])
    try:
        model, initialize = models.abstract(config, meta["classes"])
    except (AttributeError, KeyError, TypeError) as error:
        raise checkpoint.CheckpointError(
            f"{path}: its config is not one of this version of esc_jax ({error})"
        ) from error
    shapes = jax.eval_shape(initialize, jax.random.key(0))
    variables = checkpoint.read_weights(folder, step, shapes)
    novelty = checkpoint.read_novelty(folder, step)
    return Restored(model.with_variables(variables), config, folder, step, meta, novelty)
