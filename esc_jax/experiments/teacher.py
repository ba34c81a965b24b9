"""The teacher of a distillation: a run, or a published encoder with a head that is fitted to the training clips."""

import pathlib
from typing import Any

from absl import logging

from esc_jax.data import folds
from esc_jax.data.clips import Clips
from esc_jax.errors import ConfigError
from esc_jax.evaluation.calibration import Calibration
from esc_jax.experiments import probe
from esc_jax.inference import model_path
from esc_jax.objectives.distillation import Teacher
from esc_jax.pretrained import load as pretrained
from esc_jax.pretrained import merge
from esc_jax.pretrained.registry import TRAINED_ON
from esc_jax.tasks.base import Task
from esc_jax.training import checkpoint
from esc_jax.training import restore as restores


def load(config: Any, task: Task, clips: Clips, split: folds.Split) -> Teacher | None:
    """The teacher of a config, with its calibration; None without.

    A run must have been trained on the same data with the same test fold. Of a cross-validation, the run with that test
    fold is the teacher. A published encoder gets the head of a linear probe on the training clips.

    Args:
        config: of the run.
        task: of the labels.
        clips, split: the data set, and which clips train and test.

    Raises:
        ConfigError: the teacher has seen test clips, or other classes or another sample rate than the run.
        CheckpointError, PretrainedError: it cannot be read.
    """
    path = config.distill.teacher
    if not path:
        return None
    folder = pathlib.Path(path).expanduser()
    of_fold = folder / f"fold{config.data.test_fold}"
    if model_path.is_run(of_fold):
        return _of_run(config, clips, of_fold)
    if model_path.is_run(folder):
        return _of_run(config, clips, folder)
    model_path.check_name(path)
    encoder = pretrained.load_published(path, config.data.sample_rate, config.data.clip_s, clips.classes)
    logging.info("teacher: %s with a linear probe on the training clips", path)
    variables, calibration = probe.with_head(config, task, clips, split, encoder)
    return Teacher(encoder.with_variables(variables), calibration.temperature or 1.0, _published_name(path))


def _published_name(path: str) -> str:
    architecture = merge.identify(path).architecture
    return f"{pathlib.PurePath(path).name} ({TRAINED_ON[architecture]})"


def _of_run(config: Any, clips: Clips, folder: pathlib.Path) -> Teacher:
    restored = restores.restore(folder)
    key, trained = f"config.distill.teacher={folder}", restored.config
    if restored.model.classes != tuple(clips.classes):
        raise ConfigError(f"{key} has other classes than the data")
    if restored.model.sample_rate != config.data.sample_rate:
        raise ConfigError(
            f"{key} has the sample rate {restored.model.sample_rate} Hz: set config.data.sample_rate to it"
        )
    checkpoint.check_data(restored.meta["data"], clips.identity, folder)
    description = trained.experiment or trained.model.name
    if trained.model.pretrained:
        description += f" from {pathlib.PurePath(trained.model.pretrained).name} ({TRAINED_ON[trained.model.name]})"
    teacher = Teacher(restored.model, Calibration.read(restored.meta).temperature or 1.0, description)
    if config.protocol == "all":
        return teacher
    if trained.protocol == "all" or trained.data.test_fold != config.data.test_fold:
        fold = "every clip" if trained.protocol == "all" else f"all folds but {trained.data.test_fold}"
        raise ConfigError(
            f"{key} was trained on {fold}, with clips of the test fold {config.data.test_fold} among them: take a run"
            f" with --config.data.test_fold={config.data.test_fold}, or a cross-validation"
        )
    return teacher
