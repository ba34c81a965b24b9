"""The loop that every training runs in: steps into epochs, metrics, checkpoints, stopping and going on."""

from collections.abc import Callable, Iterator
import dataclasses
import pathlib
import signal
import time
from typing import Any, NamedTuple

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from esc_jax.errors import Failure
from esc_jax.runtime import devices, processes
from esc_jax.training import checkpoint, writers
from esc_jax.training import state as states
from esc_jax.training.schedules import Schedule
from esc_jax.training.state import TrainState


class TrainError(Failure, RuntimeError):
    """A run that cannot go on. The message is one sentence."""


class Interrupted(RuntimeError):
    """A run that was asked to stop, and saved its state. The message says how to go on."""


class StopSignal:
    """While it is open, SIGTERM and SIGINT set `received` instead of ending the process.

    Several processes have to stop at the same step: `asked` agrees on it from time to time.
    """

    def __enter__(self) -> "StopSignal":
        self.received = self.asked = False
        self._previous = {s: signal.signal(s, self._set) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def _set(self, number, frame) -> None:
        del frame
        self.received = True
        signal.signal(number, self._previous[number])  # a second one ends the process

    def agree(self, number: int, last: bool) -> bool:
        """Whether to stop after step `number`, the `last` of its epoch or not."""
        if jax.process_count() == 1 or last or number % 16 == 0:  # asking the others takes as long as a small step
            self.asked = processes.any_process(self.received)
        return self.asked

    def __exit__(self, *error) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


class EpochEval(NamedTuple):
    """What was seen after an epoch.

    Attributes:
        numbers: for its line.
        metric: that selects the best checkpoint; None where none is selected.
        meta: for its checkpoint.
    """

    numbers: dict[str, float] = {}
    metric: float | None = None
    meta: dict[str, Any] = {}


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long a training is, and what it leaves on its way.

    Attributes:
        epochs: number of them.
        per_epoch: steps of each.
        rate: learning rate of a step, for the log.
        workdir: gets metrics.jsonl and TensorBoard's files.
        tensorboard: whether it gets the latter.
        checkpoint_epochs: from one checkpoint to the next.
        watch: (weights, the epoch's line) → `EpochEval`; called after every epoch.
        finish: what becomes of the last weights, those to evaluate with; None leaves them.
        meta: (progress, place in the data) → what a checkpoint says about itself (`checkpoint.meta`).
        place: state → the same on the devices, as the step takes and leaves it.
    """

    epochs: int
    per_epoch: int
    rate: Schedule
    workdir: pathlib.Path
    tensorboard: bool
    checkpoint_epochs: int
    watch: Callable[[Any, dict[str, Any]], EpochEval]
    meta: Callable[[dict[str, Any], Any], dict[str, Any]]
    finish: Callable[[Any], Any] | None = None
    place: Callable[[Any], Any] = devices.replicate

    @property
    def total(self) -> int:
        """Steps."""
        return self.epochs * self.per_epoch


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
        step: (state, batch) → (state, metrics, scalars with `loss` among them), the state donated.
        state: to begin with.
        batches: endless, with grain's `get_state` and `set_state`.
        checkpoints: where they are.

    Returns:
        The last state, and the progress: `history`, a line per epoch, and `seconds`, over all restarts.

    Raises:
        OtherDataError: the checkpoint is of other data. TrainError: the loss or a weight is not a number.
            CheckpointError: it could not be written or read. Interrupted: SIGTERM or SIGINT came, and the state is
            saved.
    """
    # What a resumed run needs beside the state: all of it is in the checkpoint's meta.
    progress = {"history": [], "sums": {}, "seconds": 0.0}
    if (last := checkpoints.latest()) is not None:
        meta = checkpoints.meta(last)
        checkpoint.check_data(meta["data"], plan.meta(progress, None)["data"], plan.workdir)
        state, progress = checkpoints.restore(last, state), meta["progress"]
        batches.set_state(meta["batches"])
        logging.info("going on at step %d of %d", last, plan.total)
    before, started = progress["seconds"], time.monotonic()
    state = plan.place(state)  # where a step leaves it: from elsewhere, the second step would be compiled again
    writer = (
        writers.Writer(plan.workdir, progress["history"], plan.tensorboard) if processes.is_main_process() else None
    )

    def save(watched: EpochEval) -> None:
        # The loss of a step is of the weights before it: it does not tell what the last one made of them.
        if not states.finite(state):
            raise _diverged(f"weights are not numbers after step {number}", checkpoints)
        progress["seconds"] = before + time.monotonic() - started
        checkpoints.save(state, plan.meta(progress, batches.get_state()) | watched.meta, watched.metric)

    number = states.step_of(state)
    with StopSignal() as stop:
        while number < plan.total:
            state, number = _epoch(plan, step, state, number, batches, checkpoints, progress["sums"], stop)
            if number == plan.total and plan.finish:
                state = state.with_weights(plan.finish(state.weights()))
            if number % plan.per_epoch == 0:
                line, watched = _line(plan, state, number, progress["sums"], before + time.monotonic() - started)
                progress["sums"] = {}
                progress["history"].append(line)
                if writer:
                    writer.write(line)
                due = line["epoch"] % plan.checkpoint_epochs == 0 or number == plan.total
                if due or stop.asked or watched.metric is not None:
                    save(watched)
            if stop.asked:
                save(EpochEval())
                break
        stopped = stop.asked or processes.any_process(stop.received)  # also while the last epoch was looked at
    if writer:
        writer.close()
    if stopped:
        raise Interrupted(f"stopped at step {number} of {plan.total}; the same command goes on from there")
    return state, progress


def _epoch(
    plan, step, state, number: int, batches, checkpoints, sums: dict[str, float], stop
) -> tuple[TrainState, int]:
    """Steps to the end of the epoch, or to the one in which a signal came; adds their metrics to `sums`."""
    pending = None
    first, epoch = number % plan.per_epoch, number // plan.per_epoch + 1
    with tqdm.tqdm(
        desc=f"epoch {epoch}/{plan.epochs}", total=plan.per_epoch, initial=first, unit="step", leave=False, disable=None
    ) as bar:
        while True:
            state, metrics = step(state, next(batches))
            number += 1
            bar.update()
            # Reading a step's metrics after the next one was dispatched keeps the device busy.
            if pending:
                _account(sums, *pending, checkpoints)
                seen = pending[0] - plan.per_epoch * (epoch - 1)  # not bar.n, which stands still where it is not shown
                bar.set_postfix_str(f"loss {sums['loss'] / seen:.3f}", refresh=False)
            pending = (number, metrics)
            last = number % plan.per_epoch == 0
            if stop.agree(number, last) or last:
                _account(sums, *pending, checkpoints)
                return state, number


def _account(sums: dict[str, float], number: int, metrics: dict[str, jax.Array], checkpoints) -> None:
    """Adds the metrics of step `number` to the epoch's sums; stops where they are not numbers."""
    found = {k: float(v) for k, v in metrics.items()}
    if not np.isfinite(found["loss"]):
        raise _diverged(f"the loss is {found['loss']} at step {number}", checkpoints)
    for key, value in found.items():
        sums[key] = sums.get(key, 0.0) + value


def _diverged(what: str, checkpoints) -> TrainError:
    good = checkpoints.latest()
    where = f"the last good checkpoint is step {good} in {checkpoints.directory}"
    where = "there is no checkpoint yet" if good is None else where
    return TrainError(f"{what}; {where}; a lower config.optim.lr or config.optim.clip_norm=1 usually helps")


def _line(plan, state, number: int, sums: dict[str, float], seconds: float) -> tuple[dict[str, Any], EpochEval]:
    """The line of a finished epoch, which is logged too, and what was seen after it."""
    epoch = number // plan.per_epoch
    line = {"epoch": epoch, "step": number} | {k: v / plan.per_epoch for k, v in sums.items()}
    line |= {"lr": float(plan.rate(jnp.int32(number - 1))), "seconds": round(seconds, 1)}
    watched = plan.watch(state.weights(), line)
    line |= watched.numbers
    words = [f"loss {line['loss']:.4f}"]
    words += [f"{key.replace('_', ' ')} {100 * line[key]:.2f} %" for key in line if key.endswith("accuracy")]
    left = time.strftime("%H:%M:%S", time.gmtime(seconds / number * (plan.total - number)))
    logging.info("epoch %d/%d: %s, %.0f s, %s left", epoch, plan.epochs, ", ".join(words), seconds, left)
    return line, watched
