"""Export as one file that esc_jax reads, to share a classifier."""

from __future__ import annotations

import copy
import pathlib
from typing import TYPE_CHECKING

from esc_jax.export.base import CARD, ExportError

if TYPE_CHECKING:  # imports JAX, which the help text of the command does not need
    from esc_jax.training.restore import Restored

# Keys of a config that name folders and files of the machine that trained the model.
_PRIVATE = ("dir", "cache_dir", "background", "url")


def to_safetensors(restored: Restored, directory: pathlib.Path) -> None:
    """Writes classifier.safetensors (`training.packed`) and README.md.

    Kernels are rounded to half precision. Paths of the machine that trained the model are removed from its config.

    Args:
        restored: model of a run.
        directory: empty folder.

    Raises:
        ExportError: the weights are those of a published classifier, whose file can be shared itself.
    """
    import dataclasses

    from esc_jax.export import measurement, model_card
    from esc_jax.inference.model_path import PACKED
    from esc_jax.training import packed

    if restored.published:
        raise ExportError(f"{restored.folder.name} is a published classifier: share its name, or its file")
    config = copy.deepcopy(restored.config)
    with config.unlocked():
        for key in _PRIVATE:
            if key in config.data:
                config.data[key] = ""
        config.model.pretrained = model_card.public_name(config.model.pretrained)
        for stage in ("distill", "pretrain"):
            if stage in config and "teacher" in config[stage]:
                config[stage].teacher = model_card.public_name(config[stage].teacher)
    shared = dataclasses.replace(restored, config=config)
    packed.save(shared, directory / PACKED, measurement.describe(restored))
    (directory / CARD).write_text(model_card.safetensors_card(restored), encoding="utf-8")
