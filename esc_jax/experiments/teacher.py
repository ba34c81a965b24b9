"""The teacher of a distillation: a run, or a published encoder with a head that is fitted to the training clips."""

from collections.abc import Mapping
import pathlib
from typing import Any

from absl import logging
import ml_collections

from esc_jax import files
from esc_jax.data import folds
from esc_jax.data.clips import Clips
from esc_jax.errors import ConfigError, counted
from esc_jax.evaluation.calibration import Calibration
from esc_jax.experiments import dataset, probe
from esc_jax.inference import model_path
from esc_jax.objectives.distillation import Teacher
from esc_jax.pretrained import load as pretrained
from esc_jax.pretrained import merge
from esc_jax.pretrained.registry import TRAINED_ON
from esc_jax.tasks.base import Task
from esc_jax.training import checkpoint
from esc_jax.training import restore as restores
from esc_jax.training.restore import Restored


def check(config: Any) -> None:
    """Checks the teachers of a config before any data are prepared.

    Raises:
        ConfigError: there is no such teacher, or it has the wrong sample rate or test fold.
        CheckpointError, ModelPathError: it cannot be read.
    """
    path = config.distill.teacher
    model_path.check_weights("distill.teacher", path, runs=True)
    model_path.check_weights("pretrain.teacher", config.pretrain.get("teacher", ""), runs=True)
    if not path:
        return
    folder = run_folder(path, config)
    if folder is None:
        model_path.check_name(path)
        if not model_path.is_published(path):
            raise ConfigError(f"config.distill.teacher={path}: no such run or published encoder")
        return
    meta = checkpoint.read_meta(*checkpoint.find(folder))
    restores.check_meta(meta)
    trained, key = meta["config"], f"config.distill.teacher={folder}"
    if trained["data"]["sample_rate"] != config.data.sample_rate:
        rate = trained["data"]["sample_rate"]
        raise ConfigError(f"{key} has the sample rate {rate} Hz: set config.data.sample_rate to it")
    _check_protocol(key, trained, config)


def check_run(key: str, folder: pathlib.Path, config: Any, clips: Clips, split: folds.Split) -> None:
    """Checks that a run from which something is learned has seen training clips of this run only.

    A run on other data passes.

    Args:
        key: of the config, with the folder, for messages.
        folder: of the run.
        config, clips, split: of this run.

    Raises:
        ConfigError: it was trained on, or selected on, clips that this run holds out.
        CheckpointError: it cannot be read.
    """
    meta = checkpoint.read_meta(*checkpoint.find(folder))
    restores.check_meta(meta)
    if _files_of(meta.get("data", "")) != _files_of(clips.identity):
        return
    _check_protocol(key, meta["config"], config)
    _check_training_clips(key, ml_collections.ConfigDict(meta["config"]), clips, split)


def _files_of(identity: str) -> str:
    """Fingerprint of the files in `Clips.identity`, which adds how the clips were made from them."""
    return identity.split("+")[0].split("-")[0]


def _check_protocol(key: str, trained: Mapping[str, Any], config: Any) -> None:
    """Raises ConfigError where a run with the config `trained` has seen test clips of the run of `config`."""
    if trained.get("protocol") == "oracle":
        raise ConfigError(f"{key} was selected on its test fold (protocol oracle), so that a student cannot be tested")
    if config.protocol != "all" and trained.get("protocol") == "all":
        raise ConfigError(f"{key} was trained on every clip, with those of the test fold among them")
    if config.protocol != "all" and trained["data"]["test_fold"] != config.data.test_fold:
        raise ConfigError(
            f"{key} was trained with clips of the test fold {config.data.test_fold}: take a run with"
            f" --config.data.test_fold={config.data.test_fold}, or a cross-validation"
        )


def load(config: Any, task: Task, clips: Clips, split: folds.Split) -> Teacher | None:
    """The teacher of a config; None without.

    A run must have been trained on training clips of this run only. Of a cross-validation, the run with the same test
    fold is the teacher. A published encoder gets the head of a linear probe on the training clips.

    Args:
        config: of the run.
        task: of the labels.
        clips, split: the data set, and which clips train and test.

    Raises:
        ConfigError: the teacher was trained on other clips, or has other classes, another task or another sample rate.
        CheckpointError, PretrainedError: it cannot be read.
    """
    path = config.distill.teacher
    if not path:
        return None
    check(config)
    if folder := run_folder(path, config):
        return _of_run(task, clips, split, folder)
    encoder = pretrained.load_published(path, config.data.sample_rate, config.data.clip_s, clips.classes)
    logging.info("teacher: %s with a linear probe on the training clips", path)
    variables, calibration = probe.fit_head(config, task, clips, split, encoder)
    name = _published_name(path, merge.identify(path).architecture)
    return Teacher(encoder.with_variables(variables), calibration.temperature or 1.0, name)


def run_folder(path: str, config: Any) -> pathlib.Path | None:
    """Work directory of a teacher that is a run: itself, or the run of a cross-validation with the same test fold."""
    folder, fold = files.expand(path), config.data.test_fold
    of_seeds = sorted(folder.glob(f"fold{fold}_seed*")) if folder.is_dir() else []
    candidates = [folder / f"fold{fold}_seed{config.seed}", folder / f"fold{fold}", *of_seeds[:1], folder]
    return next((candidate for candidate in candidates if model_path.is_run(candidate)), None)


def _of_run(task: Task, clips: Clips, split: folds.Split, folder: pathlib.Path) -> Teacher:
    restored = restores.restore(folder)
    key, trained = f"config.distill.teacher={folder}", restored.config
    if restored.model.classes != tuple(clips.classes):
        raise ConfigError(f"{key} has other classes than the data")
    if trained.task != task.name:
        raise ConfigError(f"{key} is of the task {trained.task}, and the run of the task {task.name}")
    # Sounds of the background are in no test: the teacher may have been trained with others, or with none.
    if restored.meta["data"].split("+")[0] != clips.fingerprint:
        raise ConfigError(f"{key} was trained on other data than data.dir contains: take a run on this data set")
    _check_training_clips(key, trained, clips, split)
    return Teacher(restored.model, Calibration.read(restored.meta).temperature or 1.0, _name_of_run(restored, folder))


def _check_training_clips(key: str, trained: Any, clips: Clips, split: folds.Split) -> None:
    """Raises ConfigError where a run with the config `trained` was trained on clips that a split holds out."""
    if other := set(dataset.split_clips(trained, clips).train) - set(split.train):
        raise ConfigError(
            f"{key} was trained on {counted(len(other), 'clip')} that this run holds out: train the teacher with the"
            " same protocol, data.drop_leaky_sources and train.calibration_share"
        )


def _name_of_run(restored: Restored, folder: pathlib.Path) -> str:
    config = restored.config
    name = f"{config.experiment or config.model.name} in {folder.resolve().name}"
    if config.model.pretrained:
        name += f" from {_published_name(config.model.pretrained, config.model.name)}"
    return name


def _published_name(path: str, architecture: str) -> str:
    """Name of a published checkpoint, with its data where they are known: "mn04_as (AudioSet)"."""
    name, data = pathlib.PurePath(path).name, TRAINED_ON.get(architecture)
    return f"{name} ({data})" if data else name
