"""Export as one StableHLO program, from waveform to probabilities."""

import json
import pathlib
from typing import Any

from esc_jax.export.base import CARD, DESCRIPTION, PLATFORMS, PROGRAM, samples


def program(run):
    """The whole pipeline, lowered for every platform of PLATFORMS, the weights inside as constants.

    The batch is symbolic. The time is not: of the frontends only log_mel can be traced without its length, and a model
    has seen no other than this one.

    Args:
        run: an `esc_jax.build.Restored`.
    Returns:
        `jax.export.Exported`: (batch, samples) float32 → (batch, classes) float32 probabilities.
    """
    import jax
    from jax import export as jax_export
    import jax.numpy as jnp
    import numpy as np

    variables = jax.tree.map(np.asarray, run.variables)  # constants that belong to no device of this machine

    @jax.jit
    def classify(waveform: jax.Array) -> jax.Array:
        return jax.nn.softmax(run.model.apply(variables, run.frontend(waveform)))

    shape = jax_export.symbolic_shape(f"batch, {samples(run)}")
    return jax_export.export(classify, platforms=PLATFORMS)(jax.ShapeDtypeStruct(shape, jnp.float32))


def describe(run) -> dict[str, Any]:
    """What model.json says of a program."""
    import jax

    from esc_jax.export import model_card as export_card

    return {
        "name": export_card.name(run),
        "architecture": run.config.model.name,
        "labels": list(run.classes),
        "sample_rate": run.sample_rate,
        "samples": samples(run),
        "input": {
            "shape": ["batch", samples(run)],
            "dtype": "float32",
            "description": "mono waveforms in [-1, 1) (16-bit samples divided by 32768); a shorter clip is padded with"
            f" zeros at its end{', which the program takes for sound' if run.mask_padding else ''}, a longer recording"
            " cut into windows",
        },
        "output": {
            "shape": ["batch", len(run.classes)],
            "dtype": "float32",
            "description": "probabilities in the order of labels",
        },
        "platforms": list(PLATFORMS),
        "jax": jax.__version__,
        "measured": export_card.measured(run),
    }


def to_stablehlo(run, directory: pathlib.Path) -> None:
    """Writes model.stablehlo (a serialised `jax.export.Exported`), model.json and README.md."""
    from esc_jax.export import model_card as export_card

    (directory / PROGRAM).write_bytes(program(run).serialize())
    content = json.dumps(describe(run), indent=2, ensure_ascii=False)
    (directory / DESCRIPTION).write_text(content + "\n", encoding="utf-8")
    (directory / CARD).write_text(export_card.stablehlo(run), encoding="utf-8")
