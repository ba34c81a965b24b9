"""A run before its first step: config, data, model, and what its training is made of."""

from collections.abc import Callable, Hashable, Sequence
import dataclasses
import functools
import pathlib
import re
from typing import Any

from absl import logging
import jax
import numpy as np
import optax

from esc_jax.data import folds, pipeline
from esc_jax.data.clips import Clips
from esc_jax.data.resident import ResidentClips
from esc_jax.errors import ConfigError, name_some
from esc_jax.evaluation.predict import predict_clips
from esc_jax.experiments import calibrate, dataset, pretrain, probe, workdir
from esc_jax.experiments import teacher as teachers
from esc_jax.experiments.calibrate import Fitted
from esc_jax.inference import model_path
from esc_jax.models.model import Model, Variables
from esc_jax.objectives.distillation import Distillation, Teacher
from esc_jax.objectives.supervised import Supervised
from esc_jax.ops import eval_mode
from esc_jax.pretrained import audioset, load
from esc_jax.pretrained.audioset import AudioSetHead
from esc_jax.runtime import devices
from esc_jax.tasks.base import Task
from esc_jax.training import checkpoint, loop, optim
from esc_jax.training import state as states
from esc_jax.training import step as steps

Programs = dict[Hashable, Any]


@dataclasses.dataclass(frozen=True)
class Run:
    """A config with its data and its model.

    Attributes:
        config: with the encoder and frontend options of a published checkpoint.
        task: what the labels mean.
        clips, split: the data set, and which clips train and test.
        model: with the weights to start from, or to test.
        head: AudioSet head of the published checkpoint; None without one.
        teacher: of a distillation; None without one.
        resident: the clips on the devices; None reads batches from the host.
        programs: compiled programs by what they depend on beside the config. Runs that differ in seed and test fold
            only, as those of a cross-validation, share them.
    """

    config: Any
    task: Task
    clips: Clips
    split: folds.Split
    model: Model
    head: AudioSetHead | None = None
    teacher: Teacher | None = None
    resident: ResidentClips | None = None
    programs: Programs = dataclasses.field(default_factory=dict)

    def program(self, key: Hashable, create: Callable[[], Any]) -> Any:
        """`programs[key]`, created where there is none."""
        if key not in self.programs:
            self.programs[key] = create()
        return self.programs[key]

    @functools.cached_property
    def teacher_identity(self) -> dict[str, str]:
        """`Teacher.identity`; empty without a teacher."""
        return self.teacher.identity if self.teacher else {}

    @property
    def optim_config(self) -> Any:
        """`optim` of the config for its batch size."""
        return optim.for_batch(self.config.optim, self.config.train.batch_size)

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch."""
        return len(train_indices(self.clips, self.split)) // self.config.train.batch_size

    @property
    def total(self) -> int:
        """Steps of the training."""
        return self.per_epoch * self.config.train.epochs

    @functools.cached_property
    def class_weights(self) -> np.ndarray | None:
        """(classes,) of the loss; None weights all classes alike."""
        if self.config.train.class_balance != "loss":
            return None
        return self.task.class_weights(self.clips.labels[list(self.split.train)], len(self.clips.classes))

    @property
    def train_key(self) -> Hashable:
        """Key of the program of the training in `programs`.

        Folds may differ in size and thus in steps of an epoch, and have teachers of different architectures.
        """
        teacher = self.teacher.model if self.teacher else None
        return "train", self.per_epoch, teacher and repr((teacher.module, teacher.frontend, teacher.mask_padding))

    def objective(self) -> Supervised:
        """Of the training."""
        arguments = (self.config, self.model, self.task, self.class_weights, self.per_epoch)
        return Distillation(*arguments, teacher=self.teacher) if self.teacher else Supervised(*arguments)

    def train_batches(self, **options: Any) -> Any:
        """Batches of the training; `options` are those of `pipeline.train_batches`."""
        clips, indices, weights = self.clips.with_background(), train_indices(self.clips, self.split), None
        if self.config.train.class_balance == "sampling":
            weights = self.task.sampling_weights(clips.labels[list(indices)], len(clips.classes))
        batch_size, seed = self.config.train.batch_size, self.config.seed
        options |= {"weights": weights, "index_only": self.resident is not None}
        return pipeline.train_batches(clips, indices, batch_size, seed, **options)

    def optimizer(self) -> optax.GradientTransformation:
        """Of the training."""
        return optim.build(self.optim_config, self.model.variables["params"], self.total, self.per_epoch)

    def train_step(self, objective: Supervised, optimizer: optax.GradientTransformation) -> steps.TrainStep:
        """The step of the training."""
        train = self.config.train
        return steps.train_step(
            objective,
            optimizer,
            self.optim_config,
            ema=train.ema,
            accumulate=train.accumulate,
            eval_mode=self.config.model.eval_mode,
        )

    def outputs_of(self) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
        """(weights, indices) → logits (n, classes) and embeddings (n, D) of clips."""
        step = self.program("outputs", lambda: steps.outputs_step(self.model))
        batch_size = self.config.eval.batch_size

        def run(weights: Variables, indices: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
            logits, embeddings = predict_clips(step, weights, self.clips, indices, batch_size, self.resident)
            return logits[0], embeddings[0]

        return run

    def fit(self, outputs_of: Callable[..., tuple[np.ndarray, np.ndarray]], weights: Variables) -> Fitted:
        """What is fitted to trained weights; `outputs_of` as that of the run."""
        outputs = functools.partial(outputs_of, weights)
        return calibrate.fit(self.task, self.clips, self.split, outputs, self.head)


def train_indices(clips: Clips, split: folds.Split) -> tuple[int, ...]:
    """Indices of the training clips, those of the background included, in `clips.with_background()`."""
    background = len(clips.background) if clips.background else 0
    return (*split.train, *range(len(clips), len(clips) + background))


def prepare(config: Any, folder: pathlib.Path, programs: Programs | None = None) -> Run:
    """The run of a checked config before its first step. Nothing is written into the workdir.

    Args:
        config: of the run.
        folder: workdir, which may have a run on the same data.
        programs: of runs whose configs differ in seed and test fold only; extended.

    Raises:
        ConfigError, DataError, FrontendError, ModelError, ModelPathError, OptimError, PretrainedError: the config, the
            data or the weights cannot be used. OtherDataError: the run in the workdir was trained on other data.
    """
    model_path.check_weights("model.pretrained", config.model.pretrained)
    teachers.check(config)
    check = functools.partial(dataset.check_files, config.protocol, config.data.test_fold, folder)
    config, task, clips = dataset.load(config, check)
    workdir.check_clips(folder, clips)
    split = dataset.split_clips(config, clips)
    dataset.check_split(config, task, clips, split)
    logging.info("training on %s", devices.device_name())
    dataset.log_split(task, clips, split)
    if task.multi_hot and config.train.label_smoothing:
        logging.info(
            "config.train.label_smoothing=%g is not used: the loss of a multi-label task is the binary cross-entropy",
            config.train.label_smoothing,
        )
    with eval_mode.called_modules() as modules:
        config, model = load.initialize(config, clips.classes)
    pattern = config.model.eval_mode
    if pattern and not any(re.fullmatch(pattern, path) for path in modules):
        raise ConfigError(
            f"config.model.eval_mode={pattern} matches the path of no module; the paths of model.name="
            f"{config.model.name} are {name_some(list(modules), 6)}"
        )
    if config.pretrain.objective:
        pretrain.check(config, clips, split, model)
    head, teacher = audioset.head(config), teachers.load(config, task, clips, split)
    return Run(config, task, clips, split, model, head, teacher, programs={} if programs is None else programs)


def initial_variables(run: Run, variables: Variables) -> tuple[Variables, Callable[[Any], Any] | None]:
    """Variables that training starts from, and `Plan.finish`: `train.head_from_probe` and `train.wise_ft_alpha`."""
    if run.config.train.head_from_probe:
        model = run.model.with_variables(variables)
        variables, _ = probe.fit_head(run.config, run.task, run.clips, run.split, model)
    if run.config.train.wise_ft_alpha == 1:
        return variables, None
    start = jax.tree.map(np.array, variables)  # a copy, since the state of the training is donated
    return variables, functools.partial(states.interpolate, start, run.config.train.wise_ft_alpha)


def make_plan(run: Run, folder: pathlib.Path, **options: Any) -> loop.Plan:
    """The plan of the supervised training of a run; `options` replace fields of `loop.Plan`."""
    config = run.config
    defaults = {
        "epochs": config.train.epochs,
        "per_epoch": run.per_epoch,
        "rate": optim.schedule(run.optim_config, run.total, run.per_epoch),
        "workdir": folder,
        "tensorboard": config.train.tensorboard,
        "checkpoint_epochs": config.train.checkpoint_epochs,
        "meta": functools.partial(checkpoint.meta, config, run.clips, teacher=run.teacher_identity),
    }
    return loop.Plan(**(defaults | options))
