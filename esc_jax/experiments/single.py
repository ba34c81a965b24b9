"""One run: data, model, loop, checkpoints, evaluation. Read it from top to bottom."""

from collections.abc import Callable
import contextlib
import dataclasses
import functools
import json
import pathlib
from typing import Any

from absl import logging
import jax
import numpy as np
import optax

from esc_jax import build
from esc_jax import config as configs
from esc_jax.data import clips as datasets
from esc_jax.data import folds, pipeline
from esc_jax.evaluation import calibration, predict, results
from esc_jax.evaluation.calibration import Calibration
from esc_jax.experiments import artifacts, pretrain, probe
from esc_jax.models.encoder import Classifier
from esc_jax.runtime import devices, processes
from esc_jax.training import checkpoint, loop, optim
from esc_jax.training import state as states
from esc_jax.training import step as steps


@dataclasses.dataclass(frozen=True)
class Run:
    """A config with its data and its model.

    Attributes:
        config: with what a published checkpoint brought.
        clips, split: the data set, and who trains and tests.
        model, frontend: to be called as in `training.step`.
        variables: {"params", "batch_stats"}, to begin with or to test.
    """

    config: Any
    clips: datasets.Clips
    split: folds.Split
    model: Classifier
    frontend: Any
    variables: dict[str, Any]

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch."""
        return len(self.split.train) // self.config.train.batch_size

    @property
    def total(self) -> int:
        """Steps of the training."""
        return self.per_epoch * self.config.train.epochs

    def optimizer(self) -> optax.GradientTransformation:
        """Of the training."""
        return optim.build(self.config.optim, self.variables["params"], self.total, self.per_epoch)

    def logits_of(self) -> Callable[..., np.ndarray]:
        """(weights, indices=…) → (1, n, classes) logits of clips as they are."""
        step = steps.logits_step(self.model, self.frontend)
        return functools.partial(predict.predict_clips, step, clips=self.clips, batch_size=self.config.eval.batch_size)


def _split(config, clips: datasets.Clips) -> folds.Split:
    return folds.split(
        clips.folds, clips.sources, config.protocol, config.data.test_fold, config.data.drop_leaky_sources
    )


def prepare(config) -> Run:
    """The run of a checked config before its first step; writes nothing into the workdir.

    Raises:
        ConfigError, DataError, FrontendError, ModelError, PretrainedError: in one sentence.
    """
    with processes.main_process_first("the data are prepared"):
        clips = datasets.load(config.data)
    split = _split(config, clips)
    logging.info("%s; on %s", split.report(), devices.device_name())
    trained, tested = (set(clips.labels[list(indices)].tolist()) for indices in (split.train, split.test))
    if absent := sorted(tested - trained):
        logging.warning("training has no clip of %s, which the test has", ", ".join(clips.classes[i] for i in absent))
    if len(split.train) < config.train.batch_size:
        raise configs.ConfigError(
            f"config.train.batch_size={config.train.batch_size}, and there are {len(split.train)} training clips"
        )
    config, model, frontend, variables = build.start(config, clips.classes)
    if config.pretrain.method:
        pretrain.check(config, clips, split, frontend)
    return Run(config, clips, split, model, frontend, variables)


def begin(run: Run, variables: dict[str, Any]) -> tuple[dict[str, Any], Callable[[Any], Any] | None]:
    """Variables that training starts from, and `Plan.finish`: `train.head_from_probe` and `train.start_share`."""
    if run.config.train.head_from_probe:
        variables = probe.with_head(run.config, run.clips, run.split, run.model, run.frontend, variables)
    if not run.config.train.start_share:
        return variables, None
    start = jax.tree.map(np.array, variables)  # the training's state is donated
    return variables, functools.partial(states.blend, start, run.config.train.start_share)


def calibrate(run: Run, logits_of: Callable[..., np.ndarray], weights) -> Calibration:
    """What the clips of training say; `logits_of` as that of `Run`."""
    some = run.split.train[:: -(-len(run.split.train) // calibration.TRAINING_CLIPS)]
    return Calibration.trained(logits_of(weights, indices=some)[0], "clips of training")


def train_and_evaluate(config, workdir: pathlib.Path) -> dict[str, Any]:
    """Trains as `config` says, in `workdir`, and tests; goes on where an earlier call was interrupted.

    Returns:
        The object of results.json.

    Raises:
        ConfigError, DataError, FrontendError, ModelError, OptimError, DeviceError, OtherDataError, CheckpointError,
            TrainError: in one sentence. Interrupted: SIGTERM or SIGINT came, and the state is saved.
    """
    configs.check(config)
    devices.check_batch_size("train.batch_size", config.train.batch_size, config.train.accumulate)
    if config.pretrain.method:
        devices.check_batch_size("pretrain.batch_size", config.pretrain.batch_size)
    run = prepare(config)
    optimizer = run.optimizer()
    # Everything that can be wrong with the config has shown itself by now: only now is anything written.
    workdir.bind_workdir(workdir, config)
    config, clips, split, model, frontend = run.config, run.clips, run.split, run.model, run.frontend

    variables, learned = run.variables, None
    if config.pretrain.method:
        stage = workdir / "pretrain"
        learned = pretrain.pretrain(config, stage, clips, split, model.encoder, frontend, variables)
        variables = jax.tree.map(np.array, learned.variables)  # the training's state is donated

    selects = config.protocol != "holdout"
    checkpoints = checkpoint.Checkpoints(workdir / "checkpoints", select=selects)
    last = checkpoints.latest()
    finish = None
    if last is None or config.train.start_share:
        variables, finish = begin(run, variables)
    state = states.create(variables, optimizer, ema=config.train.ema > 0, seed=config.seed)
    processes = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    batches = pipeline.train_batches(clips, split.train, config.train.batch_size, config.seed, **processes)
    logits_of = run.logits_of()

    def watch(weights, line) -> loop.EpochEval:
        numbers, metric, found = {}, None, None
        if selects:
            watched = list(split.validation or split.test)
            logits, labels = logits_of(weights, indices=watched)[0], clips.labels[watched]
            metric = float((logits.argmax(-1) == labels).mean())
            numbers = {"val_accuracy": metric, "val_loss": calibration.nll(logits, labels)}
            if split.validation:
                found = Calibration.held_out(logits, labels, "the fold that the epoch was chosen on")
        if not found and (selects or line["epoch"] == config.train.epochs):
            found = calibrate(run, logits_of, weights)
        return loop.EpochEval(numbers, metric, {"calibration": found.to_dict()} if found else {})

    plan = loop.Plan(
        epochs=config.train.epochs,
        per_epoch=run.per_epoch,
        rate=optim.schedule(config.optim, run.total, run.per_epoch)[0],
        workdir=workdir,
        tensorboard=config.train.tensorboard,
        checkpoint_epochs=config.train.checkpoint_epochs,
        watch=watch,
        meta=functools.partial(checkpoint.meta, config, clips),
        finish=finish,
    )
    train_step = devices.pmap_step(steps.train_step(model, frontend, optimizer, config, len(clips.classes)))
    state, progress = loop.run(plan, train_step, state, batches, checkpoints)

    tested = checkpoints.best() if selects else run.total
    if tested != run.total:
        state = checkpoints.restore(tested, state)
    seconds = progress["seconds"] + (learned.about["seconds"] if learned else 0.0)
    about = {"epochs": config.train.epochs, "seconds": seconds, "step": tested}
    found = Calibration.read(checkpoints.meta(tested))
    more = calibration.for_results({split.test_folds[0]: found})
    if learned:
        more["pretrain"] = pretrain.downstream(workdir / "pretrain", clips, split, model, frontend, learned)
    pretext = learned.history if learned else ()
    found = test(run, state.weights(), workdir, about, more, progress["history"], pretext)
    checkpoints.close()
    return found


def test(run: Run, weights, workdir: pathlib.Path, about, more, history, pretext=()) -> dict[str, Any]:
    """Tests weights once, with the clip as it is and with its views, and writes all that a run leaves.

    `about` holds epochs, seconds and step, `more` what results.json gets beside; `history` and `pretext` are the
    epochs' lines of both stages.
    """
    config, clips, split = run.config, run.clips, run.split
    views = max(1, config.eval.tta)
    predict = steps.predict_step(run.model, run.frontend, views)
    # Views multiply the batch: memory stays what it is without them.
    found_views = predict.predict_clips(predict, weights, clips, split.test, max(1, config.eval.batch_size // views))
    part = results.fold_predictions(
        split.test_folds[0], config.seed, split.test, found_views, about["epochs"], about["seconds"]
    )
    parameters = sum(p.size for p in jax.tree.leaves(weights["params"]))
    found = results.results(config, clips, [part], split.report(), parameters=parameters, step=about["step"]) | more
    artifacts.write_artifacts(workdir, found, clips, [part], history, pretext)
    return found


def evaluate_again(config, workdir: pathlib.Path) -> dict[str, Any]:
    """Tests the checkpoint of an existing run again, with the config's `eval`, and writes its results anew.

    Raises:
        CheckpointError: there is no checkpoint. ConfigError: `config` has another seed, fold or recipe than the run, or
            that is not done. OtherDataError: it was trained on other data.
    """
    configs.check(config)
    processes.require_single_process("--mode=evaluate")
    restored = build.restore(workdir)
    asked, trained = configs.flatten(config), configs.flatten(json.loads((workdir / "config.json").read_text()))
    trained |= {k: v for k, v in asked.items() if k.startswith("eval.")}
    if changed := workdir.differences(trained, asked):
        raise configs.ConfigError(f"{workdir} was trained with another config: {'; '.join(changed[:3])}")
    with restored.config.unlocked():
        restored.config.data, restored.config.eval = config.data, config.eval
    clips = datasets.load(config.data)
    checkpoint.check_data(restored.meta["data"], clips.fingerprint, workdir)
    model, frontend = restored.model, restored.frontend
    run = Run(restored.config, clips, _split(config, clips), model, frontend, restored.variables)
    last = checkpoint.newest(restored.folder)  # a protocol may have selected an earlier one
    if config.method == "train" and last < run.total:
        raise configs.ConfigError(f"{workdir} stopped at step {last} of {run.total}: let the run come to its end first")
    progress = checkpoint.read_meta(restored.folder, last)["progress"]
    about = {"epochs": len(progress["history"]), "seconds": progress["seconds"], "step": restored.step}
    more, pretext = {}, ()
    with contextlib.suppress(OSError, ValueError):  # a run that was never tested
        written = json.loads((workdir / "results.json").read_text())
        kept = ("calibration", "probe", "seconds_embedding", "pretrain")
        more = {key: written[key] for key in kept if key in written}
    if "pretrain" in more:
        about["seconds"] += more["pretrain"].get("seconds", 0.0)
        pretext = checkpoint.read_meta(*checkpoint.find(workdir / "pretrain"))["progress"]["history"]
    return test(run, run.variables, workdir, about, more, progress["history"], pretext)
