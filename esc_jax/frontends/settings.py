"""What all frontends refuse in their settings."""

from collections.abc import Mapping

from esc_jax.errors import UserError


class FrontendError(UserError, ValueError):
    """Settings that make no usable frontend. The message is one sentence."""


def check(
    sample_rate: int,
    sizes: Mapping[str, float],
    edges: Mapping[str, float],
    positive: Mapping[str, float] | None = None,
) -> None:
    """Refuses settings by what they are.

    Args:
        sample_rate: Hz.
        sizes: setting → number of samples, bins or bands: at least 1.
        edges: the lower and the upper edge of the bank in Hz: in order, from 0 to half the sample rate.
        positive: settings that must be above 0.

    Raises:
        FrontendError: names the setting.
    """
    for name, value in sizes.items():
        if not value >= 1:  # refuses NaN too
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
