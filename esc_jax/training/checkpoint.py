"""Checkpoints: contents, writing and reading. All of orbax is here.

A checkpoint holds `variables` (parameters and running statistics), `ema` (their moving average, where there is one),
`optimizer` (its state and the step), `objective` (the objective's own state, where there is one), `novelty` (arrays of
`evaluation.novelty`, where they were fitted) and `meta`, a JSON object: config, class names, sample rate, position in
the data, metrics so far. Prediction needs `meta`, `novelty` and one set of weights only.
"""

import contextlib
import io
import json
import pathlib
import time
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from esc_jax.data.clips import Clips
from esc_jax.errors import Failure, UserError, first_line
from esc_jax.runtime import devices
from esc_jax.training.state import TrainState, step_of

FORMAT = 2


class CheckpointError(Failure, RuntimeError):
    """A checkpoint that cannot be written or read. The message is one sentence."""


class OtherDataError(UserError, ValueError):
    """A run that was started on other data. The message is one sentence."""


class Checkpoints:
    """The checkpoints of one run.

    The latest checkpoint is kept, to resume from, and the best one by `metric` where the protocol selects one.

    Args:
        directory: their folder.
        select: whether the best checkpoint is kept beside the latest.
    """

    def __init__(self, directory: pathlib.Path, select: bool = False):
        self.directory = directory.resolve()  # orbax refuses relative paths
        # A policy that kept only the best would delete the newest.
        policies = [preservation_policy.LatestN(1)]
        if select:
            best = preservation_policy.BestN(
                get_metric_fn=lambda m: m["metric"], n=1, keep_checkpoints_without_metrics=False
            )
            policies.append(best)
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                create=True,
                enable_async_checkpointing=False,
                best_fn=(lambda m: m["metric"]) if select else None,  # without it, metrics would not be on disk
                preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
            ),
        )

    def save(
        self, state: TrainState, meta: dict[str, Any], metric: float | None = None, novelty: Any | None = None
    ) -> None:
        """Writes a checkpoint under the state's step. Earlier checkpoints stay as they are if this fails.

        Args:
            state: of the training.
            meta: the JSON object.
            metric: that selects the best checkpoint.
            novelty: tree of arrays.
        """
        step = step_of(state)
        if step in self._manager.all_steps():
            return
        state = devices.to_global(state)
        items = {
            "variables": ocp.args.StandardSave({"params": state.params, "batch_stats": state.batch_stats}),
            "optimizer": ocp.args.StandardSave({"state": state.opt_state, "step": state.step}),
            "meta": ocp.args.JsonSave(meta | {"format": FORMAT, "step": step, "metric": metric}),
        }
        if state.ema is not None:
            items["ema"] = ocp.args.StandardSave(state.ema)
        if state.carry is not None:
            items["objective"] = ocp.args.StandardSave(state.carry)
        if novelty is not None:
            items["novelty"] = ocp.args.StandardSave(novelty)
        try:
            # When a write fails, each of tensorstore's threads prints a traceback of its own, some a little later.
            with contextlib.redirect_stderr(io.StringIO()):
                try:
                    self._manager.save(
                        step, args=ocp.args.Composite(**items), metrics=None if metric is None else {"metric": metric}
                    )
                except Exception:
                    time.sleep(2.0)
                    raise
        except Exception as error:  # tensorstore and orbax raise a dozen types for a full disk
            if jax.process_count() > 1 and isinstance(error, jax.errors.JaxRuntimeError):
                raise  # another process has ended; the disk is not the cause
            last = self.latest()
            previous = f"the last good one is step {last}" if last is not None else "there is no earlier one"
            raise CheckpointError(
                f"could not write the checkpoint of step {step} in {self.directory} ({first_line(error)});"
                f" {previous}: free some space and run the same command again"
            ) from error

    def latest(self) -> int | None:
        """Step of the newest complete checkpoint; None without one."""
        self._manager.reload()
        return self._manager.latest_step()

    def best(self) -> int | None:
        """Step with the highest metric, or the latest where none was recorded; None without a checkpoint."""
        self._manager.reload()
        return find(self.directory)[1] if self._manager.all_steps() else None

    def meta(self, step: int) -> dict[str, Any]:
        """The JSON object of a checkpoint."""
        return read_meta(self.directory, step)

    def restore(self, step: int, state: TrainState) -> TrainState:
        """The state at `step`; `state` gives its structure and placement."""
        state = devices.to_global(state)

        def like(tree: Any) -> Any:
            return ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, tree))

        items = {
            "variables": like({"params": state.params, "batch_stats": state.batch_stats}),
            "optimizer": like({"state": state.opt_state, "step": state.step}),
        }
        if state.ema is not None:
            items["ema"] = like(state.ema)
        if state.carry is not None:
            items["objective"] = like(state.carry)
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # tensorstore's threads would each print a traceback
                arrays = self._manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:
            raise CheckpointError(
                f"could not read the checkpoint of step {step} in {self.directory}: {first_line(error)}"
            ) from error
        restored = TrainState(
            step=arrays["optimizer"]["step"],
            seed=state.seed,
            params=arrays["variables"]["params"],
            batch_stats=arrays["variables"]["batch_stats"],
            opt_state=arrays["optimizer"]["state"],
            ema=arrays["ema"] if state.ema is not None else None,
            carry=arrays["objective"] if state.carry is not None else None,
        )
        return devices.to_host_local(restored)

    def close(self) -> None:
        """Waits until everything is written."""
        self._manager.close()


