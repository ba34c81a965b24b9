"""One run: data, model, training, checkpoints, evaluation."""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import math
import pathlib
from typing import Any

from absl import logging
import jax
import numpy as np
import optax

from esc_jax import config as configs
from esc_jax.augment.views import Views
from esc_jax.data import folds, pipeline
from esc_jax.data import resident as residents
from esc_jax.data.clips import Clips
from esc_jax.data.resident import ResidentClips
from esc_jax.errors import ConfigError
from esc_jax.evaluation import calibration, results
from esc_jax.evaluation.calibration import Calibration
from esc_jax.evaluation.predict import predict_clips
from esc_jax.experiments import calibrate, crossval_quote, dataset, pretrain, probe, stage, workdir
from esc_jax.experiments import teacher as teachers
from esc_jax.experiments.artifacts import write_artifacts
from esc_jax.experiments.calibrate import Fitted
from esc_jax.models.model import Model, Variables
from esc_jax.objectives.distillation import Distillation, Teacher
from esc_jax.objectives.supervised import Supervised
from esc_jax.pretrained import audioset, load
from esc_jax.pretrained.audioset import AudioSetHead
from esc_jax.runtime import devices, processes
from esc_jax.tasks.base import Task
from esc_jax.training import checkpoint, loop, optim
from esc_jax.training import restore as restores
from esc_jax.training import state as states
from esc_jax.training import step as steps


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
    """

    config: Any
    task: Task
    clips: Clips
    split: folds.Split
    model: Model
    head: AudioSetHead | None = None
    teacher: Teacher | None = None
    resident: ResidentClips | None = None

    @property
    def train_indices(self) -> tuple[int, ...]:
        """Of the training clips, those of the background included, in `clips.with_background()`."""
        background = len(self.clips.background) if self.clips.background else 0
        return (*self.split.train, *range(len(self.clips), len(self.clips) + background))

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
        return len(self.train_indices) // self.config.train.batch_size

    @property
    def total(self) -> int:
        """Steps of the training."""
        return self.per_epoch * self.config.train.epochs

    def objective(self) -> Supervised:
        """Of the training."""
        weights = None
        if self.config.train.class_balance == "loss":
            weights = self.task.class_weights(self.clips.labels[list(self.split.train)], len(self.clips.classes))
        arguments = (self.config, self.model, self.task, weights, self.per_epoch)
        return Distillation(*arguments, teacher=self.teacher) if self.teacher else Supervised(*arguments)

    def train_batches(self, **options: Any) -> Any:
        """Batches of the training; `options` are those of `pipeline.train_batches`."""
        clips, indices, weights = self.clips.with_background(), self.train_indices, None
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
        step, batch_size = steps.outputs_step(self.model), self.config.eval.batch_size

        def run(weights: Variables, indices: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
            logits, embeddings = predict_clips(step, weights, self.clips, indices, batch_size, self.resident)
            return logits[0], embeddings[0]

        return run

    def fit(self, outputs_of: Callable[..., tuple[np.ndarray, np.ndarray]], weights: Variables) -> Fitted:
        """What is fitted to trained weights; `outputs_of` as that of the run."""
        outputs = functools.partial(outputs_of, weights)
        return calibrate.fit(self.task, self.clips, self.split, outputs, self.head)


def prepare(config: Any, folder: pathlib.Path) -> Run:
    """The run of a checked config before its first step. Nothing is written into the workdir.

    Args:
        config: of the run.
        folder: workdir, which may have a run on the same data.

    Raises:
        ConfigError, DataError, FrontendError, ModelError, PretrainedError: the config, the data or the weights cannot
            be used. OtherDataError: the run in the workdir was trained on other data.
    """
    teachers.check(config)
    check = functools.partial(dataset.check_files, config.protocol, config.data.test_fold, folder)
    config, task, clips = dataset.load(config, check)
    workdir.check_clips(folder, clips)
    split = dataset.split_clips(config, clips)
    logging.info("training on %s", devices.device_name())
    dataset.log_split(task, clips, split)
    if task.name == "multi_label" and config.train.label_smoothing:
        logging.info(
            "config.train.label_smoothing=%g is not used: the loss of a multi-label task is the binary cross-entropy",
            config.train.label_smoothing,
        )
    if len(split.train) < config.train.batch_size:
        raise ConfigError(
            f"config.train.batch_size={config.train.batch_size} is larger than the number of training clips,"
            f" {len(split.train)}"
        )
    config, model = load.initialize(config, clips.classes)
    if config.pretrain.objective:
        pretrain.check(config, clips, split, model)
    return Run(config, task, clips, split, model, audioset.head(config), teachers.load(config, task, clips, split))


def initial_variables(run: Run, variables: Variables) -> tuple[Variables, Callable[[Any], Any] | None]:
    """Variables that training starts from, and `Plan.finish`: `train.head_from_probe` and `train.wise_ft_alpha`."""
    if run.config.train.head_from_probe:
        model = run.model.with_variables(variables)
        variables, _ = probe.with_head(run.config, run.task, run.clips, run.split, model)
    if run.config.train.wise_ft_alpha == 1:
        return variables, None
    start = jax.tree.map(np.array, variables)  # a copy, since the state of the training is donated
    return variables, functools.partial(states.interpolate, start, run.config.train.wise_ft_alpha)


def _evaluator(run: Run, quote: crossval_quote.Quote | None) -> Callable[[Variables, dict[str, Any]], loop.EpochEval]:
    """`Plan.evaluate`: validation metrics under protocols that select an epoch, and the calibration."""
    config, task, split = run.config, run.task, run.split
    selects = config.protocol in folds.SELECTING
    outputs_of, best = run.outputs_of(), -math.inf

    def evaluate(weights: Variables, line: dict[str, Any]) -> loop.EpochEval:
        nonlocal best
        if not selects:
            last = line["epoch"] == config.train.epochs
            return fitted(weights, {}, None) if last else loop.EpochEval()
        indices = list(split.validation or split.test)
        logits, labels = outputs_of(weights, indices)[0], run.clips.labels[indices]
        selection = task.score(labels, logits)
        metrics = {f"val_{task.metric}": selection, "val_loss": task.nll(logits, labels)}
        if selection < best:  # prediction does not use the checkpoint of this epoch
            return loop.EpochEval(metrics, selection)
        best = selection
        return fitted(weights, metrics, selection)

    def fitted(weights: Variables, metrics: dict[str, float], selection: float | None) -> loop.EpochEval:
        result = run.fit(outputs_of, weights)
        if quote:
            result = dataclasses.replace(result, calibration=quote.calibration(run.clips))
        return loop.EpochEval(metrics, selection, result.meta(), result.novelty.arrays())

    return evaluate


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


def train_and_evaluate(config: Any, folder: pathlib.Path, quote: crossval_quote.Quote | None = None) -> dict[str, Any]:
    """Trains and tests as `config` says, in the workdir `folder`. Continues where an earlier call was interrupted.

    Args:
        config: of the run.
        folder: workdir.
        quote: cross-validation of the config, under the protocol `all`. Its calibration is that of the model, and its
            score is in results.json.

    Returns:
        The object of results.json.

    Raises:
        ConfigError, DataError, FrontendError, ModelError, OptimError, DeviceError, OtherDataError, CheckpointError,
            TrainError: with a message of one sentence. Interrupted: SIGTERM or SIGINT came, and the state is saved.
    """
    configs.check(config)
    workdir.check_workdir(folder, config)
    devices.check_batch_size("train.batch_size", config.train.batch_size, config.train.accumulate)
    if config.pretrain.objective:
        devices.check_batch_size("pretrain.batch_size", config.pretrain.batch_size)
    run = prepare(config, folder)
    if quote:
        quote.check_data(run.clips)
    workdir.check_teacher(folder, run.teacher_identity.get("checksum", ""))
    optimizer = run.optimizer()
    run = dataclasses.replace(run, resident=residents.place(run.clips, config.data.on_device))
    # Every mistake in the config has been reported by now. Nothing was written before this line.
    workdir.bind_workdir(folder, config)
    config = run.config

    variables, learned = run.model.variables, None
    if config.pretrain.objective:
        learned = pretrain.pretrain(
            config, folder / "pretrain", run.task, run.clips, run.split, run.model, run.resident
        )
        variables = jax.tree.map(np.array, learned.variables)  # a copy, since the state of the training is donated

    selects = config.protocol in folds.SELECTING
    checkpoints = checkpoint.Checkpoints(folder / "checkpoints", select=selects)
    finish = None
    if checkpoints.latest() is None or config.train.wise_ft_alpha < 1:
        variables, finish = initial_variables(run, variables)
    state = states.create(variables, optimizer, ema=config.train.ema > 0, seed=config.seed)
    batches = run.train_batches(process_index=jax.process_index(), process_count=jax.process_count())
    steps_per_call = loop.steps_per_call(config.train.steps_per_call, run.per_epoch)
    plan = make_plan(run, folder, evaluate=_evaluator(run, quote), finish=finish, steps_per_call=steps_per_call)
    objective = run.objective()
    step = run.train_step(objective, optimizer)
    state, progress = stage.train(plan, step, objective.constants, state, batches, checkpoints, run.resident)

    best = checkpoints.best() if selects else None
    tested_step = run.total if best is None else best
    if tested_step != run.total:
        state = checkpoints.restore(tested_step, state)
    extra: dict[str, Any] = {"crossval": quote.to_dict()} if quote else {}
    if run.teacher:
        extra["teacher"] = run.teacher.name
    if learned and run.split.test:
        extra["pretrain"] = pretrain.downstream(folder / "pretrain", run.task, run.clips, run.split, run.model, learned)
    record = TrainingRecord(
        epochs=config.train.epochs,
        seconds=progress["seconds"] + (learned.seconds if learned else 0.0),
        step=tested_step,
        history=progress["history"],
        pretrain_history=learned.history if learned else (),
    )
    fitted = Calibration.read(checkpoints.meta(tested_step))
    outcome = test(run, state.weights(), folder, record, fitted, extra)
    checkpoints.close()
    return outcome


@dataclasses.dataclass(frozen=True)
class TrainingRecord:
    """What a test records about the training before it.

    Attributes:
        epochs, seconds: of training, over all restarts; the seconds of pretraining included.
        step: of the tested checkpoint.
        history, pretrain_history: lines of the epochs of both stages.
    """

    epochs: int
    seconds: float
    step: int | None
    history: Sequence[dict[str, Any]] = ()
    pretrain_history: Sequence[dict[str, Any]] = ()


def test(
    run: Run,
    weights: Variables,
    folder: pathlib.Path,
    record: TrainingRecord,
    fitted: Calibration,
    extra: dict[str, Any],
) -> dict[str, Any]:
    """Tests weights once, on the clips and on their views, and writes the files of the run.

    Under the protocol `all` there is nothing to test, and the files say so.

    Args:
        run: its test clips are used.
        weights: variables of the model.
        folder: workdir.
        record: of the training.
        fitted: calibration of the weights.
        extra: further entries of results.json.
    """
    config, clips, split = run.config, run.clips, run.split
    parts = []
    if split.test:
        part = results.FoldPredictions(
            split.test_folds[0],
            config.seed,
            np.asarray(split.test),
            *_predict_views(run, weights),
            record.epochs,
            record.seconds,
            fitted.raw_thresholds(run.task),
        )
        parts.append(part)
        extra = calibration.for_results({part.fold: fitted}) | extra
    else:
        extra = {"seconds": round(record.seconds, 1)} | extra
    outcome = results.results(
        config, run.task, clips, parts, split.report(), parameters=run.model.parameter_count, step=record.step
    )
    outcome |= extra
    write_artifacts(folder, outcome, clips, parts, record.history, record.pretrain_history)
    return outcome


def _predict_views(run: Run, weights: Variables) -> tuple[np.ndarray, np.ndarray | None]:
    """Probabilities (n, classes) of the test clips, and their average over the views; None with fewer than two."""
    options = run.config.eval
    views = Views(options.views, options.tta, round(options.view_crop_s * run.model.sample_rate), options.view_octaves)
    # Views multiply the batch. With a smaller batch, memory stays what it is without them.
    batch_size = max(1, options.batch_size // max(1, options.tta))

    def predict(views: Views) -> np.ndarray:
        step = steps.predict_step(run.model, run.task, views)
        return predict_clips(step, weights, run.clips, run.split.test, batch_size, run.resident)

    if not options.tta:
        return predict(Views())[0], None
    of_views = predict(views)
    if options.view_average == "logits":
        averaged = run.task.probabilities(run.task.logits(of_views).mean(axis=0))
    else:
        averaged = of_views.mean(axis=0)
    plain = of_views if views.include_clip else predict(Views())
    return plain[0], averaged


def evaluate_again(config: Any, folder: pathlib.Path) -> dict[str, Any]:
    """Tests the checkpoint of a finished run again, with the config's `eval`, and writes its results again.

    Raises:
        CheckpointError: there is no checkpoint. ConfigError: `config` has another seed, fold or recipe than the run, or
            the run is not finished. OtherDataError: the run was trained on other data.
    """
    configs.check(config)
    processes.require_single_process("--mode=evaluate")
    restored = restores.restore(folder)
    current = configs.flatten(config)
    trained = workdir.read_config(folder)
    trained |= {key: value for key, value in current.items() if key.startswith("eval.")}
    if changed := workdir.differences(trained, current):
        raise ConfigError(f"{folder} was trained with another config: {'; '.join(changed[:3])}")
    with restored.config.unlocked():
        restored.config.data, restored.config.eval = config.data, config.eval
    _, task, clips = dataset.load(config)
    checkpoint.check_data(restored.meta["data"], clips.identity, folder)
    run = Run(restored.config, task, clips, dataset.split_clips(config, clips), restored.model)
    last = checkpoint.newest(restored.folder)  # a protocol may have selected an earlier step
    if config.method == "train" and last < run.total:
        raise ConfigError(f"{folder} stopped at step {last} of {run.total}: finish the run first")
    progress = checkpoint.read_meta(restored.folder, last)["progress"]
    seconds, extra, pretrain_history = progress["seconds"], {}, ()
    path = folder / "results.json"
    if path.exists():  # a run that was never tested has no results
        stored = results.read_results(path)
        kept = ("calibration", "probe", "seconds_embedding", "pretrain", "crossval", "teacher")
        extra = {key: stored[key] for key in kept if key in stored}
        seconds = stored["folds"][0]["seconds"] if stored["folds"] else stored["seconds"]
    if "pretrain" in extra:
        pretrain_history = checkpoint.read_meta(*checkpoint.find(folder / "pretrain"))["progress"]["history"]
    history = progress["history"]
    record = TrainingRecord(len(history), seconds, restored.step, history, pretrain_history)
    fitted = Calibration.read(restored.meta)
    return test(run, run.model.variables, folder, record, fitted, extra)
