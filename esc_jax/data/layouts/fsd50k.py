"""FSD50K in its official layout: multi-label.

FSD50K.ground_truth/dev.csv          fname, labels, mids, split (train or val)
FSD50K.ground_truth/eval.csv         fname, labels, mids
FSD50K.ground_truth/vocabulary.csv   class index, name, id in AudioSet; no header
FSD50K.dev_audio/, FSD50K.eval_audio/
"""

import csv
import os
import pathlib

from esc_jax.data.layouts import splits
from esc_jax.data.layouts.file_layout import Entries, FileLayout, find_root, resolve
from esc_jax.data.layouts.lookup import Lookup, find_files
from esc_jax.data.layouts.options import Options
from esc_jax.data.layouts.table import Table
from esc_jax.data.rows import About, DataError, Grouping

TRUTH = "FSD50K.ground_truth"
CSV = f"{TRUTH}/dev.csv"
_ABOUT = About(
    description="Sound events: 51,197 clips of up to 30 seconds, 200 classes of AudioSet, several per clip.",
    homepage="https://zenodo.org/records/4060432",
    citation="""\
@article{fonseca2022fsd50k,
  title = {{FSD50K}: An Open Dataset of Human-Labeled Sound Events},
  author = {Fonseca, Eduardo and Favory, Xavier and Pons, Jordi and Font, Frederic and Serra, Xavier},
  journal = {IEEE/ACM Transactions on Audio, Speech, and Language Processing},
  volume = {30},
  pages = {829--852},
  year = {2022}
}""",
    license="CC BY 4.0 as a collection; every clip has a Creative Commons licence of its own",
)


def matches(path: pathlib.Path) -> bool:
    """Whether a folder, or the only one in it, contains FSD50K.ground_truth/dev.csv."""
    return find_root(path, CSV) is not None


class Fsd50kLayout(FileLayout):
    """Rows and audio files of FSD50K; see `rows.Layout`. Fold 1 is the split val, fold 2 train, fold 3 eval.

    Args:
        path: the folder with the four parts, or the one that contains it.
        options: not used: the data set has splits, and every clip is a recording of its own.

    Raises:
        DataError: the folder is in another layout, or a file is missing.
    """

    def __init__(self, path: str | os.PathLike[str], options: Options = Options()):
        given = resolve(path)
        root = find_root(given, CSV)
        if root is None:
            raise DataError(f"data.dir: {given} has no {CSV}, so it is not in the layout of FSD50K")
        classes = _vocabulary(root)
        known = set(classes)
        names: list[str] = []
        paths: dict[str, str] = {}
        labels: list[tuple[str, ...]] = []
        folds: list[int] = []
        sources: list[str] = []
        for part in ("dev", "eval"):
            table = Table(root / TRUTH / f"{part}.csv")
            needed = ["fname", "labels", *(["split"] if part == "dev" else [])]
            if absent := [name for name in needed if name not in table.columns]:
                raise DataError(f"{table.path} has no column {', '.join(absent)} (it has {', '.join(table.columns)})")
            lines, values = table.read(needed)
            folder = f"FSD50K.{part}_audio"
            part_names, part_paths = find_files(
                values["fname"], lines, table.path, Lookup(root / folder).find, [root / folder]
            )
            part_labels = [tuple(cell.split(",")) if cell else () for cell in values["labels"]]
            for line, present in zip(lines, part_labels, strict=True):
                if unknown := [name for name in present if name not in known]:
                    raise DataError(f"{table.path}, line {line}: {unknown[0]} is not in vocabulary.csv")
            split = values.get("split", ["eval"] * len(lines))
            names += [f"{folder}/{name}" for name in part_names]
            paths |= {f"{folder}/{name}": path for name, path in part_paths.items()}
            labels += part_labels
            folds += splits.parse_folds(split, lines, f"column split of {table.path}")
            sources += values["fname"]
        grouping = Grouping("column", "every clip is a Freesound recording of its own (fname)")
        entries = Entries(names, paths, labels, folds, sources, grouping=grouping, multi_label=True, classes=classes)
        super().__init__(root, entries, options, _ABOUT)


def _vocabulary(root: pathlib.Path) -> list[str]:
    """Class names by index."""
    path = root / TRUTH / "vocabulary.csv"
    try:
        if not path.is_file():
            raise ValueError("not a file")
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = sorted((int(row[0]), row[1]) for row in csv.reader(file) if row)
    except (OSError, ValueError, IndexError, csv.Error):
        raise DataError(f"data.dir: {path} cannot be read: expected lines of index, name and id") from None
    return [name for _, name in rows]
