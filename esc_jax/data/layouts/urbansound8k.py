"""UrbanSound8K in its official layout.

metadata/UrbanSound8K.csv      slice_file_name, fsID, start, end, salience, fold, classID, class
audio/fold1/ … audio/fold10/   the files
"""

import os
import pathlib

from esc_jax.data.layouts import splits
from esc_jax.data.layouts.file_layout import Entries, FileLayout, find_root, resolve
from esc_jax.data.layouts.lookup import Lookup, find_files
from esc_jax.data.layouts.options import Options
from esc_jax.data.layouts.table import Table
from esc_jax.data.rows import About, DataError, Grouping

CSV = "metadata/UrbanSound8K.csv"
_COLUMNS = ("slice_file_name", "fsID", "fold", "classID", "class")
_ABOUT = About(
    description="Urban sounds: 8,732 clips of up to four seconds, 10 classes, ten folds.",
    homepage="https://urbansounddataset.weebly.com/urbansound8k.html",
    citation="""\
@inproceedings{salamon2014dataset,
  title = {A Dataset and Taxonomy for Urban Sound Research},
  author = {Salamon, Justin and Jacoby, Christopher and Bello, Juan Pablo},
  booktitle = {Proceedings of the 22nd ACM International Conference on Multimedia},
  pages = {1041--1044},
  year = {2014},
  doi = {10.1145/2647868.2655045}
}""",
    license="CC BY-NC 3.0",
)


def matches(path: pathlib.Path) -> bool:
    """Whether a folder, or the only one in it, contains metadata/UrbanSound8K.csv."""
    return find_root(path, CSV) is not None


class UrbanSound8kLayout(FileLayout):
    """Rows and audio files of UrbanSound8K; see `rows.Layout`.

    Args:
        path: the folder UrbanSound8K, or the one that contains it.
        options: not used: the data set has folds and names its recordings.

    Raises:
        DataError: the folder is in another layout, or a file is missing.
    """

    def __init__(self, path: str | os.PathLike[str], options: Options = Options()):
        given = resolve(path)
        root = find_root(given, CSV)
        if root is None:
            raise DataError(f"data.dir: {given} has no {CSV}, so it is not in the layout of UrbanSound8K")
        table = Table(root / CSV)
        if absent := [name for name in _COLUMNS if name not in table.columns]:
            raise DataError(f"{table.path} has no column {', '.join(absent)} (it has {', '.join(table.columns)})")
        lines, values = table.read(_COLUMNS)
        folds = splits.parse_folds(values["fold"], lines, f"column fold of {table.path}")
        files = [f"fold{fold}/{name}" for fold, name in zip(folds, values["slice_file_name"], strict=True)]
        names, paths = find_files(files, lines, table.path, Lookup(root / "audio").find, [root / "audio"])
        classes = sorted(set(zip(values["classID"], values["class"], strict=True)), key=lambda c: (len(c[0]), c))
        sources = values["fsID"]
        entries = Entries(
            names, paths, [(name,) for name in values["class"]],
            folds=folds,
            sources=sources,
            grouping=Grouping("column", f"{len(set(sources))} source recordings, from column fsID"),
            classes=[name for _, name in classes],
        )  # fmt: skip
        super().__init__(root, entries, options, _ABOUT)
