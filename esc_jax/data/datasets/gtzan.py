"""GTZAN: windows of tracks."""

from typing import Any

from esc_jax.data import prepare, prepared
from esc_jax.data.clips import Clips
from esc_jax.data.layouts import gtzan
from esc_jax.data.rows import DataError


def load(config: Any) -> Clips:
    """Loads data.dir. Whole tracks are prepared, so that windows of every length share one preparation."""
    if not config.dir:
        raise DataError(gtzan.MISSING)
    source = gtzan.open_gtzan(config.dir)
    folder = prepare.prepared_dir(source, config.sample_rate, config.cache_dir, config.on_bad_clip)
    return prepared.open_prepared(folder, round(config.clip_s * config.sample_rate), source).windows(name_all=True)
