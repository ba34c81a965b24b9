"""The common form of published checkpoints, which every reader returns."""

import dataclasses
from typing import Any

from flax import traverse_util
import numpy as np

from esc_jax.errors import UserError
from esc_jax.models import limits


class PretrainedError(UserError, ValueError):
    """A published checkpoint that cannot be used. The message is one sentence for the user, with a remedy."""


def is_state_dict(value: Any) -> bool:
    """Whether a value is a dict of arrays by name."""
    return isinstance(value, dict) and all(isinstance(n, str) and isinstance(a, np.ndarray) for n, a in value.items())


def check_options(module_class: type, options: dict[str, Any], source: str) -> None:
    """Checks that options read from a checkpoint describe an encoder or head.

    Args:
        module_class: of the encoder or head.
        options: its fields.
        source: where the options were read, for the message.

    Raises:
        PretrainedError: an option is not allowed.
    """
    try:
        limits.check_options(module_class(**options), f"{source} has an invalid option ")
    except limits.ModelError as error:
        raise PretrainedError(f"{error}; use an unmodified published checkpoint.") from None


@dataclasses.dataclass(frozen=True)
class PublishedCheckpoint:
    """A published checkpoint, converted to the options and variables of this project.

    Attributes:
        architecture: key of `models.registry.ENCODERS`.
        options: fields of that encoder, as read from the checkpoint.
        variables: {"params": {"encoder": …, "head": … (if there is one)}, "batch_stats": {"encoder": …}}, numpy float32
            arrays in the tree of `models.encoder.Classifier`.
        head: {"name": key of `models.registry.HEADS`, its fields} of the published head.
        frontend: {"name": key of `frontends.registry.FRONTENDS`, its fields} with which the encoder was trained.
        labels: class names in the order of the logits of the published head, or None.
        task: name of the task that the head was trained for.

    Raises:
        PretrainedError: an array contains NaN or infinity.
    """

    architecture: str
    options: dict[str, Any]
    variables: dict[str, Any]
    head: dict[str, Any]
    frontend: dict[str, Any]
    labels: tuple[str, ...] | None = None
    task: str = "single_label"

    def __post_init__(self) -> None:
        flat = traverse_util.flatten_dict(self.variables, sep="/")
        if damaged := [name for name, array in flat.items() if not np.isfinite(array).all()]:
            raise PretrainedError(
                f"the checkpoint contains NaN or infinity in {len(damaged)} arrays, such as {damaged[0]}: use another"
                " copy, or a checkpoint from before its training diverged."
            )
