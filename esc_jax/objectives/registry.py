"""Objectives by name."""

from typing import Any

from esc_jax.extensions import Registry
from esc_jax.objectives.base import Objective
from esc_jax.objectives.byol_a import ByolA
from esc_jax.objectives.masked import Masked
from esc_jax.objectives.simclr import SimCLR

# Self-supervised objectives, for `pretrain.objective`. Supervised training is the stage after it, in `train`.
PRETRAINING: Registry[type[Objective]] = Registry(
    "esc_jax.objectives",
    {
        "byol_a": ByolA,
        "masked": Masked,
        "simclr": SimCLR,
    },
)


def defaults(name: str) -> dict[str, Any]:
    """Keys of an objective with their defaults."""
    return PRETRAINING[name].defaults()
