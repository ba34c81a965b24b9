"""Models with published weights."""

from collections.abc import Sequence
import copy
import pathlib
from typing import Any

from absl import logging
import ml_collections

from esc_jax.frontends import registry as frontends
from esc_jax.models import model as models
from esc_jax.models import registry
from esc_jax.models.model import Model
from esc_jax.pretrained import merge
from esc_jax.pretrained.published import PretrainedError

# Window of a published classifier, s: AudioSet's clips.
CLASSIFIER_CLIP_S = 10.0


def initialize(config: Any, classes: Sequence[str]) -> tuple[Any, Model]:
    """The model of a config, with the weights of `model.pretrained` where it is set.

    Args:
        config: of the run; not modified.
        classes: class names in the order of the logits.

    Returns:
        The config, in which encoder and frontend are those of the checkpoint, and the model.

    Raises:
        PretrainedError: the checkpoint cannot be used.
        FrontendError, ModelError: the config describes no model.
    """
    config = copy.deepcopy(config)
    if not config.model.pretrained:
        return config, models.create(config, classes, config.seed)
    checkpoint = merge.read(config.model.name, config.model.pretrained)
    config = merge.with_checkpoint_options(config, checkpoint)
    logging.info("encoder weights: %s", config.model.pretrained)
    model = models.create(config, classes, config.seed)
    return config, model.with_variables(merge.merge(model.variables, checkpoint, classes))


def load_published(
    path: str, sample_rate: int | None = None, clip_s: float = 5.0, classes: Sequence[str] = ("",)
) -> Model:
    """The encoder of a published checkpoint. `load_classifier` loads its head as well.

    Args:
        path: its name in the catalog, file, folder or hub id.
        sample_rate: Hz, for an encoder that was not trained at one.
        clip_s: length of the windows that it is called on, s.
        classes: class names of a linear head with random weights.

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
                "mask_padding": registry.uses_padding(checkpoint.architecture),
            },
        }
    )
    config = merge.with_checkpoint_options(config, checkpoint)
    model = models.create(config, classes)
    return model.with_variables(merge.merge(model.variables, checkpoint))


def load_classifier(path: str) -> tuple[ml_collections.ConfigDict, Model]:
    """A published classifier with its own head and classes, and a config that describes it.

    Args:
        path: its name in the catalog, file, folder or hub id.

    Raises:
        PretrainedError: the checkpoint is of no known kind, of no sounds, or has no head with class names.
    """
    checkpoint = merge.identify(path)
    if checkpoint.labels is None:
        raise PretrainedError(
            f"{path} has no classes of its own: train or probe it on a data set first, with esc-jax train --config=NAME"
            f" --config.model.pretrained={path}"
        )
    if "sample_rate" not in checkpoint.frontend:
        raise PretrainedError(f"{path} was not trained on sounds: train it on a data set first")
    head = {key: value for key, value in checkpoint.head.items() if key != "classes"}
    config = ml_collections.ConfigDict(
        {
            "experiment": pathlib.PurePath(path).name,
            "task": checkpoint.task,
            "model": registry.defaults(checkpoint.architecture, head["name"]) | {"pretrained": path},
            "frontend": frontends.defaults("log_mel"),
            "augment": {"crop_s": 0.0},
            "data": {
                "name": "",
                "dir": "",
                "test_fold": 0,
                "sample_rate": merge.sample_rate(checkpoint),
                "clip_s": CLASSIFIER_CLIP_S,
                "mask_padding": registry.uses_padding(checkpoint.architecture),
            },
        }
    )
    config.model.head.update(head)
    config = merge.with_checkpoint_options(config, checkpoint)
    model = models.create(config, checkpoint.labels)
    return config, model.with_variables(merge.merge(model.variables, checkpoint, checkpoint.labels))
