"""Runs of one config that differ in test fold and seed, trained at once: one program with an axis of runs.

Every run gets the batches, random keys and steps that it would get alone, and writes a workdir like any other. The
state of all runs is in WORKDIR/vectorized, and is resumed from there.
"""

from collections.abc import Iterable, Mapping, Sequence
import functools
import pathlib
from typing import Any, Self

from absl import logging
import jax
import numpy as np

from esc_jax.data.clips import Clips
from esc_jax.data.folds import Split
from esc_jax.errors import ConfigError, counted
from esc_jax.experiments import evaluate, workdir
from esc_jax.experiments.run import Run, initial_variables, make_plan, prepare, train_indices
from esc_jax.runtime import devices
from esc_jax.training import checkpoint, loop
from esc_jax.training import state as states


def check(config: Any) -> None:
    """Raises ConfigError for options that vectorized runs do not support."""
    if config.pretrain.objective:
        raise ConfigError("config.crossval.vectorized does not support pretraining: set it to False")
    if config.distill.teacher:
        raise ConfigError("config.crossval.vectorized=True does not support config.distill.teacher")
    if config.train.batch_size % config.train.accumulate:
        raise ConfigError(
            f"config.train.batch_size={config.train.batch_size} is not divisible by"
            f" config.train.accumulate={config.train.accumulate}"
        )
    if config.train.class_balance == "loss":
        raise ConfigError(
            "config.train.class_balance=loss depends on the training folds: use sampling, or set"
            " config.crossval.vectorized to False"
        )
    if config.protocol != "holdout":
        raise ConfigError(f"config.crossval.vectorized requires config.protocol=holdout, not {config.protocol}")


def check_folds(config: Any, clips: Clips, splits: Iterable[Split]) -> None:
    """Raises ConfigError where the splits of the runs have different numbers of training batches."""
    if len({len(train_indices(clips, split)) // config.train.batch_size for split in splits}) > 1:
        raise ConfigError("config.crossval.vectorized needs folds with the same number of training batches")


class StackedBatches:
    """Batches of several runs with two leading axes, (devices, runs per device), as `devices.run_layout` gives them."""

    def __init__(self, runs: Sequence[Any]):
        self._runs = runs
        self._layout = devices.run_layout(len(runs))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        return _stack([next(run) for run in self._runs], self._layout)

    def get_state(self) -> list[Any]:
        """States of all iterators."""
        return [run.get_state() for run in self._runs]

    def set_state(self, state: Sequence[Any]) -> None:
        """Restores the states that `get_state` returned."""
        for run, run_state in zip(self._runs, state, strict=True):
            run.set_state(run_state)


def _stack(trees: Sequence[Any], layout: tuple[int, int]) -> Any:
    """One tree of (devices, runs, …) arrays."""
    return jax.tree.map(lambda *leaves: np.stack(leaves).reshape(*layout, *np.shape(leaves[0])), *trees)


def _unstack(tree: Any, index: int) -> Any:
    """The run at `index` of a tree that `_stack` made."""
    return jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:])[index], tree)


def train(runs: Mapping[str, Any], folder: pathlib.Path) -> None:
    """Trains and tests all runs, and writes each into its folder. Does nothing where all are finished.

    Args:
        runs: config of each, by the name of its folder. They differ in `data.test_fold` and `seed` only, and have
            passed `check` and `check_folds`.
        folder: workdir of the cross-validation.

    Raises:
        UserError: as `single.train_and_evaluate`. A loss that is not finite, in any run, stops all of them.
    """
    if all((folder / name / "results.json").exists() for name in runs):
        return
    prepared = [prepare(config, folder / name) for name, config in runs.items()]
    layout = devices.run_layout(len(prepared))
    logging.info("%d runs at once, %d on each of %d devices", len(prepared), layout[1], layout[0])
    state, progress = _train(prepared, folder / "vectorized")
    progress["seconds"] /= len(prepared)  # the share of each run
    for index, (name, run) in enumerate(zip(runs, prepared, strict=True)):
        if not (folder / name / "results.json").exists():
            _write_run(run, runs[name], folder / name, _unstack(state, index), progress)


def _train(prepared: Sequence[Run], folder: pathlib.Path) -> tuple[states.TrainState, dict[str, Any]]:
    """The final state of all runs, stacked, and the progress."""
    first, layout = prepared[0], devices.run_layout(len(prepared))
    optimizer, ema = first.optimizer(), first.config.train.ema > 0
    starts = [initial_variables(run, run.model.variables) for run in prepared]
    initial = [
        states.create(variables, optimizer, ema, run.config.seed)
        for run, (variables, _) in zip(prepared, starts, strict=True)
    ]

    def finish(weights: Any) -> Any:
        return _stack([of_run(_unstack(weights, i)) for i, (_, of_run) in enumerate(starts) if of_run], layout)

    plan = make_plan(
        first,
        folder,
        evaluate=lambda weights, line: loop.EpochEval(),
        finish=finish if starts[0][1] else None,
        place=functools.partial(devices.shard_runs, len(prepared)),
        description=f"training {counted(len(prepared), 'run')}",
    )
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints = checkpoint.Checkpoints(folder / "checkpoints")
    batches = StackedBatches([run.train_batches(prefetch=2) for run in prepared])
    program = devices.pmap_runs(first.train_step(first.objective(), optimizer), len(prepared))

    def step(state: Any, batch: Any) -> tuple[Any, dict[str, Any]]:
        state, metrics = program(state, batch)
        return state, {key: value.mean() for key, value in metrics.items()}  # the mean is NaN where one value is

    result = loop.run(plan, step, _stack(initial, layout), batches, checkpoints)
    checkpoints.close()
    return result


def _write_run(run: Run, config: Any, folder: pathlib.Path, state: Any, progress: dict[str, Any]) -> None:
    """Checkpoint and test of one run. Its history is the mean over all runs."""
    workdir.bind_workdir(folder, config)
    fitted = run.fit(run.outputs_of(), state.weights())
    checkpoints = checkpoint.Checkpoints(folder / "checkpoints")
    meta = checkpoint.meta(run.config, run.clips, progress) | fitted.meta()
    checkpoints.save(state, meta, novelty=fitted.novelty.arrays())
    checkpoints.close()
    record = evaluate.TrainingRecord(run.config.train.epochs, progress["seconds"], run.total, progress["history"])
    evaluate.test(run, state.weights(), folder, record, fitted.calibration, {})
