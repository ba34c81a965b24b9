"""Thresholds of the probabilities that an export computes."""

import numpy as np

from esc_jax.evaluation.calibration import Calibration
from esc_jax.tasks import registry as tasks
from esc_jax.training.restore import Restored


def read_thresholds(restored: Restored) -> list[float] | None:
    """Probabilities, without calibration, from which each class counts as present.

    None for a task whose decision is exactly one class.
    """
    task = tasks.get(restored.config.task)
    if task.exclusive:
        return None
    fitted = Calibration.read(restored.meta).raw_thresholds(task)
    if fitted is None:
        fitted = np.full(len(restored.model.classes), task.default_threshold)
    return [float(f"{threshold:.6g}") for threshold in fitted]