def meta(config: Any, clips: Clips, progress: dict[str, Any], batches: Any = None) -> dict[str, Any]:
    """The JSON object of a checkpoint: what prediction and resume need beside the arrays.

    Args:
        config: of the run, with the options of a published checkpoint.
        clips: the data set.
        progress: history, sums of the current epoch, seconds so far.
        batches: state of the training iterator.
    """
    return {
        "config": config.to_dict(),
        "classes": list(clips.classes),
        "sample_rate": clips.sample_rate,
        "data": clips.fingerprint,
        "batches": batches,
        "progress": progress,
    }


def find(path: str | pathlib.Path) -> tuple[pathlib.Path, int]:
    """The checkpoints folder and step of a path: a run's workdir, its `checkpoints`, or one step in it.

    Raises:
        CheckpointError: there is no checkpoint.
    """
    path = pathlib.Path(path).expanduser().resolve()
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such folder")
    if path.name.isdigit() and (path / "meta").is_dir():
        return path.parent, int(path.name)
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    if not (steps := _steps(folder)):
        raise CheckpointError(f"{path}: contains no checkpoint")
    # As `Checkpoints.best`: the step that a protocol selected, else the newest.
    scores = [(metric, step) for step in steps if (metric := read_meta(folder, step).get("metric")) is not None]
    return folder, max(scores)[1] if scores else max(steps)


def newest(folder: pathlib.Path) -> int:
    """The last step in a checkpoints folder, whether or not a protocol selected another one."""
    return max(_steps(folder))


def _steps(folder: pathlib.Path) -> list[int]:
    """Steps with a complete checkpoint. One that a killed process was deleting may have lost its meta."""
    return [int(p.name) for p in folder.iterdir() if p.name.isdigit() and (p / "meta" / "metadata").is_file()]


def check_data(trained_on: str, fingerprint: str, workdir: pathlib.Path) -> None:
    """Raises OtherDataError where the run in a workdir was trained on data with another fingerprint."""
    if trained_on != fingerprint:
        raise OtherDataError(f"{workdir} was trained on other data than data.dir contains: choose another --workdir")


def check_workdir(workdir: pathlib.Path, fingerprint: str) -> None:
    """`check_data` for the run in a workdir, where there is one."""
    folder = workdir / "checkpoints"
    if folder.is_dir() and (steps := _steps(folder)):
        check_data(read_meta(folder, max(steps))["data"], fingerprint, workdir)


def read_meta(folder: pathlib.Path, step: int) -> dict[str, Any]:
    """The JSON object of a checkpoint. Raises CheckpointError for one of another version of the format."""
    try:
        meta = json.loads((folder / str(step) / "meta" / "metadata").read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / str(step)}: its metadata cannot be read ({error})") from None
    if meta.get("format") != FORMAT:
        raise CheckpointError(
            f"{folder / str(step)} has format {meta.get('format')}, but this version of esc_jax reads format {FORMAT}:"
            " train again, or use the version that wrote it"
        )
    return meta


def read_weights(folder: pathlib.Path, step: int, like: Any) -> Any:
    """Weights for prediction, in the structure of `like` (arrays or shapes): the moving average where there is one."""
    item = "ema" if (folder / str(step) / "ema").is_dir() else "variables"
    try:
        with ocp.StandardCheckpointer() as reader:
            return reader.restore(folder / str(step) / item, jax.tree.map(ocp.utils.to_shape_dtype_struct, like))
    except Exception as error:
        raise CheckpointError(
            f"{folder / str(step)}: its weights cannot be read, or do not match the model of its config"
            f" ({first_line(error)})"
        ) from error


def read_novelty(folder: pathlib.Path, step: int) -> Any | None:
    """The tree of arrays `novelty` of a checkpoint, in numpy; None where it has none."""
    path = folder / str(step) / "novelty"
    if not path.is_dir():
        return None
    try:
        with ocp.StandardCheckpointer() as reader:
            return jax.tree.map(np.asarray, reader.restore(path))
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read ({first_line(error)})") from error
