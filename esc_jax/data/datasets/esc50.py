"""ESC-50, ESC-10, and every data set in the layout of ESC-50."""

from typing import Any

from esc_jax.data import download
from esc_jax.data.cache import cache_root
from esc_jax.data.clips import Clips
from esc_jax.data.layouts.esc50 import Esc50Layout
from esc_jax.data.rows import Layout

# ESC-10: the classes of ESC-50 that it consists of, in its own order.
ESC10_TARGETS = (0, 1, 10, 11, 12, 20, 21, 38, 40, 41)


def open_layout(config: Any) -> Layout:
    """data.dir, or the official archive, which is downloaded first."""
    return Esc50Layout(config.dir or download.download(cache_root(config.cache_dir), config.url))


def esc10_clips(clips: Clips) -> Clips:
    """The ten classes of ESC-10 from ESC-50."""
    return clips.windows().subset(ESC10_TARGETS, "esc10")
