"""GTZAN: windows of tracks."""

from typing import Any

from esc_jax.data.clips import Clips
from esc_jax.data.layouts import gtzan
from esc_jax.data.rows import DataError, Layout


def open_layout(config: Any) -> Layout:
    """data.dir. Whole tracks are prepared, so that windows of every length share one preparation."""
    if not config.dir:
        raise DataError(gtzan.MISSING)
    return gtzan.open_gtzan(config.dir)


def windows(clips: Clips) -> Clips:
    """Windows of all tracks, named by their start."""
    return clips.windows(name_all=True)
