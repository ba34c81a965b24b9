"""The model of a finished run, from its checkpoint alone."""

from collections.abc import Mapping
import dataclasses
import math
import pathlib
from typing import Any

import jax
import ml_collections

from esc_jax.data.rows import MAX_CLASSES, DataError, check_classes
from esc_jax.errors import UserError, first_line, shorten
from esc_jax.frontends.settings import SAMPLE_RATES
from esc_jax.models import model as models
from esc_jax.models.limits import is_real
from esc_jax.models.model import Model, Variables
from esc_jax.tasks import registry as tasks
from esc_jax.training import checkpoint
from esc_jax.training.checkpoint import CheckpointError

MAX_CLIP_S = 600.0  # as the longest window of a prediction
MAX_SAMPLES = 1 << 27  # of a clip
MAX_PARAMETERS = 2 << 30

_OTHER_VERSION = "its config is not one of this version of esc_jax"


@dataclasses.dataclass(frozen=True)
class Restored:
    """A checkpoint that was read, or a published classifier (`inference.classifier.restore_any`).

    Attributes:
        model: with the weights to predict with: their moving average where the run kept one.
        config: of the run.
        folder, step: where the checkpoint is.
        meta: everything that it says about itself (`training.checkpoint`); empty for a published classifier.
        novelty: arrays of `evaluation.novelty`; None where there are none.
        published: whether these are the weights of a published classifier, and not of a run.
    """

    model: Model
    config: ml_collections.ConfigDict
    folder: pathlib.Path
    step: int
    meta: dict[str, Any]
    novelty: Any | None = None
    published: bool = False


def _require(satisfied: bool, name: str, value: object, requirement: str) -> None:
    if not satisfied:
        raise CheckpointError(f"{name} is {shorten(value)}, and must be {requirement}")


def _check_number(values: Mapping[str, Any], name: str, low: float, high: float) -> None:
    value = values[name.rpartition(".")[2]]
    _require(is_real(value) and low <= value <= high, name, value, f"a number from {low:g} to {high:g}")


def check_meta(meta: Mapping[str, Any]) -> None:
    """Checks the JSON object of a checkpoint before anything is built or allocated: it can come from a stranger.

    The options of encoder, head and frontend are checked where they are built (`models.limits`, `frontends.settings`).

    Args:
        meta: of `training.checkpoint`.

    Raises:
        CheckpointError: a value that prediction needs is missing, of another type, or out of range.
    """
    try:
        config, classes = meta["config"], meta["classes"]
        data, head = config["data"], config["model"]["head"]
        _require(isinstance(classes, list) and 0 < len(classes) <= MAX_CLASSES, "classes", classes, "a list of names")
        _require(all(isinstance(name, str) for name in classes), "classes", classes, "a list of names")
        check_classes(classes, "classes")
        _require(config["task"] in tasks.TASKS, "config.task", config["task"], f"one of {', '.join(tasks.TASKS)}")
        for part in (config["model"]["encoder"], head, config["frontend"], config["augment"]):
            _require(isinstance(part, dict), "a part of config", part, "an object")
        for part in (config["model"], head, config["frontend"]):
            _require(isinstance(part["name"], str), "a name in config", part["name"], "text")
        dtype = config["model"]["dtype"]
        _require(dtype in ("float32", "bfloat16"), "config.model.dtype", dtype, "float32 or bfloat16")
        _check_number(data, "config.data.sample_rate", *SAMPLE_RATES)
        _check_number(data, "config.data.clip_s", 0.001, MAX_CLIP_S)
        _check_number(config["augment"], "config.augment.crop_s", 0.0, MAX_CLIP_S)
        samples = data["clip_s"] * data["sample_rate"]
        _require(1 <= samples <= MAX_SAMPLES, "config.data.clip_s", data["clip_s"], f"at most {MAX_SAMPLES} samples")
        masks = data["mask_padding"]
        _require(isinstance(masks, bool), "config.data.mask_padding", masks, "true or false")
        saved = meta["checksums"]
        valid = isinstance(saved, dict) and all(isinstance(entry, dict) for entry in saved.values())
        _require(valid, "checksums", saved, "an object of objects")
        _check_calibration(meta.get("calibration", {}), len(classes))
    except KeyError as error:
        raise CheckpointError(f"{_OTHER_VERSION} (it has no {error})") from None
    except DataError as error:
        raise CheckpointError(str(error)) from None
    except (TypeError, AttributeError):
        raise CheckpointError(f"{_OTHER_VERSION} (a value has another type)") from None


def _check_calibration(calibration: Mapping[str, Any], classes: int) -> None:
    temperature, limits = calibration.get("temperature"), calibration.get("thresholds")
    valid = temperature is None or (is_real(temperature) and 1e-3 <= temperature <= 1e3)
    _require(valid, "calibration.temperature", temperature, "a number from 0.001 to 1000")
    valid = limits is None or (isinstance(limits, list) and len(limits) == classes)
    valid = valid and all(is_real(limit) and 0 <= limit <= 1 for limit in limits or ())
    _require(valid, "calibration.thresholds", limits, f"{classes} numbers from 0 to 1, one for each class")


def build(meta: Mapping[str, Any], source: str) -> tuple[ml_collections.ConfigDict, Model, Variables]:
    """The config and the model without weights that the JSON object of a checkpoint describes.

    Args:
        meta: of `training.checkpoint`; checked here.
        source: name of the checkpoint, for the message.

    Returns:
        Config, model, and the shapes of its variables.

    Raises:
        CheckpointError: a value is missing or out of range.
    """
    try:
        check_meta(meta)
        config = ml_collections.ConfigDict(meta["config"])
        model, initialize = models.abstract(config, meta["classes"])
        shapes = jax.eval_shape(initialize, jax.random.key(0))
    except UserError as error:
        raise CheckpointError(f"{source}: {error}") from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{source}: {_OTHER_VERSION} ({first_line(error)})") from error
    size = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    if size > MAX_PARAMETERS:
        raise CheckpointError(f"{source}: its config describes {size:.1e} parameters")
    return config, model, shapes


def restore(path: str | pathlib.Path) -> Restored:
    """The model of a run, from its workdir, its `checkpoints` folder or one step in it.

    Raises:
        CheckpointError: there is none, it has another format version, its metadata are out of range, or it cannot be
            read.
    """
    folder, step = checkpoint.find(path)
    meta = checkpoint.read_meta(folder, step)
    config, model, shapes = build(meta, str(folder / str(step)))
    variables = checkpoint.read_weights(folder, step, shapes)
    novelty = checkpoint.read_novelty(folder, step)
    return Restored(model.with_variables(variables), config, folder, step, meta, novelty)
