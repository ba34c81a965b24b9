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


def make_scene(**changes):
    """Eight windows of 4 s every 2 s of a multi-label model: rain, rain and a dog, nothing, silence, a dog."""
    starts = np.arange(0.0, 16.0, 2)
    probabilities = np.full((8, 3), 0.05, np.float32)
    probabilities[[0, 1, 2, 3], 0], probabilities[[2, 3, 6, 7], 2] = 0.8, 0.3
    arguments = {
        "classes": CLASSES, "starts": starts, "ends": starts + 4, "probabilities": probabilities,
        "level_db": np.zeros(8), "silent": np.arange(8) == 5, "unfamiliar": np.zeros(8, bool), "duration_s": 18.0,
        "task": tasks.get("multi_label"), "thresholds": np.array([0.6, 0.5, 0.2]),
    }  # fmt: skip
    return Timeline(**(arguments | changes))
