"""Sounds that are none of the classes: a folder of recordings without labels (data.background)."""

import pathlib
from typing import Any

from esc_jax.data.clips import Clips
from esc_jax.data.datasets.esc50 import open_clips
from esc_jax.data.layouts.unlabelled import UnlabelledLayout
from esc_jax.data.rows import DataError


def load(config: Any) -> Clips:
    """Loads data.background: windows of all recordings in the folder, without labels."""
    background, data = (pathlib.Path(path).expanduser().resolve() for path in (config.background, config.dir or "."))
    if config.dir and (background == data or background in data.parents or data in background.parents):
        raise DataError(
            f"data.background={config.background}: one of this folder and data.dir={config.dir} contains the other, so"
            " that sounds of the classes would be trained as none of them: move the background out of the data set"
        )
    try:
        return open_clips(UnlabelledLayout(config.background), config)
    except DataError as error:
        text = str(error)
        raise type(error)(text if "data.background" in text else f"data.background: {text}") from None
