"""The data set of a run, and the task that its labels are for."""

from collections.abc import Sequence
import copy
import pathlib
from typing import Any

from absl import logging

from esc_jax.data import folds
from esc_jax.data.clips import Clips
from esc_jax.data.datasets import registry as datasets
from esc_jax.data.datasets.registry import Check
from esc_jax.data.rows import DataError, Layout
from esc_jax.errors import ConfigError
from esc_jax.experiments import workdir as workdirs
from esc_jax.runtime import processes
from esc_jax.tasks import registry as tasks
from esc_jax.tasks.base import Task


def load(config: Any, check: Check | None = None) -> tuple[Any, Task, Clips]:
    """Loads the data of a config, with labels in the form of its task.

    Args:
        config: of the run; not modified.
        check: of the files, before they are prepared.

    Returns:
        The config with the name of the task in the place of "auto", the task, and the data set.

    Raises:
        DataError: the data cannot be loaded.
        ConfigError: the task cannot be that of these labels.
    """
    with processes.main_process_first("data preparation"):
        clips = datasets.load(config.data, check)
    config = copy.deepcopy(config)
    if config.task == "auto":
        config.task = clips.task
    task = tasks.get(config.task)
    if clips.multi_hot and not task.multi_hot:
        raise ConfigError(
            f"config.task={task.name}: the clips of this data set have any number of classes; use"
            " --config.task=multi_label, or --config.data.label_separator= if a label contains its separator"
        )
    return config, task, clips.as_multi_label() if task.multi_hot and not clips.multi_hot else clips


def check_files(
    protocol: str, test_fold: int, workdir: pathlib.Path, source: Layout, background: Layout | None
) -> None:
    """Checks the files of a data set before they are prepared.

    Args:
        protocol, test_fold: of the run.
        workdir: of the run.
        source: the data set.
        background: sounds of none of the classes.

    Raises:
        DataError: there is no such test fold.
        OtherDataError: a run in the workdir was trained on other data.
    """
    workdirs.check_files(workdir, source, background)
    folds.split([row.fold for row in source.rows], [row.src_file for row in source.rows], protocol, test_fold)


def split_clips(config: Any, clips: Clips) -> folds.Split:
    """The split of a config. Raises DataError."""
    split = folds.split(
        clips.folds, clips.sources, config.protocol, config.data.test_fold, config.data.drop_leaky_sources
    )
    if not config.train.calibration_share:
        return split
    return folds.hold_out(split, clips.sources, clips.targets, config.train.calibration_share)


def check_split(config: Any, task: Task, clips: Clips, split: folds.Split) -> None:
    """Checks that a run can train and test on the parts of a split.

    Raises:
        DataError: no clip of a part has a class.
        ConfigError: a batch is larger than the training part, or it has too few folds.
    """

    def lacks_classes(part: Sequence[int]) -> bool:
        return bool(part) and not task.class_counts(clips.labels[list(part)], len(clips.classes)).any()

    parts = {"training folds": split.train, "validation fold": split.validation, "test fold": split.test}
    for name, part in parts.items():
        if lacks_classes(part):
            number = f" {split.test_folds[0]}" if part is split.test else ""
            raise DataError(
                f"no clip of the {name}{number} has a class, so that there is nothing to learn or to measure: choose"
                " others with --config.data.test_fold, or --config.crossval.folds for a cross-validation"
            )
    if lacks_classes(split.calibration):
        raise DataError(
            f"no clip that train.calibration_share={config.train.calibration_share:g} holds out has a class: raise it,"
            " or set it to 0"
        )
    if config.method == "train" and config.train.head_from_probe and len({clips.folds[i] for i in split.train}) < 2:
        raise ConfigError(
            "config.train.head_from_probe needs at least two training folds, inside which the regularization of the"
            " probe is chosen"
        )
    if config.method == "train" and len(split.train) < config.train.batch_size:
        raise ConfigError(
            f"config.train.batch_size={config.train.batch_size} is larger than the number of training clips,"
            f" {len(split.train)}"
        )


def log_split(task: Task, clips: Clips, split: folds.Split) -> None:
    """Logs the parts of a split, and warns of classes that are tested and not trained."""
    logging.info("%s", split.report())
    trained, tested = (task.class_counts(clips.labels[list(p)], len(clips.classes)) for p in (split.train, split.test))
    counts = zip(clips.classes, trained, tested, strict=True)
    if missing := [name for name, train, test in counts if test and not train]:
        logging.warning("no training clip has one of the test classes %s", ", ".join(missing))
