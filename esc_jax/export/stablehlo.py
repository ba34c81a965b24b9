"""Export as one StableHLO program, from waveform to probabilities."""

from __future__ import annotations

from collections.abc import Callable
import json
import pathlib
from typing import TYPE_CHECKING, Any

from esc_jax.export.base import CARD, DESCRIPTION, PLATFORMS, PROGRAM

if TYPE_CHECKING:  # import JAX, which the help text of the command does not need
    import jax
    from jax.export import Exported

    from esc_jax.models.model import Model
    from esc_jax.training.restore import Restored


def program(restored: Restored) -> Exported:
    """The program of a model with frontend, weights and the activation of its task, lowered for PLATFORMS.

    The batch size is symbolic. The number of samples is that of a training clip, because some frontends cannot be
    traced with a symbolic length.

    Args:
        restored: model of a run.

    Returns:
        (batch, samples) float32 waveforms → (batch, classes) float32 probabilities.
    """
    import jax
    from jax import export as jax_export
    import jax.numpy as jnp

    model = restored.model
    classify = classifier(restored, model)
    whole = jax.jit(lambda waveform: classify(model.frontend(waveform)))
    shape = jax_export.symbolic_shape(f"batch, {model.clip_samples}")
    return jax_export.export(whole, platforms=PLATFORMS)(jax.ShapeDtypeStruct(shape, jnp.float32))


def classifier(restored: Restored, model: Model) -> Callable[[jax.Array], jax.Array]:
    """The function from features to calibrated probabilities, with weights that are not bound to a device.

    Args:
        restored: for the task and the calibration.
        model: module and weights.
    """
    import jax
    import numpy as np

    from esc_jax.evaluation.calibration import Calibration
    from esc_jax.tasks import registry as tasks

    task, variables = tasks.get(restored.config.task), jax.tree.map(np.asarray, model.variables)
    temperature = np.float32(Calibration.read(restored.meta).temperature or 1.0)

    def classify(features: jax.Array) -> jax.Array:
        logits: Any = model.module.apply(variables, features)
        return task.activation(logits / temperature)

    return classify


def describe(restored: Restored) -> dict[str, Any]:
    """The content of model.json."""
    import jax

    from esc_jax.evaluation.calibration import Calibration
    from esc_jax.export import measurement, model_card, thresholds

    model = restored.model
    limits = thresholds.read_thresholds(restored, calibrated=True)
    padding = ", which the program does not mask" if model.mask_padding else ""
    return {
        "name": model_card.model_name(restored),
        "architecture": restored.config.model.name,
        "task": restored.config.task,
        "labels": list(model.classes),
        "sample_rate": model.sample_rate,
        "samples": model.clip_samples,
        "input": {
            "shape": ["batch", model.clip_samples],
            "dtype": "float32",
            "description": "mono waveforms in [-1, 1) (16-bit samples divided by 32768). Pad shorter clips with"
            f" zeros at the end{padding}. Cut longer recordings into windows.",
        },
        "output": {
            "shape": ["batch", len(model.classes)],
            "dtype": "float32",
            "description": "probabilities in the order of labels",
        },
        **({} if limits is None else {"thresholds": limits}),
        "temperature": Calibration.read(restored.meta).temperature,
        "platforms": list(PLATFORMS),
        "jax": jax.__version__,
        **measurement.describe(restored),
    }


def to_stablehlo(restored: Restored, directory: pathlib.Path) -> None:
    """Writes model.stablehlo (a serialised `jax.export.Exported`), model.json and README.md.

    Args:
        restored: model of a run.
        directory: empty folder.
    """
    from esc_jax.export import model_card

    (directory / PROGRAM).write_bytes(program(restored).serialize())
    content = json.dumps(describe(restored), indent=2, ensure_ascii=False)
    (directory / DESCRIPTION).write_text(content + "\n", encoding="utf-8")
    (directory / CARD).write_text(model_card.stablehlo_card(restored), encoding="utf-8")
