"""Thresholds of the probabilities that an export computes."""

import numpy as np

from esc_jax.evaluation.calibration import Calibration
from esc_jax.tasks import registry as tasks
from esc_jax.training.restore import Restored


def read_thresholds(restored: Restored, calibrated: bool) -> list[float] | None:
    """Probabilities from which each class counts as present; None for a task whose decision is exactly one class.

    Args:
        restored: model of a run.
        calibrated: whether the probabilities are those after the temperature.
    """
    task = tasks.get(restored.config.task)
    if task.exclusive:
        return None
    calibration = Calibration.read(restored.meta)
    fitted = calibration.raw_thresholds(task)
    if calibrated and calibration.thresholds is not None:
        fitted = np.array(calibration.thresholds)
    if fitted is None:
        fitted = np.full(len(restored.model.classes), task.default_threshold)
    return [float(f"{threshold:.6g}") for threshold in fitted]
