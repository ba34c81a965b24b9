"""One run: data, model, loop, checkpoints, evaluation. Read it from top to bottom."""

import functools
import json
import pathlib
import signal
import time
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from esc_jax import build, evaluate, probe
from esc_jax import config as configs
from esc_jax.data import clips as datasets
from esc_jax.data import folds, pipeline
from esc_jax.training import checkpoint, optim, parallel, writers
from esc_jax.training import state as states
from esc_jax.training import step as steps


class TrainError(RuntimeError):
    """A run that cannot go on. The message is one sentence."""


class Interrupted(RuntimeError):
    """A run that was asked to stop, and saved its state. The message says how to go on."""


class StopSignal:
    """While it is open, SIGTERM and SIGINT set `received` instead of ending the process."""

    def __enter__(self) -> "StopSignal":
        self.received = False
        self._previous = {s: signal.signal(s, self._set) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def _set(self, number, frame) -> None:
        del frame
        self.received = True
        signal.signal(number, self._previous[number])  # a second one ends the process

    def __exit__(self, *error) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


def train_and_evaluate(config, workdir: pathlib.Path) -> dict[str, Any]:
    """Trains as `config` says, in `workdir`, and tests; goes on where an earlier call was interrupted.

    Returns:
        The object of results.json.

    Raises:
        ConfigError, DataError, FrontendError, ModelError, OptimError, DeviceError, CheckpointError, TrainError: in one
            sentence. Interrupted: SIGTERM or SIGINT came, and the state is saved.
    """
    configs.check(config)
    parallel.check_batch(config.train.batch_size, config.train.accumulate)
    clips = datasets.load(config.data)
    split = folds.split(
        clips.folds, clips.sources, config.protocol, config.data.test_fold, config.data.drop_leaky_sources
    )
    logging.info("%s", split.report())
    batch_size = config.train.batch_size
    if len(split.train) < batch_size:
        raise configs.ConfigError(
            f"config.train.batch_size={batch_size}, and there are {len(split.train)} training clips"
        )
    per_epoch = len(split.train) // batch_size
    total = per_epoch * config.train.epochs

    config, model, frontend, variables = build.start(config, clips.classes)
    if config.train.head_from_probe and not (workdir / "checkpoints").exists():
        variables = probe.with_head(config, clips, split, model, frontend, variables)
    optimizer = optim.build(config.optim, variables["params"], total, per_epoch)
    state = states.create(variables, optimizer, ema=config.train.ema > 0)
    rate, _ = optim.schedule(config.optim, total, per_epoch)
    # Everything that can be wrong with the config has shown itself by now: only now is anything written.
    configs.claim(workdir, config)

    batches = pipeline.train_batches(
        clips,
        split.train,
        batch_size,
        config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    selects = config.protocol != "holdout"
    checkpoints = checkpoint.Checkpoints(workdir / "checkpoints", select=selects)
    # What a resumed run needs beside the state: all of it is in the checkpoint's meta.
    progress = {"history": [], "sums": {}, "seconds": 0.0}
    if (last := checkpoints.latest()) is not None:
        state = checkpoints.restore(last, state)
        meta = checkpoints.meta(last)
        if meta["data"] != clips.fingerprint:
            raise configs.ConfigError(
                f"{workdir} was trained on other data than data.dir holds: choose another --workdir"
            )
        progress = meta["progress"]
        batches.set_state(meta["batches"])
        logging.info("going on at step %d of %d", last, total)
    seconds_before, started = progress["seconds"], time.monotonic()

    train_step = parallel.mapped(steps.train_step(model, frontend, optimizer, config, len(clips.classes)))
    predict = steps.predict_step(model, frontend)
    watched = split.validation if config.protocol == "validation" else split.test if selects else ()
    writer = writers.Writer(workdir, progress["history"], config.train.tensorboard)

    def save(state: states.TrainState, metric: float | None) -> None:
        progress["seconds"] = seconds_before + time.monotonic() - started
        meta = checkpoint.meta(config, clips, progress, batches.get_state())
        checkpoints.save(state, meta, metric)

    def account(number: int, metrics: dict[str, jax.Array]) -> None:
        """Adds a step's metrics to the epoch's sums; stops where they are not numbers."""
        found = {k: float(v) for k, v in metrics.items()}
        if not np.isfinite(found["loss"]):
            good = checkpoints.latest()
            where = (
                f"the last good checkpoint is step {good} in {checkpoints.directory}"
                if good
                else "there is no checkpoint yet"
            )
            raise TrainError(
                f"the loss is {found['loss']} at step {number + 1}; {where};"
                " a lower config.optim.lr or config.optim.clip_norm=1 usually helps"
            )
        for key, value in found.items():
            progress["sums"][key] = progress["sums"].get(key, 0.0) + value

    step, pending = int(state.step), None
    bar = functools.partial(tqdm.tqdm, total=per_epoch, unit="step", leave=False, disable=None)
    with StopSignal() as stop:
        while step < total:
            epoch = step // per_epoch
            with bar(desc=f"epoch {epoch + 1}/{config.train.epochs}", initial=step % per_epoch) as shown:
                while True:
                    state, metrics = train_step(state, next(batches))
                    step += 1
                    shown.update()
                    # Reading a step's metrics after the next one was dispatched keeps the device busy.
                    if pending:
                        account(*pending)
                        count = (step - 2) % per_epoch + 1
                        shown.set_postfix_str(f"loss {progress['sums']['loss'] / count:.3f}", refresh=False)
                    pending = (step - 1, metrics)
                    if step % per_epoch == 0 or stop.received:
                        account(*pending)
                        pending = None
                        break
            if step % per_epoch == 0:
                sums, progress["sums"] = progress["sums"], {}
                elapsed = seconds_before + time.monotonic() - started
                line = {"epoch": epoch + 1, "step": step} | {k: v / per_epoch for k, v in sums.items()}
                line |= {"lr": float(rate(jnp.int32(step - 1))), "seconds": round(elapsed, 1)}
                metric = None
                if selects:
                    found = evaluate.probabilities(predict, state.weights(), clips, watched, config.eval.batch_size)[0]
                    labels = clips.labels[list(watched)]
                    metric = float((found.argmax(-1) == labels).mean())
                    line["val_accuracy"] = metric
                    line["val_loss"] = float(-np.log(np.maximum(found[np.arange(len(labels)), labels], 1e-12)).mean())
                progress["history"].append(line)
                writer.write(line)
                left = elapsed / step * (total - step)
                held_out = f", held out {100 * metric:.2f} %" if selects else ""
                logging.info(
                    "epoch %d/%d: loss %.4f, accuracy %.1f %%%s, %.0f s, %s left",
                    epoch + 1,
                    config.train.epochs,
                    line["loss"],
                    100 * line["accuracy"],
                    held_out,
                    elapsed,
                    time.strftime("%H:%M:%S", time.gmtime(left)),
                )
                if (epoch + 1) % config.train.checkpoint_epochs == 0 or step == total or stop.received or selects:
                    save(state, metric)
            if stop.received and step < total:
                save(state, None)
                writer.close()
                raise Interrupted(f"stopped at step {step} of {total}; the same command goes on from there")
    writer.close()

    tested = checkpoints.best() if selects else step
    if selects and tested != step:
        state = checkpoints.restore(tested, state)
    about = {"epochs": config.train.epochs, "seconds": progress["seconds"], "step": tested}
    found = test(config, clips, split, model, frontend, state.weights(), workdir, about, progress["history"])
    checkpoints.close()
    return found


def test(config, clips, split, model, frontend, weights, workdir, about: dict[str, Any], history) -> dict[str, Any]:
    """Tests weights once, with the clip as it is and with its views, and writes all that a run leaves."""
    views = max(1, config.eval.tta)
    predict = steps.predict_step(model, frontend, views)
    # Views multiply the batch: memory stays what it is without them.
    found_views = evaluate.probabilities(predict, weights, clips, split.test, max(1, config.eval.batch_size // views))
    part = evaluate.tested(split.test_folds[0], config.seed, split.test, found_views, about["epochs"], about["seconds"])
    parameters = sum(p.size for p in jax.tree.leaves(weights["params"]))
    found = evaluate.results(config, clips, [part], split.report(), parameters=parameters, step=about["step"])
    evaluate.leave(workdir, found, clips, [part], history)
    return found


def evaluate_again(config, workdir: pathlib.Path) -> dict[str, Any]:
    """Tests the checkpoint of an existing run again, with the config's `eval`, and writes its results anew.

    Raises:
        CheckpointError: there is no checkpoint. ConfigError: `config` has another seed, fold or recipe than the run.
    """
    configs.check(config)
    run = build.restore(workdir)
    asked, trained = configs.flatten(config), configs.flatten(json.loads((workdir / "config.json").read_text()))
    trained |= {k: v for k, v in asked.items() if k.startswith("eval.")}
    if changed := configs.differences(trained, asked):
        raise configs.ConfigError(f"{workdir} was trained with another config: {'; '.join(changed[:3])}")
    with run.config.unlocked():
        run.config.data, run.config.eval = config.data, config.eval
    clips = datasets.load(config.data)
    split = folds.split(
        clips.folds, clips.sources, config.protocol, config.data.test_fold, config.data.drop_leaky_sources
    )
    about = {
        "epochs": len(run.meta["progress"]["history"]),
        "seconds": run.meta["progress"]["seconds"],
        "step": run.step,
    }
    history = run.meta["progress"]["history"]
    return test(run.config, clips, split, run.model, run.frontend, run.variables, workdir, about, history)
