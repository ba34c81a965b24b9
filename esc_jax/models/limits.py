"""Allowed values of the options of encoders, heads and frontends. They are checked without computing anything.

Options can come from an untrusted checkpoint. The upper limits are far above every published model. They refuse
numbers with which a model would take minutes to build, or more memory than there is.
"""

from collections.abc import Iterator
import dataclasses
import math
import numbers
from typing import Any

from flax import linen as nn

from esc_jax.errors import UserError, shorten

MAX_LAYERS = 256
MAX_SIZE = 1 << 16  # of any other whole number, such as a width
MAX_ITEMS = 64
MAX_TABLE = 1 << 24  # numbers in a table of positions
MAX_KERNEL = 1024  # of positional convolutions, whose transforms are matrices
MAX_REAL = 1e6
MAX_FACTOR = 8.0  # of the width or depth of an architecture

Constraint = tuple[bool, str, str]  # whether it is satisfied, name of the option, what the option must be


class ModelError(UserError, ValueError):
    """Invalid options of a model. The message is one sentence."""


def check_options(module: nn.Module, prefix: str = "") -> None:
    """Checks the options of an encoder or head.

    The range of a single option follows from its name and the type of its default. Dropout rates are in [0, 1). Other
    floats are above 0, and at most MAX_FACTOR for factors of width and depth, or MAX_REAL. Whole numbers are at least
    1, and at most MAX_LAYERS for numbers of layers, MAX_KERNEL for positional convolutions, or MAX_SIZE. A module
    yields further constraints, such as those between options, from a method `constraints()`.

    Args:
        module: an encoder or head.
        prefix: of the option in the message: "model.encoder.".

    Raises:
        ModelError: a constraint is not satisfied. The message names the first one.
    """
    for satisfied, name, requirement in _constraints(module):
        if not satisfied:
            raise ModelError(f"{prefix}{name}={shorten(getattr(module, name))}: it must be {requirement}")


def _constraints(module: nn.Module) -> Iterator[Constraint]:
    for field in dataclasses.fields(module):
        default, value, name = field.default, getattr(module, field.name), field.name
        if isinstance(default, bool):
            yield isinstance(value, bool), name, "true or false"
        elif isinstance(default, float) and any(part in name for part in ("drop", "patchout")):
            yield is_real(value) and 0 <= value < 1, name, "at least 0 and below 1"
        elif isinstance(default, float):
            high = MAX_FACTOR if any(part in name for part in ("mult", "coefficient")) else MAX_REAL
            yield is_real(value) and 0 < value, name, "above 0"
            yield value <= high, name, f"at most {high:g}"
        elif isinstance(default, int):
            high = MAX_LAYERS if "layers" in name else MAX_KERNEL if "conv_pos" in name else MAX_SIZE
            yield is_integer(value, 1), name, "a whole number of at least 1"
            yield value <= high, name, f"at most {high}"
        elif isinstance(default, tuple):
            low = 1 if default else 0  # symmetric_blocks: indices of blocks, from 0
            high = MAX_LAYERS if "stage" in name else MAX_SIZE
            valid = isinstance(value, (list, tuple)) and len(value) >= bool(default)
            yield valid and all(is_integer(v, low) for v in value), name, f"whole numbers of at least {low}"
            yield len(value) <= MAX_ITEMS, name, f"at most {MAX_ITEMS} numbers"
            yield max(value, default=0) <= high, name, f"whole numbers of at most {high}"
        elif isinstance(default, str):
            yield isinstance(value, str), name, "text"
    if hasattr(module, "constraints"):
        yield from module.constraints()


def is_real(value: Any) -> bool:
    """Whether a value is a number, and finite."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def is_integer(value: Any, low: int) -> bool:
    """Whether a value is a whole number of at least `low`."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and int(value) >= low
