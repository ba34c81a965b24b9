"""A folder per class, with audio files at any depth.

rain/garden-01.wav   rain/2024/roof.FLAC   traffic/street.mp3 …
"""

import os
import pathlib

from absl import logging

from esc_jax.data.layouts import splits
from esc_jax.data.layouts.class_folders import AudioTree, audio_files, audio_tree, nfc
from esc_jax.data.layouts.file_layout import Entries, FileLayout, resolve
from esc_jax.data.layouts.options import Options
from esc_jax.data.rows import DataError


def matches(path: pathlib.Path) -> bool:
    """Whether a folder in `path` contains audio files."""
    if not path.is_dir():
        return False
    walk = ((folder, names) for folder, _, names in os.walk(path) if not os.path.basename(folder).startswith("."))
    return any(audio_files(names) for folder, names in walk if pathlib.Path(folder) != path)


def find_classes(root: pathlib.Path, tree: AudioTree) -> list[str]:
    """Returns the names of the files that lie in a folder of `root`, and logs what is not used.

    Raises:
        DataError: there are none.
    """
    names = [name for name in tree.files if "/" in name]
    loose = [name for name in tree.files if "/" not in name]
    if not names:
        others = ", ".join(f"{number} × {suffix}" for suffix, number in tree.others.most_common(5))
        raise DataError(
            f"data.dir: {root} has {f'{len(loose)} audio files but' if loose else 'no audio files and'} no folders with"
            f" audio files{f' (other files: {others})' if others else ''}: put the audio files of each class into a"
            " folder that is called like the class, or list them in a csv (data.name=csv)"
        )
    if loose:
        logging.warning(
            "%d audio files, such as %s, are not used: they lie in no class folder of %s", len(loose), loose[0], root
        )
    if tree.others:
        listed = ", ".join(f"{number} × {suffix}" for suffix, number in tree.others.most_common(5))
        logging.info(
            "files that are not used, because their names are not those of audio files: %d (%s)",
            tree.others.total(),
            listed,
        )
    return names


class FolderLayout(FileLayout):
    """Rows and audio files of class folders; see `rows.Layout`.

    Args:
        path: the folder.
        options: how files are grouped, and how many folds are assigned.

    Raises:
        DataError: the folder does not exist, cannot be read, or has fewer than two class folders.
    """

    def __init__(self, path: str | os.PathLike[str], options: Options = Options()):
        root = resolve(path)
        if not root.is_dir():
            raise DataError(
                f"data.dir: {root} is not a folder; unpack an archive, and use data.name=csv for a csv file"
            )
        tree = audio_tree(root)
        names = find_classes(root, tree)
        classes = {name.split("/")[0] for name in names}
        if splits.all_splits(classes):
            raise DataError(
                f"data.dir: the folders in {root} are splits ({', '.join(sorted(classes))}), not classes: use"
                " data.name=audiofolder"
            )
        if len(classes) == 1:
            (only,) = classes
            inner = any(name.count("/") > 1 for name in names)
            hint = f"; if the classes are the folders in it, use --config.data.dir={root / only}" if inner else ""
            raise DataError(
                f"data.dir: {root} has one class folder, {only}; at least two are needed, such as the sound and"
                f" everything else{hint}"
            )
        empty = sorted(
            entry.name for entry in os.scandir(root)
            if entry.is_dir() and not entry.name.startswith(".") and nfc(entry.name) not in classes
        )  # fmt: skip
        if empty:
            logging.warning("folders without audio files are no classes: %s", ", ".join(empty))
        super().__init__(root, Entries(names, tree.files, [(name.split("/")[0],) for name in names]), options)
