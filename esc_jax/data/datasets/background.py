"""Sounds that are none of the classes: a folder of recordings without labels (data.background)."""

from typing import Any

from esc_jax.data.clips import Clips
from esc_jax.data.datasets.esc50 import open_clips
from esc_jax.data.layouts.unlabelled import UnlabelledLayout


def load(config: Any) -> Clips:
    """Loads data.background: windows of all recordings in the folder, without labels."""
    return open_clips(UnlabelledLayout(config.background), config)
