"""The loop that every training runs in: steps, epochs, metrics, checkpoints, interruption and resume."""

from collections.abc import Callable, Iterator
import dataclasses
import pathlib
import signal
import time
from typing import Any, NamedTuple, Self

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from esc_jax.errors import EX_TEMPFAIL, Failure
from esc_jax.runtime import devices, processes
from esc_jax.training import checkpoint, writers
from esc_jax.training import state as states
from esc_jax.training.schedules import Schedule
from esc_jax.training.state import TrainState

_AGREEMENT_STEPS = 16  # between two questions to the other processes, which take as long as a small step
_STEPS_PER_CALL = 16  # on accelerators: the host takes as long for a call as they take for a fraction of a step
_DATA_WAIT = "data_wait"  # share of an epoch's time in which the device may have waited for a batch


class TrainError(Failure, RuntimeError):
    """A run that cannot continue. The message is one sentence."""


class Interrupted(Failure, RuntimeError):
    """A run that was stopped by a signal and saved its state. The message says how to continue."""

    status = EX_TEMPFAIL


class StopSignal:
    """While it is open, SIGTERM and SIGINT set `received` instead of ending the process.

    Several processes have to stop at the same step: `agree` compares their signals from time to time.
    """

    def __enter__(self) -> Self:
        self.received = self.stop = False
        self._previous = {s: signal.signal(s, self._set) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def _set(self, number: int, frame: Any) -> None:
        del frame
        self.received = True
        signal.signal(number, self._previous[signal.Signals(number)])  # a second signal ends the process

    def agree(self, number: int, last: bool, steps: int = 1) -> bool:
        """Whether to stop after a call of some steps, up to step `number`, which is the `last` of its epoch or not."""
        if jax.process_count() == 1 or last or number % _AGREEMENT_STEPS < steps:
            self.stop = processes.any_process(self.received)
        return self.stop

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


class _Call(NamedTuple):
    """A call of the step.

    Attributes:
        first: number of its first step.
        steps: number of steps.
        metrics: of the steps.
    """

    first: int
    steps: int
    metrics: dict[str, Any]  # arrays; jax.Array does not declare `is_ready`


class EpochEval(NamedTuple):
    """Result of the evaluation after an epoch.

    Attributes:
        metrics: for the line of the epoch.
        selection: metric that selects the best checkpoint; None where none is selected.
        meta: for the checkpoint of the epoch.
        novelty: arrays for the checkpoint of the epoch; None without.
    """

    metrics: dict[str, float] = {}
    selection: float | None = None
    meta: dict[str, Any] = {}
    novelty: Any | None = None


@dataclasses.dataclass(frozen=True)
class Plan:
    """Length of a training, and what happens on the way.

    Attributes:
        epochs: number of epochs.
        per_epoch: steps of an epoch.
        rate: learning rate of a step, for the log.
        workdir: folder of metrics.jsonl and TensorBoard files.
        tensorboard: whether to write TensorBoard files.
        checkpoint_epochs: epochs between two checkpoints.
        evaluate: (weights, line of the epoch) → `EpochEval`, called after every epoch.
        meta: (progress, position in the data) → the `meta` of a checkpoint (`checkpoint.meta`).
        finish: weights → the final weights, applied after the last step; None keeps them.
        steps_per_call: largest number of steps that the device computes between two calls of the host. Calls end with
            the epoch.
        place: state → the same state on the devices, placed as the step leaves it.
        description: shown beside the progress bar.
    """

    epochs: int
    per_epoch: int
    rate: Schedule
    workdir: pathlib.Path
    tensorboard: bool
    checkpoint_epochs: int
    evaluate: Callable[[Any, dict[str, Any]], EpochEval]
    meta: Callable[[dict[str, Any], Any], dict[str, Any]]
    finish: Callable[[Any], Any] | None = None
    steps_per_call: int = 1
    place: Callable[[Any], Any] = devices.replicate
    description: str = "training"

    @property
    def total(self) -> int:
        """Number of steps."""
        return self.epochs * self.per_epoch


def steps_per_call(option: str, per_epoch: int) -> int:
    """Value of `Plan.steps_per_call` for `train.steps_per_call`.

    Args:
        option: a number, or "auto": more than one on a GPU or TPU. On a CPU, XLA computes the operations of a loop with
            fewer threads.
        per_epoch: steps of an epoch.
    """
    auto = 1 if jax.default_backend() == "cpu" else _STEPS_PER_CALL
    return min(auto if option == "auto" else int(option), per_epoch)


def run(
    plan: Plan,
    step: Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]],
    state: TrainState,
    batches: Iterator[Any],
    checkpoints: checkpoint.Checkpoints,
) -> tuple[TrainState, dict[str, Any]]:
    """Trains to the end of the plan, from the newest checkpoint where there is one.

    Args:
        plan: of the training.
        step: (state, batch) → (state, metrics), scalars with `loss` among them. The state is donated. If
            `plan.steps_per_call` is larger than 1, as `devices.pmap_steps` returns it.
        state: to begin with.
        batches: endless, with grain's `get_state` and `set_state`.
        checkpoints: of the run.

    Returns:
        The last state, and the progress: `history`, a line per epoch, and `seconds`, over all restarts.

    Raises:
        OtherDataError: the checkpoint is of other data.
        TrainError: the loss or a weight is not finite.
        CheckpointError: a checkpoint cannot be written or read.
        Interrupted: SIGTERM or SIGINT came, and the state is saved.
    """
    return _Training(plan, step, state, batches, checkpoints).run()


