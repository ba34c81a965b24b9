"""Outputs of exported files beside those of JAX."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from absl import logging
import jax
import numpy as np

from esc_jax.export.base import ExportError
from esc_jax.export.clips import Clips
from esc_jax.models import model as models
from esc_jax.models.model import Model
from esc_jax.tasks import registry as tasks
from esc_jax.training.restore import Restored

TOLERANCE = 1e-4
MIN_AGREEMENT = 0.9  # of the first classes of an int8 file and of the float32 model; below it, the file is marked
BATCH = 8


def in_float32(restored: Restored) -> Model:
    """The model, computed in float32: other runtimes have no convolution in bfloat16 on CPUs."""
    config = restored.config.copy_and_resolve_references()
    config.model.dtype = "float32"
    return models.abstract(config, restored.model.classes)[0].with_variables(restored.model.variables)


def outputs(function: Callable[[jax.Array], jax.Array], inputs: np.ndarray) -> np.ndarray:
    """The results of a function of JAX, in batches of one size, so that it is compiled once."""
    compiled, count = jax.jit(function), len(inputs)
    padded = np.concatenate([inputs, np.repeat(inputs[-1:], -count % BATCH, axis=0)])
    return np.concatenate([np.asarray(compiled(batch)) for batch in batches(padded)])[:count]


def batches(array: np.ndarray, size: int = BATCH) -> list[np.ndarray]:
    """Parts of so many rows. The last one may be smaller."""
    return [array[first : first + size] for first in range(0, len(array), size)]


def check(name: str, runtime: str, results: Iterable[np.ndarray], expected: np.ndarray) -> float:
    """The largest difference between probabilities of a file and those of JAX.

    Args:
        name: of the file, for the message.
        runtime: that computed the results, for the message.
        results: (N, classes) each: the same clips in batches of different sizes.
        expected: (N, classes), of JAX.

    Raises:
        ExportError: it is larger than TOLERANCE.
    """
    differences = [float(np.abs(actual - expected).max()) for actual in results]
    if not all(difference <= TOLERANCE for difference in differences):  # also NaN
        raise ExportError(
            f"the probabilities of {name} in {runtime} differ by {max(differences):.2g} from those of JAX, more than"
            f" {TOLERANCE:g}: use --format=stablehlo, and report the config of the run"
        )
    return max(differences)


def compare_decisions(
    restored: Restored, name: str, clips: Clips, expected: np.ndarray, actual: np.ndarray
) -> dict[str, Any]:
    """How often the class with the largest probability is the same, and the score where labels are known.

    An int8 file of another first class for many clips is marked (`"below_min_agreement"`), with a warning.
    """
    agreement = float((actual.argmax(-1) == expected.argmax(-1)).mean())
    result: dict[str, Any] = {
        "top1_agreement": agreement,
        "min_agreement": MIN_AGREEMENT,
        "below_min_agreement": agreement < MIN_AGREEMENT,
        "largest_difference": float(np.abs(actual - expected).max()),
    }
    if result["below_min_agreement"]:
        logging.warning(
            "%s has the same first class as the float32 model for %.0f %% of %s only: measure it before you use it",
            name,
            100 * agreement,
            clips.source,
        )
    if clips.labels is not None:
        task = tasks.get(restored.config.task)
        scores = {suffix: task.score(clips.labels, values) for suffix, values in (("", actual), ("_float32", expected))}
        result |= {f"{task.metric}{suffix}": score for suffix, score in scores.items()}
    return result
