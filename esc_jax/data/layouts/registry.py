"""Layouts on disk, recognised by what a folder holds."""

from collections.abc import Callable
import os
import pathlib
from typing import NamedTuple

from esc_jax.data.layouts import esc50, gtzan
from esc_jax.data.rows import DataError, Layout


class LayoutType(NamedTuple):
    """How a layout is recognised and opened.

    Attributes:
        content: what a folder in this layout holds, for error messages.
        matches: whether a path, which need not exist, is in this layout.
        open: opens the path; raises DataError.
    """

    content: str
    matches: Callable[[pathlib.Path], bool]
    open: Callable[[pathlib.Path], Layout]


# The first match is used.
LAYOUTS = (
    LayoutType(esc50.CSV, esc50.matches, esc50.Esc50Layout),
    LayoutType("folders of audio files, one for each class", gtzan.matches, gtzan.open_gtzan),
)


def open_source(path: str | os.PathLike[str]) -> Layout:
    """Opens the data set at `path`, in whichever layout it is.

    Raises:
        DataError: the path does not exist, is in none of the layouts, or its content is wrong.
    """
    root = pathlib.Path(path).expanduser()
    for layout in LAYOUTS:
        if layout.matches(root):
            return layout.open(root)
    contents = " nor ".join(layout.content for layout in LAYOUTS)
    raise DataError(f"data.dir: {root} is in none of the known layouts: it holds neither {contents}")
