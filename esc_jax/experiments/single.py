"""One run: training, checkpoints, and the test at the end."""

from collections.abc import Callable
import dataclasses
import math
import pathlib
from typing import Any

import jax
import numpy as np

from esc_jax import config as configs
from esc_jax.data import folds
from esc_jax.data import resident as residents
from esc_jax.evaluation.calibration import Calibration
from esc_jax.experiments import crossval_quote, evaluate, pretrain, stage, workdir
from esc_jax.experiments.run import Programs, Run, initial_variables, make_plan, prepare
from esc_jax.models.model import Variables
from esc_jax.runtime import devices
from esc_jax.training import checkpoint, loop
from esc_jax.training import state as states


def _evaluator(run: Run, quote: crossval_quote.Quote | None) -> Callable[[Variables, dict[str, Any]], loop.EpochEval]:
    """`Plan.evaluate`: validation metrics under protocols that select an epoch, and the calibration."""
    config, task, split = run.config, run.task, run.split
    selects = config.protocol in folds.SELECTING
    outputs_of, best = run.outputs_of(), -math.inf

    def evaluate_epoch(weights: Variables, line: dict[str, Any]) -> loop.EpochEval:
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

    return evaluate_epoch


def train_and_evaluate(
    config: Any, folder: pathlib.Path, quote: crossval_quote.Quote | None = None, programs: Programs | None = None
) -> dict[str, Any]:
    """Trains and tests as `config` says, in the workdir `folder`. Continues where an earlier call was interrupted.

    Args:
        config: of the run.
        folder: workdir.
        quote: cross-validation of the config, under the protocol `all`. Its calibration is that of the model, and its
            score is in results.json.
        programs: of runs whose configs differ in seed and test fold only; extended. They need not be compiled again.

    Returns:
        The object of results.json.

    Raises:
        ConfigError, DataError, FrontendError, ModelError, OptimError, DeviceError, OtherDataError, CheckpointError,
            TrainError: with a message of one sentence.
        Interrupted: SIGTERM or SIGINT came, and the state is saved.
    """
    configs.check(config)
    workdir.check_workdir(folder, config)
    devices.check_batch_size("train.batch_size", config.train.batch_size, config.train.accumulate)
    if config.pretrain.objective:
        devices.check_batch_size("pretrain.batch_size", config.pretrain.batch_size)
    run = prepare(config, folder, programs)
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
    program = run.program(
        run.train_key, lambda: stage.map_step(run.train_step(objective, optimizer), steps_per_call, run.resident)
    )
    state, progress = stage.train(plan, program, objective.constants, state, batches, checkpoints, run.resident)

    best = checkpoints.best() if selects else None
    tested_step = run.total if best is None else best
    if tested_step != run.total:
        state = checkpoints.restore(tested_step, state)
    extra: dict[str, Any] = {"crossval": quote.to_dict()} if quote else {}
    if run.teacher:
        extra["teacher"] = run.teacher.name
    if learned and run.split.test:
        extra["pretrain"] = pretrain.downstream(folder / "pretrain", run.task, run.clips, run.split, run.model, learned)
    record = evaluate.TrainingRecord(
        epochs=config.train.epochs,
        seconds=progress["seconds"] + (learned.seconds if learned else 0.0),
        step=tested_step,
        history=progress["history"],
        pretrain_history=learned.history if learned else (),
    )
    fitted = Calibration.read(checkpoints.meta(tested_step))
    outcome = evaluate.test(run, state.weights(), folder, record, fitted, extra)
    checkpoints.close()
    return outcome
