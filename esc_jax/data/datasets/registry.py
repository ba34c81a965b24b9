"""Data sets by the name they have in a config (data.name)."""

from collections.abc import Callable
import dataclasses
import difflib
from typing import Any

from esc_jax.data.clips import Clips
from esc_jax.data.datasets import background, esc50, gtzan, recordings, synthetic
from esc_jax.data.rows import DataError

# name → function of `config.data`, which downloads, generates and prepares what is missing.
DATASETS: dict[str, Callable[[Any], Clips]] = {
    "esc50": esc50.load,
    "esc10": esc50.load_esc10,
    "gtzan": gtzan.load,
    "synthetic": synthetic.load,
    "synthetic_scenes": synthetic.load_scenes,
} | dict.fromkeys(recordings.PLACES, recordings.load)


def load(config: Any) -> Clips:
    """Loads the data set of `config.data`; downloads, generates and prepares it first where that was not done yet.

    Raises:
        DataError: the data set cannot be loaded; one sentence.
    """
    if config.name not in DATASETS:
        near = difflib.get_close_matches(config.name, DATASETS, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise DataError(f"data.name={config.name}: the data sets are {', '.join(DATASETS)}{hint}")
    clips = DATASETS[config.name](config)
    others = background.load(config) if config.background else None
    return dataclasses.replace(clips, mask_padding=config.mask_padding, background=others)
