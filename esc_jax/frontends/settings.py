"""Checks of settings that all frontends share."""

from collections.abc import Mapping

from esc_jax.errors import UserError


class FrontendError(UserError, ValueError):
    """Invalid settings of a frontend. The message is one sentence that names the setting."""


def check_settings(
    sample_rate: int,
    sizes: Mapping[str, float],
    edges: Mapping[str, float],
    positive: Mapping[str, float] | None = None,
) -> None:
    """Checks the ranges of settings.

    Args:
        sample_rate: Hz.
        sizes: numbers of samples, bins or bands by name. Must be at least 1.
        edges: lower and upper edge of the filter bank in Hz by name. Must be ascending and between 0 and half the
            sample rate.
        positive: settings that must be above 0, by name.

    Raises:
        FrontendError: a setting is out of range.
    """
    for name, value in sizes.items():
        if not value >= 1:  # also true for NaN
            raise FrontendError(f"frontend: {name} is {value:g}, and must be at least 1")
    for name, value in (positive or {}).items():
        if not value > 0:
            raise FrontendError(f"frontend: {name} is {value:g}, and must be above 0")
    (low_name, low), (high_name, high) = edges.items()
    if not 0 <= low < high <= sample_rate / 2:
        raise FrontendError(
            f"frontend: {low_name}={low:g} and {high_name}={high:g} must be in order, between 0 and"
            f" {sample_rate / 2:g} Hz"
        )
