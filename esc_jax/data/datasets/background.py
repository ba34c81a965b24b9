"""Sounds that are none of the classes: a folder of recordings without labels (data.background)."""

from typing import Any

from esc_jax.data import prepare, prepared
from esc_jax.data.clips import Clips
from esc_jax.data.layouts.unlabelled import UnlabelledLayout


def load(config: Any) -> Clips:
    """Loads data.background: windows of all recordings in the folder, without labels."""
    source = UnlabelledLayout(config.background)
    folder = prepare.prepared_dir(source, config.sample_rate, config.cache_dir, config.on_bad_clip)
    return prepared.open_prepared(folder, round(config.clip_s * config.sample_rate), source).windows()
