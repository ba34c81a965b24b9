"""Export as a folder that transformers loads."""

from __future__ import annotations

import json
import pathlib
from typing import TYPE_CHECKING

from esc_jax.export.base import CARD, ExportError

if TYPE_CHECKING:  # imports JAX, which the help text of the command does not need
    from esc_jax.training.restore import Restored


def to_huggingface(restored: Restored, directory: pathlib.Path) -> None:
    """Writes config.json, model.safetensors, preprocessor_config.json and README.md for transformers.

    Its model computes the logits of the run. `esc_jax.pretrained` reads the same arrays from the folder. config.json of
    a multi-label model has its thresholds under `esc_jax_thresholds`.

    Args:
        restored: model of a run.
        directory: empty folder.

    Raises:
        ExportError: transformers has no class for the architecture, or pads its input differently.
        PretrainedError: the class does not have these blocks, or this head, frontend or padding.
    """
    from esc_jax.export import model_card
    from esc_jax.export.thresholds import read_thresholds
    from esc_jax.pretrained import efficientnet, hubert, huggingface

    model, config = restored.model, restored.config.model
    options = config.encoder.to_dict()
    frontend = restored.config.frontend.to_dict() | {"sample_rate": model.sample_rate}
    if config.name == "hubert":
        hubert.write(directory, model.variables, options, model.classes, frontend)
    elif config.name == "efficientnet":
        efficientnet.check_blocks(options)
        _check_padding(restored)
        efficientnet.write(directory, model.variables, options, model.classes, frontend, config.head.dropout)
    else:
        raise ExportError(
            f"transformers has no class for model.name={config.name} (only for hubert and efficientnet): use"
            " --format=stablehlo"
        )
    if (thresholds := read_thresholds(restored, calibrated=False)) is not None:
        path = directory / huggingface.CONFIG
        content = json.loads(path.read_text(encoding="utf-8"))
        content |= {"problem_type": "multi_label_classification", "esc_jax_thresholds": thresholds}
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (directory / CARD).write_text(model_card.huggingface_card(restored), encoding="utf-8")


def _check_padding(restored: Restored) -> None:
    """Raises ExportError where transformers' EfficientNet pads a spectrogram differently from TensorFlow's SAME.

    For even sizes both are equal. Five layers halve the size, so it must be a multiple of 32.
    """
    import jax
    import jax.numpy as jnp

    waveform = jax.ShapeDtypeStruct((1, restored.model.clip_samples), jnp.float32)
    frames, bins = jax.eval_shape(restored.model.frontend, waveform).shape[1:]
    if restored.config.model.encoder.same_padding == "tf" and (frames % 32 or bins % 32):
        raise ExportError(
            f"transformers pads spectrograms of {frames} × {bins} differently from model.encoder.same_padding=tf, so"
            " the logits would differ: use --format=stablehlo, or train with same_padding=transformers"
        )
