"""Data sets that are read from a folder or file in one of the layouts."""

from typing import Any

from esc_jax.data.layouts.registry import LAYOUTS, open_source
from esc_jax.data.rows import DataError, Layout


def open_layout(config: Any) -> Layout:
    """data.dir in the layout data.name."""
    if not config.dir:
        raise DataError(f"data.name={config.name}: give --config.data.dir=PATH, {LAYOUTS[config.name].place}")
    return open_source(config.dir, config)