class _Training:
    """A training in progress. Everything that a resume needs beside the state is in the `meta` of a checkpoint."""

    def __init__(self, plan: Plan, step: Callable, state: TrainState, batches: Any, checkpoints: Any):
        self._plan, self._step, self._batches, self._checkpoints = plan, step, batches, checkpoints
        self._progress: dict[str, Any] = {"history": [], "sums": {}, "seconds": 0.0}
        data = plan.meta(self._progress, None)["data"]
        newest = checkpoints.restore_newest(state, lambda meta: checkpoint.check_data(meta["data"], data, plan.workdir))
        if newest:
            state, meta = newest
            self._progress = meta["progress"]
            if meta["batches"] is not None:  # of a run that was trained together with others, at its end
                batches.set_state(meta["batches"])
            logging.info("resuming at step %d of %d", meta["step"], plan.total)
        self._seconds_before, self._started = self._progress["seconds"], time.monotonic()
        # Placed as a step leaves it. Otherwise the second step would be compiled again.
        self._state = plan.place(state)
        self._number = states.step_of(self._state)
        self._position = batches.get_state()  # in the data, after the last step
        self._ahead: list[Any] = []  # batches of the next call

    def run(self) -> tuple[TrainState, dict[str, Any]]:
        """As `loop.run`."""
        plan, writer = self._plan, None
        if processes.is_main_process():
            writer = writers.Writer(plan.workdir, self._progress["history"], plan.tensorboard)
        progress_bar = tqdm.tqdm(
            desc=plan.description, total=plan.total, initial=self._number, unit="step", disable=None
        )
        with StopSignal() as stop, progress_bar as bar:
            while self._number < plan.total:
                self._run_epoch(stop, bar)
                if self._number == plan.total and plan.finish:
                    self._state = self._state.with_weights(plan.finish(self._state.weights()))
                if self._number % plan.per_epoch == 0:
                    self._end_epoch(stop, bar, writer)
                if stop.stop:
                    self._save(EpochEval())
                    break
            stopped = stop.stop or processes.any_process(stop.received)  # also during the last evaluation
        if writer:
            writer.close()
        if stopped:
            raise Interrupted(
                f"stopped at step {self._number} of {plan.total}; run the same command again to continue from there"
            )
        return self._state, self._progress

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._started

    def _run_epoch(self, stop: StopSignal, bar: tqdm.tqdm) -> None:
        """Steps to the end of the epoch, or to the one in which a signal came."""
        plan = self._plan
        pending: _Call | None = None
        epoch = self._number // plan.per_epoch + 1
        while True:
            batches = self._ahead or self._read(None)
            self._state, metrics = self._step(self._state, batches if plan.steps_per_call > 1 else batches[0])
            call = _Call(self._number + 1, len(batches), metrics)
            self._number += call.steps
            self._position = self._batches.get_state()
            # The device is busy with this call, while the next one is read and the metrics of the last one are added.
            self._ahead = self._read(call) if self._number < plan.total else []
            bar.update(call.steps)
            if pending:
                self._add(pending)
                loss = self._progress["sums"]["loss"] / (call.first - 1 - plan.per_epoch * (epoch - 1))
                bar.set_postfix_str(f"epoch {epoch}/{plan.epochs}, loss {loss:.3f}", refresh=False)
            pending = call
            last = self._number % plan.per_epoch == 0
            if stop.agree(self._number, last, call.steps) or last:
                self._add(call)
                return

    def _read(self, running: _Call | None) -> list[Any]:
        """The batches of the next call. The time in which the device may have waited for them is added to `data_wait`.

        Args:
            running: the call that the device computes meanwhile; None: it waits.
        """
        started = time.monotonic()
        steps = min(self._plan.steps_per_call, self._plan.per_epoch - self._number % self._plan.per_epoch)
        batches = [next(self._batches) for _ in range(steps)]
        if not running or running.metrics["loss"].is_ready():
            sums = self._progress["sums"]
            sums[_DATA_WAIT] = sums.get(_DATA_WAIT, 0.0) + time.monotonic() - started
        return batches

    def _add(self, call: _Call) -> None:
        """Adds the metrics of a call to the sums of the epoch; raises TrainError if a loss is not finite."""
        values = {key: np.ravel(np.asarray(value))[: call.steps] for key, value in call.metrics.items()}
        if (bad := np.flatnonzero(~np.isfinite(values["loss"]))).size:
            raise self._diverged(f"the loss is {values['loss'][bad[0]]} at step {call.first + bad[0]}")
        sums = self._progress["sums"]
        for key, of_steps in values.items():
            for value in of_steps:
                sums[key] = sums.get(key, 0.0) + float(value)

    def _end_epoch(self, stop: StopSignal, bar: tqdm.tqdm, writer: writers.Writer | None) -> None:
        """Evaluates, writes the line of the epoch, and saves a checkpoint where one is due."""
        plan, progress = self._plan, self._progress
        line: dict[str, Any] = {"epoch": self._number // plan.per_epoch, "step": self._number}
        waited, seconds = progress["sums"].pop(_DATA_WAIT, 0.0), self._seconds()
        line |= {key: value / plan.per_epoch for key, value in progress["sums"].items()}
        rate = devices.run_on_host(lambda: plan.rate(jnp.int32(self._number - 1)))
        line |= {"lr": float(rate), "seconds": round(seconds, 1)}
        before = progress["history"][-1]["seconds"] if progress["history"] else 0.0
        line[_DATA_WAIT] = round(min(1.0, waited / max(seconds - before, 1e-3)), 4)
        evaluation = plan.evaluate(self._state.weights(), line)
        line |= evaluation.metrics
        if bar.disable:  # without a terminal, a line per epoch stands in for the progress bar
            shown = {key: value for key, value in line.items() if key not in ("epoch", "step", "seconds", _DATA_WAIT)}
            words = ", ".join(f"{key} {value:.4g}" for key, value in shown.items())
            left = time.strftime("%H:%M:%S", time.gmtime(seconds / self._number * (plan.total - self._number)))
            progress_text = f"{plan.description}, epoch {line['epoch']}/{plan.epochs}"
            logging.info("%s: %s; %.0f s, %s left", progress_text, words, seconds, left)
        progress["sums"] = {}
        progress["history"].append(line)
        if writer:
            writer.write(line)
        due = line["epoch"] % plan.checkpoint_epochs == 0 or self._number == plan.total
        if due or stop.stop or evaluation.selection is not None:
            self._save(evaluation)

    def _save(self, evaluation: EpochEval) -> None:
        # The loss of a step belongs to the weights before it. It says nothing about the weights after the last step.
        if not states.is_finite(self._state):
            raise self._diverged(f"the weights are not finite after step {self._number}")
        self._progress["seconds"] = self._seconds()
        meta = self._plan.meta(self._progress, self._position) | evaluation.meta
        self._checkpoints.save(self._state, meta, evaluation.selection, evaluation.novelty)

    def _diverged(self, problem: str) -> TrainError:
        last = self._checkpoints.latest()
        where = f"the last good checkpoint is step {last} in {self._checkpoints.directory}"
        where = "there is no checkpoint yet" if last is None else where
        return TrainError(f"{problem}; {where}; try a lower config.optim.lr or config.optim.clip_norm=1")
