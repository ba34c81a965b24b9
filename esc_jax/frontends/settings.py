"""Checks of settings that all frontends share."""

from collections.abc import Mapping
import dataclasses
import math
import numbers
from typing import Any

from esc_jax.errors import UserError, shorten

SAMPLE_RATES = (1_000, 1_000_000)  # lowest and highest, Hz
# A filter bank has n_fft / 2 · bands numbers, and is computed in float64.
MAX_SAMPLES = 1 << 14
MAX_BANDS = 512


class FrontendError(UserError, ValueError):
    """Invalid settings of a frontend. The message is one sentence that names the setting."""


def check_types(frontend: Any) -> None:
    """Checks that every field of a frontend has the type of its default, that numbers are finite, and the sample rate.

    Args:
        frontend: a dataclass with a field `sample_rate`.

    Raises:
        FrontendError: a field has another type or value.
    """
    for field in dataclasses.fields(frontend):
        value = getattr(frontend, field.name)
        kind: Any = type(field.default)
        if kind is bool:
            valid, wanted = isinstance(value, bool), "true or false"
        elif kind is str:
            valid, wanted = isinstance(value, str), "text"
        else:
            number = numbers.Integral if kind is int else numbers.Real
            valid = isinstance(value, number) and not isinstance(value, bool) and math.isfinite(value)
            wanted = "a whole number" if kind is int else "a finite number"
        if not valid:
            raise FrontendError(f"frontend: {field.name} is {shorten(value)}, and must be {wanted}")
    low, high = SAMPLE_RATES
    if not low <= frontend.sample_rate <= high:
        rate = shorten(frontend.sample_rate)
        raise FrontendError(f"frontend: sample_rate is {rate} Hz, and must be from {low} to {high}")


def check_settings(
    sample_rate: int,
    sizes: Mapping[str, float],
    edges: Mapping[str, float],
    positive: Mapping[str, float] | None = None,
) -> None:
    """Checks the ranges of settings.

    Args:
        sample_rate: Hz.
        sizes: numbers of samples, bins or bands by name. Must be at least 1, and at most MAX_BANDS for `bins` and
            `mels`, or MAX_SAMPLES.
        edges: lower and upper edge of the filter bank in Hz by name. Must be ascending and between 0 and half the
            sample rate.
        positive: settings that must be above 0, by name.

    Raises:
        FrontendError: a setting is out of range.
    """
    for name, value in sizes.items():
        if not value >= 1:  # also true for NaN
            raise FrontendError(f"frontend: {name} is {value:g}, and must be at least 1")
        highest = MAX_BANDS if name in ("bins", "mels") else MAX_SAMPLES
        if value > highest:
            raise FrontendError(f"frontend: {name} is {value:g}, and must be at most {highest}")
    for name, value in (positive or {}).items():
        if not value > 0:
            raise FrontendError(f"frontend: {name} is {value:g}, and must be above 0")
    (low_name, low), (high_name, high) = edges.items()
    if not 0 <= low < high <= sample_rate / 2:
        raise FrontendError(
            f"frontend: {low_name}={low:g} and {high_name}={high:g} must be in order, between 0 and"
            f" {sample_rate / 2:g} Hz"
        )
