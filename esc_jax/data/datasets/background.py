"""Sounds that are none of the classes: a folder of recordings without labels (data.background)."""

from collections.abc import Iterator
import contextlib
from typing import Any

from esc_jax import files
from esc_jax.data.layouts.unlabelled import UnlabelledLayout
from esc_jax.data.rows import DataError, Layout


def open_layout(config: Any) -> Layout:
    """data.background, without labels."""
    background, data = (files.resolve(path) for path in (config.background, config.dir or "."))
    if config.dir and (background == data or background in data.parents or data in background.parents):
        raise DataError(
            f"data.background={config.background}: one of this folder and data.dir={config.dir} contains the other, so"
            " that sounds of the classes would be trained as none of them: move the background out of the data set"
        )
    with named_errors():
        return UnlabelledLayout(config.background)


@contextlib.contextmanager
def named_errors() -> Iterator[None]:
    """Errors about the background name its key in the config."""
    try:
        yield
    except DataError as error:
        text = str(error)
        raise type(error)(text if "data.background" in text else f"data.background: {text}") from None
