"""What the options of encoders and heads may be, told from the numbers alone: nothing is computed."""

from collections.abc import Iterator
import dataclasses
import math
import numbers
from typing import Any

from flax import linen as nn

from esc_jax.errors import UserError


class ModelError(UserError, ValueError):
    """A description that makes no model. The message is one sentence."""


def check(module: nn.Module, prefix: str = "") -> None:
    """Raises ModelError for the first option that makes no model.

    An option's name and the type of its default say what it may be: rates of dropping are in [0, 1), other numbers
    above 0, counts whole. What holds for one option beside another is the module's own: its `needs()` gives triples
    (whether it holds, name of the option, what it must be).

    Args:
        module: an encoder or head.
        prefix: before the option's name in the message: "model.encoder.".
    """
    for holds, name, must in _needs(module):
        if not holds:
            raise ModelError(f"{prefix}{name}={getattr(module, name)}: it must be {must}")


def _needs(module: nn.Module) -> Iterator[tuple[bool, str, str]]:
    for field in dataclasses.fields(module):
        default, value = field.default, getattr(module, field.name)
        if isinstance(default, float) and any(part in field.name for part in ("drop", "patchout")):
            yield isinstance(value, numbers.Real) and 0 <= value < 1, field.name, "at least 0 and below 1"
        elif isinstance(default, float):
            yield isinstance(value, numbers.Real) and 0 < value < math.inf, field.name, "above 0"
        elif isinstance(default, int) and not isinstance(default, bool):
            yield _whole(value, 1), field.name, "a whole number of at least 1"
        elif isinstance(default, tuple):
            holds = isinstance(value, (list, tuple)) and len(value) >= bool(default)
            low = 1 if default else 0  # symmetric_blocks: the numbers of some, from 0
            yield holds and all(_whole(v, low) for v in value), field.name, f"whole numbers of at least {low}"
    if hasattr(module, "needs"):
        yield from module.needs()


def _whole(value: Any, low: int) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and value >= low
