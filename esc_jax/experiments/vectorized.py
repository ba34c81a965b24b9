"""Runs of one config that differ in test fold and seed, trained at once: one program with an axis of runs.

Every run sees the batches, random keys and steps that it would see alone, and leaves a workdir like any other. The
state of all of them is in WORKDIR/together, and resumed from there.
"""

from collections.abc import Mapping, Sequence
import functools
import pathlib
from typing import Any

from absl import logging
import jax
import numpy as np

from esc_jax import config as configs
from esc_jax.data import pipeline
from esc_jax.experiments import single
from esc_jax.runtime import devices
from esc_jax.training import checkpoint, loop, optim
from esc_jax.training import state as states
from esc_jax.training import step as steps


def check(config) -> None:
    """Raises ConfigError for what runs at once cannot do."""
    if config.pretrain.method:  # a probe has all folds in one program in any case
        raise configs.ConfigError("config.crossval.vectorized trains on labels: no probe and no pretraining")
    if config.train.batch_size % config.train.accumulate:
        raise configs.ConfigError(
            f"config.train.batch_size={config.train.batch_size} does not divide into"
            f" config.train.accumulate={config.train.accumulate} parts"
        )
    if config.protocol != "holdout":
        raise configs.ConfigError(
            f"config.crossval.vectorized takes the last weights of all runs, and config.protocol={config.protocol}"
            " selects others"
        )


class StackedBatches:
    """A batch of every run, with the two axes of `devices.run_layout` in front."""

    def __init__(self, runs: Sequence[Any]):
        self._runs = runs
        self._places = devices.run_layout(len(runs))

    def __next__(self) -> dict[str, np.ndarray]:
        return _stack([next(run) for run in self._runs], self._places)

    def get_state(self) -> list[Any]:
        """Those of all runs."""
        return [run.get_state() for run in self._runs]

    def set_state(self, state: Sequence[Any]) -> None:
        """Goes to where `get_state` was taken."""
        for run, own in zip(self._runs, state, strict=True):
            run.set_state(own)


def _stack(trees: Sequence[Any], places: tuple[int, int]):
    """One tree of (devices, runs, …) arrays."""
    return jax.tree.map(lambda *leaves: np.stack(leaves).reshape(*places, *np.shape(leaves[0])), *trees)


def _one(tree, index: int):
    """The run at `index` of what `_stack` gave."""
    return jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:])[index], tree)


def train(runs: Mapping[str, Any], workdir: pathlib.Path) -> None:
    """Trains and tests all runs, and leaves each in its folder of `workdir`; does nothing where all are done.

    Args:
        runs: config of each by the name of its folder; they differ in `data.test_fold` and `seed` alone.
        workdir: of the cross-validation.

    Raises:
        ConfigError: folds of different sizes. Those of `train.train_and_evaluate`; a loss that is not a number, in
            any run, ends all of them.
    """
    if all((workdir / name / "results.json").exists() for name in runs):
        return
    prepared = [single.prepare(own) for own in runs.values()]
    first = prepared[0]
    if len({run.per_epoch for run in prepared}) > 1:
        raise configs.ConfigError("config.crossval.vectorized needs folds with the same number of training batches")
    optimizer, places = first.optimizer(), devices.run_layout(len(prepared))
    logging.info("%d runs at once, %d on each of %d devices", len(prepared), places[1], places[0])

    starts = [single.begin(run, run.variables) for run in prepared]
    ema = first.config.train.ema > 0
    begun = [
        states.create(variables, optimizer, ema, run.config.seed)
        for run, (variables, _) in zip(prepared, starts, strict=True)
    ]

    def finish(weights):
        return _stack([of_run(_one(weights, i)) for i, (_, of_run) in enumerate(starts)], places)

    plan = loop.Plan(
        epochs=first.config.train.epochs,
        per_epoch=first.per_epoch,
        rate=optim.schedule(first.config.optim, first.total, first.per_epoch)[0],
        workdir=workdir / "together",
        tensorboard=first.config.train.tensorboard,
        checkpoint_epochs=first.config.train.checkpoint_epochs,
        watch=lambda weights, line: loop.EpochEval(),
        meta=functools.partial(checkpoint.meta, first.config, first.clips),
        finish=finish if starts[0][1] else None,
        place=functools.partial(devices.shard_runs, len(prepared)),
    )
    plan.workdir.mkdir(parents=True, exist_ok=True)
    checkpoints = checkpoint.Checkpoints(plan.workdir / "checkpoints")
    batches = StackedBatches(
        [
            pipeline.train_batches(run.clips, run.split.train, run.config.train.batch_size, run.config.seed, prefetch=2)
            for run in prepared
        ]
    )
    one = steps.train_step(first.model, first.frontend, optimizer, first.config, len(first.clips.classes))
    program = devices.pmap_runs(one, len(prepared))

    def step(state, batch):
        state, metrics = program(state, batch)
        return state, {key: value.mean() for key, value in metrics.items()}  # one that is no number shows in the mean

    state, progress = loop.run(plan, step, _stack(begun, places), batches, checkpoints)
    checkpoints.close()
    progress["seconds"] /= len(prepared)  # the share of each
    for index, (name, run) in enumerate(zip(runs, prepared, strict=True)):
        if not (workdir / name / "results.json").exists():
            _leave(run, runs[name], workdir / name, _one(state, index), progress)


def _leave(run: single.Run, config, workdir: pathlib.Path, state, progress: dict[str, Any]) -> None:
    """Checkpoint and test of one run, whose history is the mean over all."""
    workdir.bind_workdir(workdir, config)
    found = single.calibrate(run, run.logits_of(), state.weights())
    own = checkpoint.Checkpoints(workdir / "checkpoints")
    own.save(state, checkpoint.meta(run.config, run.clips, progress) | {"calibration": found.to_dict()})
    own.close()
    about = {"epochs": run.config.train.epochs, "seconds": progress["seconds"], "step": run.total}
    single.test(run, state.weights(), workdir, about, {}, progress["history"])
