"""Allowed values of the options of encoders and heads. They are checked without computing anything."""

from collections.abc import Iterator
import dataclasses
import math
import numbers
from typing import Any

from flax import linen as nn

from esc_jax.errors import UserError

Constraint = tuple[bool, str, str]  # whether it is satisfied, name of the option, what the option must be


class ModelError(UserError, ValueError):
    """Invalid options of a model. The message is one sentence."""


def check_options(module: nn.Module, prefix: str = "") -> None:
    """Checks the options of an encoder or head.

    The range of a single option follows from its name and the type of its default: dropout rates are in [0, 1), other
    floats are above 0, integers are at least 1. A module yields further constraints, such as those between options,
    from a method `constraints()`.

    Args:
        module: an encoder or head.
        prefix: of the option in the message: "model.encoder.".

    Raises:
        ModelError: a constraint is not satisfied. The message names the first one.
    """
    for satisfied, name, requirement in _constraints(module):
        if not satisfied:
            raise ModelError(f"{prefix}{name}={getattr(module, name)}: it must be {requirement}")


def _constraints(module: nn.Module) -> Iterator[Constraint]:
    for field in dataclasses.fields(module):
        default, value = field.default, getattr(module, field.name)
        if isinstance(default, float) and any(part in field.name for part in ("drop", "patchout")):
            yield _is_real(value) and 0 <= value < 1, field.name, "at least 0 and below 1"
        elif isinstance(default, float):
            yield _is_real(value) and 0 < value < math.inf, field.name, "above 0"
        elif isinstance(default, int) and not isinstance(default, bool):
            yield _is_integer(value, 1), field.name, "a whole number of at least 1"
        elif isinstance(default, tuple):
            valid_length = isinstance(value, (list, tuple)) and len(value) >= bool(default)
            low = 1 if default else 0  # symmetric_blocks: indices of blocks, from 0
            valid = valid_length and all(_is_integer(v, low) for v in value)
            yield valid, field.name, f"whole numbers of at least {low}"
    if hasattr(module, "constraints"):
        yield from module.constraints()


def _is_real(value: Any) -> bool:
    return isinstance(value, numbers.Real)


def _is_integer(value: Any, low: int) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and int(value) >= low
