"""Timelines for tests of what is made of them."""

import numpy as np

from esc_jax.inference.timeline import Timeline
from esc_jax.tasks import registry as tasks

CLASSES = ("rain", "sea_waves", "dog")


def make_timeline(unfamiliar=False, duration_s=17.0):
    """Seven windows of 4 s every 2 s, and one that ends at 17 s; the fifth is silent.

    Args:
        unfamiliar: whether the last three windows are.
        duration_s: of the recording.
    """
    starts = np.array([0.0, 2, 4, 6, 8, 10, 12, 13])
    probabilities = np.full((8, 3), 0.1, np.float32)
    probabilities[np.arange(8), [0, 0, 1, 1, 1, 2, 0, 0]] = 0.8
    return Timeline(
        classes=CLASSES,
        starts=starts,
        ends=starts + 4,
        probabilities=probabilities,
        level_db=np.zeros(8),
        silent=np.arange(8) == 4,
        unfamiliar=(np.arange(8) > 4) & unfamiliar,
        duration_s=duration_s,
        task=tasks.get("single_label"),
    )
