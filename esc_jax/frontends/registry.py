"""Frontends by name.

A frontend is a frozen dataclass whose fields are its settings. It is called as `frontend(waveform, padding=None)`:
(…, time) → (…, frames, bins), or (…, time) for the raw waveform.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

import jax

from esc_jax.extensions import Registry
from esc_jax.frontends.efficientat_mel import EfficientATMel
from esc_jax.frontends.kaldi_fbank import KaldiFbank
from esc_jax.frontends.log_mel import LogMel
from esc_jax.frontends.raw import Raw
from esc_jax.frontends.settings import FrontendError

FRONTENDS: Registry[type] = Registry(
    "esc_jax.frontends",
    {
        "log_mel": LogMel,
        "efficientat_mel": EfficientATMel,
        "kaldi_fbank": KaldiFbank,
        "raw": Raw,
    },
)


def defaults(name: str) -> dict[str, Any]:
    """Keys of a config's `frontend`: the name and the settings of that frontend, except the sample rate."""
    fields = dataclasses.fields(FRONTENDS[name])
    return {"name": name} | {f.name: f.default for f in fields if f.name != "sample_rate"}


def check(config: Mapping[str, Any]) -> None:
    """Raises FrontendError where the keys of a config's `frontend` are not those of the frontend that it names."""
    name = config["name"]
    if name not in FRONTENDS:
        raise FrontendError(f"frontend.name={name}: the frontends are {', '.join(FRONTENDS)}")
    if unknown := [key for key in config if key not in defaults(name)]:
        raise FrontendError(
            f"frontend.name={name} has no option {', '.join(unknown)}: take a config that was made with"
            f" frontend.name={name}"
        )


def build(config: Mapping[str, Any], sample_rate: int) -> Callable[..., jax.Array]:
    """The frontend of a config.

    Args:
        config: `frontend` of a config.
        sample_rate: Hz.

    Raises:
        FrontendError: no frontend has this name or such a setting, or a setting is out of range.
    """
    check(config)
    options = dict(config)
    return FRONTENDS[options.pop("name")](sample_rate=sample_rate, **options)
