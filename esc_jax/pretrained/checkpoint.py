"""What every reader of a published checkpoint returns."""

import dataclasses
from typing import Any

from flax import traverse_util
import numpy as np

from esc_jax.errors import UserError
from esc_jax.models import limits


class PretrainedError(UserError, ValueError):
    """A checkpoint that cannot be used. The message is one sentence for the user, and says what to do."""


def is_state_dict(value: Any) -> bool:
    """Whether it is {name: array}."""
    return isinstance(value, dict) and all(isinstance(n, str) and isinstance(a, np.ndarray) for n, a in value.items())


def check_options(kind: type, options: dict[str, Any], what: str) -> None:
    """Raises PretrainedError where `what` describes an encoder or head of this kind that is none."""
    try:
        limits.check(kind(**options), f"{what} makes no model with ")
    except limits.ModelError as error:
        raise PretrainedError(f"{error}; take a published checkpoint as it is.") from None


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A published checkpoint in our own terms.

    Attributes:
        architecture: key in `models.registry.ENCODERS`.
        options: fields of that encoder, read from the checkpoint, never from class defaults.
        variables: {"params": {"encoder": …, "head": … (absent where there is none)}, "batch_stats": {"encoder": …}},
            numpy float32 arrays in the tree of `models.encoder.Classifier`.
        head: {"name": key in `models.registry.HEADS`, its fields}, the head the checkpoint was published with.
        frontend: {"name": key in `frontends.FRONTENDS`, its fields}, what the encoder was trained on.
        labels: class names in the order of the published head's outputs, or None.
    """

    architecture: str
    options: dict[str, Any]
    variables: dict[str, Any]
    head: dict[str, Any]
    frontend: dict[str, Any]
    labels: tuple[str, ...] | None = None

    def __post_init__(self):
        flat = traverse_util.flatten_dict(self.variables, sep="/")
        if spoiled := [name for name, array in flat.items() if not np.isfinite(array).all()]:
            raise PretrainedError(
                f"the checkpoint has numbers that are not finite in {len(spoiled)} of its arrays ({spoiled[0]} is one):"
                " take another copy of it, or one from before its training broke down."
            )
