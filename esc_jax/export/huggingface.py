"""Export for transformers: config.json, model.safetensors, preprocessor_config.json, README.md."""

import pathlib

from esc_jax.export.base import CARD, ExportError, samples


def to_huggingface(run, directory: pathlib.Path) -> None:
    """Writes config.json, model.safetensors, preprocessor_config.json and README.md for transformers.

    The logits are those of the run; reading the directory again with `esc_jax.pretrained` gives the same arrays.

    Args:
        run: an `esc_jax.build.Restored`.
        directory: an empty folder.
    Raises:
        ExportError: transformers has no class for the architecture, or pads it otherwise.
        PretrainedError: it has the class, but not with this head, frontend or padding.
    """
    from esc_jax.export import model_card as export_card
    from esc_jax.pretrained import efficientnet, hubert

    model = run.config.model
    options, frontend = model.encoder.to_dict(), run.config.frontend.to_dict() | {"sample_rate": run.sample_rate}
    if model.name == "hubert":
        hubert.write(directory, run.variables, options, run.classes, frontend)
    elif model.name == "efficientnet":
        _check_padding(run)
        efficientnet.write(directory, run.variables, options, run.classes, frontend, model.head.dropout)
    else:
        raise ExportError(
            f"transformers has no class for model.name={model.name} (it has for hubert and efficientnet): export it"
            " with --format=stablehlo"
        )
    (directory / CARD).write_text(export_card.huggingface(run), encoding="utf-8")


def _check_padding(run) -> None:
    """Raises ExportError for a spectrogram that transformers' EfficientNet pads otherwise than TensorFlow's SAME.

    It pads as SAME does even sizes; five layers halve the map, so that both agree where the size is a multiple of 32.
    """
    import jax
    import jax.numpy as jnp

    frames, bins = jax.eval_shape(run.frontend, jax.ShapeDtypeStruct((1, samples(run)), jnp.float32)).shape[1:]
    if run.config.model.encoder.same_padding == "tf" and (frames % 32 or bins % 32):
        raise ExportError(
            f"transformers pads spectrograms of {frames} × {bins} otherwise than model.encoder.same_padding=tf does,"
            " and the logits would differ: export with --format=stablehlo, or train with same_padding=transformers"
        )
