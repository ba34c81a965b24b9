"""ESC-50, ESC-10, and every data set in the layout of ESC-50."""

from typing import Any

from esc_jax.data import download, prepare, prepared
from esc_jax.data.cache import cache_root
from esc_jax.data.clips import Clips
from esc_jax.data.layouts.esc50 import Esc50Layout
from esc_jax.data.rows import Layout

# ESC-10: the classes of ESC-50 that it consists of, in its own order.
ESC10_TARGETS = (0, 1, 10, 11, 12, 20, 21, 38, 40, 41)


def open_clips(source: Layout, config: Any) -> Clips:
    """Prepares and opens a data set; files of at least one and a half clips are cut into windows.

    Args:
        source: the data set on disk.
        config: `config.data`.
    """
    folder = prepare.prepared_dir(source, config.sample_rate, config.cache_dir, config.on_bad_clip)
    return prepared.open_prepared(folder, round(config.clip_s * config.sample_rate), source).windows()


def load(config: Any) -> Clips:
    """Loads data.dir, or the official archive, which is downloaded first."""
    return open_clips(Esc50Layout(config.dir or download.download(cache_root(config.cache_dir), config.url)), config)


def load_esc10(config: Any) -> Clips:
    """Loads the ten classes of ESC-10 from ESC-50."""
    return load(config).subset(ESC10_TARGETS, "esc10")
