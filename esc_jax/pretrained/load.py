"""Models with published weights."""

from collections.abc import Sequence
import copy
from typing import Any

from absl import logging
import ml_collections

from esc_jax.frontends import registry as frontends
from esc_jax.models import model as models
from esc_jax.models import registry
from esc_jax.models.model import Model
from esc_jax.pretrained import merge


def initialize(config: Any, classes: Sequence[str]) -> tuple[Any, Model]:
    """The model of a config, with the weights of `model.pretrained` where it is set.

    Args:
        config: of the run; not modified.
        classes: class names in the order of the logits.

    Returns:
        The config, in which encoder and frontend are those of the checkpoint, and the model.

    Raises:
        PretrainedError: the checkpoint cannot be used. FrontendError, ModelError: the config describes no model.
    """
    config = copy.deepcopy(config)
    if not config.model.pretrained:
        return config, models.create(config, classes, config.seed)
    checkpoint = merge.read(config.model.name, config.model.pretrained)
    config = merge.with_checkpoint_options(config, checkpoint)
    logging.info("encoder weights: %s", config.model.pretrained)
    model = models.create(config, classes, config.seed)
    return config, model.with_variables(merge.merge(model.variables, checkpoint, classes))


def load_published(path: str, sample_rate: int | None = None, clip_s: float = 5.0) -> Model:
    """A published checkpoint as it is. Its head has random weights where the checkpoint has none.

    Args:
        path: its file, folder or hub id.
        sample_rate: Hz, for an encoder that was not trained at one.
        clip_s: length of the windows that it is called on, s.

    Raises:
        PretrainedError: the checkpoint is of no known kind, or was trained at another sample rate.
    """
    checkpoint = merge.identify(path)
    config = ml_collections.ConfigDict(
        {
            "model": registry.defaults(checkpoint.architecture),
            "frontend": frontends.defaults("log_mel"),
            "augment": {"crop_s": 0.0},
            "data": {
                "sample_rate": merge.sample_rate(checkpoint, sample_rate),
                "clip_s": clip_s,
                "mask_padding": checkpoint.architecture in registry.PADDING_MASK_MODELS,
            },
        }
    )
    config = merge.with_checkpoint_options(config, checkpoint)
    model = models.create(config, ("",))
    return model.with_variables(merge.merge(model.variables, checkpoint))
