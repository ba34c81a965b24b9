"""Layouts on disk, by their name or recognised by what a folder holds."""

from collections.abc import Callable, Mapping
import os
import pathlib
from typing import Any, NamedTuple

from esc_jax import files
from esc_jax.data import scenes
from esc_jax.data.layouts import audiofolder, csv_file, esc50, folder, fsd50k, gtzan, urbansound8k
from esc_jax.data.layouts.options import Options
from esc_jax.data.rows import DataError, Layout
from esc_jax.extensions import Registry


class LayoutType(NamedTuple):
    """How a layout is recognised and opened.

    Attributes:
        name: of the data set in a config, `data.name`.
        content: what a folder in this layout holds, for error messages.
        matches: whether a path, which need not exist, is in this layout.
        open: opens the path; raises DataError.
        place: what `data.dir` is, for error messages.
    """

    name: str
    content: str
    matches: Callable[[pathlib.Path], bool]
    open: Callable[[pathlib.Path, Options], Layout]
    place: str = "the folder of the data set"


_PUBLISHED = (
    LayoutType("esc50", esc50.CSV, esc50.matches, lambda path, options: esc50.Esc50Layout(path)),
    LayoutType(
        "urbansound8k",
        urbansound8k.CSV,
        urbansound8k.matches,
        urbansound8k.UrbanSound8kLayout,
        "the unpacked archive (metadata/UrbanSound8K.csv, audio/fold1 …), from https://urbansounddataset.weebly.com",
    ),
    LayoutType(
        "fsd50k",
        fsd50k.CSV,
        fsd50k.matches,
        fsd50k.Fsd50kLayout,
        "the folder with FSD50K.ground_truth, FSD50K.dev_audio and FSD50K.eval_audio, from"
        " https://zenodo.org/records/4060432",
    ),
    LayoutType("gtzan", "the folder genres", gtzan.matches, lambda path, options: gtzan.open_gtzan(path)),
)
_GENERAL = (
    LayoutType(
        "audiofolder",
        f"{audiofolder.TABLE} or split folders",
        audiofolder.matches,
        audiofolder.AudioFolderLayout,
        "a folder in the audiofolder layout of Hugging Face: metadata.csv, or class folders in splits",
    ),
    LayoutType(
        "csv",
        "one csv with columns of files and labels",
        csv_file.matches,
        csv_file.CsvLayout,
        "a csv file with columns such as filename and label, or a folder with one",
    ),
    LayoutType(
        "folder",
        "folders of audio files, one for each class",
        folder.matches,
        folder.FolderLayout,
        "the folder with one folder of audio files per class",
    ),
)
LAYOUTS: Registry[LayoutType] = Registry("esc_jax.layouts", {layout.name: layout for layout in _PUBLISHED + _GENERAL})
# data.name of subsets and of generated data → name of their layout.
_ALIASES = {"esc10": "esc50", "synthetic": "esc50", "synthetic_scenes": "csv"}


def recognize(path: str | os.PathLike[str]) -> LayoutType:
    """Returns the layout of the data set at `path`.

    Raises:
        DataError: it is in none of the layouts.
    """
    root = files.expand(path)
    layouts = sorted(LAYOUTS.values(), key=_GENERAL.__contains__)
    for layout in layouts:  # the first match is used
        if layout.matches(root):
            return layout
    contents = ", ".join(layout.content for layout in layouts)
    raise DataError(f"data.dir: {root} is in none of the known layouts, which hold: {contents}")


def open_source(path: str | os.PathLike[str], data: Mapping[str, Any] | None = None) -> Layout:
    """Opens the data set at `path`.

    Args:
        path: folder, archive or csv file.
        data: `config.data`, with the name of the layout and its options. Without a name, the layout is recognised.

    Raises:
        DataError: the path does not exist, is in none of the layouts, or its content is wrong.
    """
    options = Options.read(data or {})
    name = (data or {}).get("name", "")
    path = files.expand(path)
    if name == "synthetic_scenes":
        path = path / scenes.TABLE
    layout = LAYOUTS.get(_ALIASES.get(name, name)) or recognize(path)
    return layout.open(path, options)
