"""Checkpoints: contents, writing and reading. All of orbax is here.

A checkpoint holds `variables` (parameters and running statistics), `ema` (their moving average, where there is one),
`optimizer` (its state and the step), `objective` (the objective's own state, where there is one), `novelty` (arrays of
`evaluation.novelty`, where they were fitted) and `meta`, a JSON object: config, class names, sample rate, position in
the data, metrics so far. Prediction needs `meta`, `novelty` and one set of weights only.

`meta` also holds a CRC-32 of every array and of itself, which are verified whenever a checkpoint is read.
"""

from collections.abc import Callable, Mapping
import contextlib
import functools
import io
import logging as standard_logging
import math
import os
import pathlib
import sys
import time
from typing import Any
import zlib

from absl import logging
import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from esc_jax import files
from esc_jax.data.clips import Clips
from esc_jax.errors import Failure, UserError, first_line, shorten
from esc_jax.runtime import devices, processes
from esc_jax.training.state import TrainState, step_of

FORMAT = 3
MAX_META_BYTES = 64 << 20
MAX_NOVELTY_VALUES = 1 << 25


class CheckpointError(Failure, RuntimeError):
    """A checkpoint that cannot be written or read. The message is one sentence."""


class OtherDataError(UserError, ValueError):
    """A run that was started on other data. The message is one sentence."""


def is_writable_name(folder: pathlib.Path) -> bool:
    """Whether orbax can write below a folder: it takes brackets and backslashes in its path for a pattern.

    It would write an empty checkpoint there, without an error.
    """
    return os.name == "nt" or not set("[]\\") & set(str(folder.resolve()))


class Checkpoints:
    """The checkpoints of one run.

    The two latest checkpoints are kept: a run resumes from the newest that is not damaged. The best one by `metric` is
    kept where the protocol selects one.

    Args:
        directory: their folder.
        select: whether the best checkpoint is kept beside the latest.
    """

    def __init__(self, directory: pathlib.Path, select: bool = False):
        self.directory = directory.resolve()  # orbax refuses relative paths
        if not is_writable_name(directory):
            raise CheckpointError(
                f"{directory}: checkpoints cannot be written below a folder with [, ] or \\ in its name"
            )
        # A policy that kept only the best would delete the newest.
        policies = [preservation_policy.LatestN(2)]
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
        trees = _items(devices.to_global(state)) | ({} if novelty is None else {"novelty": novelty})
        meta = meta | {"format": FORMAT, "step": step, "metric": metric}
        meta["checksums"] = {name: _checksums(tree) for name, tree in trees.items()}
        items = {name: ocp.args.StandardSave(tree) for name, tree in trees.items()}
        items["meta"] = ocp.args.JsonSave(meta | {"crc32": files.json_checksum(meta)})
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
        """The state at `step`; `state` gives its structure and placement. Raises CheckpointError."""
        state = devices.to_global(state)

        def like(tree: Any) -> Any:
            return ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, tree))

        meta = self.meta(step)
        items = {name: like(tree) for name, tree in _items(state).items()}
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # tensorstore's threads would each print a traceback
                arrays = self._manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:
            _discard_late_errors()
            raise CheckpointError(
                f"could not read the checkpoint of step {step} in {self.directory}: {first_line(error)}"
            ) from error
        for name in items:
            _verify(arrays[name], name, meta, self.directory / str(step))
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

    def restore_newest(
        self, state: TrainState, check: Callable[[dict[str, Any]], None]
    ) -> tuple[TrainState, dict[str, Any]] | None:
        """State and `meta` of the newest checkpoint that is not damaged; None where there is no checkpoint.

        Damaged checkpoints that are newer are renamed, with a warning.

        Args:
            state: gives structure and placement.
            check: called with the `meta`; may raise.

        Raises:
            CheckpointError: every checkpoint is damaged.
        """
        self._manager.reload()
        damage: list[str] = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                meta = self.meta(step)
                check(meta)
                restored = self.restore(step, state)
            except CheckpointError as error:
                damage.append(str(error))
                continue
            for newer, problem in zip(self._newer(step), damage, strict=True):
                logging.warning("%s; resuming from step %d", problem, step)
                self._set_aside(newer)
            return restored, meta
        if damage:
            raise CheckpointError(f"{damage[0]}; there is no earlier one: choose another --workdir to start over")
        return None

    def _newer(self, step: int) -> list[int]:
        return sorted((other for other in self._manager.all_steps() if other > step), reverse=True)

    def _set_aside(self, step: int) -> None:
        """Renames a damaged checkpoint, so that its step can be saved again."""
        if processes.is_main_process():
            folder = self.directory / str(step)
            folder.rename(folder.with_name(f"{step}.damaged.{time.time_ns()}"))
        processes.barrier(f"{self.directory / str(step)} is set aside")
        self._manager.reload()

    def close(self) -> None:
        """Waits until everything is written."""
        self._manager.close()


def _items(state: TrainState) -> dict[str, Any]:
    """The trees of arrays of a checkpoint."""
    items = {
        "variables": {"params": state.params, "batch_stats": state.batch_stats},
        "optimizer": {"state": state.opt_state, "step": state.step},
        "ema": state.ema,
        "objective": state.carry,
    }
    return {name: tree for name, tree in items.items() if tree is not None}


def _checksums(tree: Any) -> dict[str, int]:
    """Path → CRC-32 of the bytes of each array."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    arrays = ((path, np.ascontiguousarray(leaf)) for path, leaf in leaves)
    return {jax.tree_util.keystr(path): zlib.crc32(array.view(np.uint8).data) for path, array in arrays}


def _verify(tree: Any, item: str, meta: dict[str, Any], folder: pathlib.Path) -> None:
    """Raises CheckpointError where an array differs from the one that was saved."""
    saved = meta["checksums"].get(item, {})
    for path, checksum in _checksums(tree).items():
        if saved.get(path) != checksum:
            raise CheckpointError(f"{folder} is damaged: the checksum of {item}{path} does not match")


def meta(
    config: Any,
    clips: Clips,
    progress: dict[str, Any],
    batches: Any = None,
    teacher: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The JSON object of a checkpoint: what prediction and resume need beside the arrays.

    Args:
        config: of the run, with the options of a published checkpoint.
        clips: the data set.
        progress: history, sums of the current epoch, seconds so far.
        batches: state of the training iterator.
        teacher: `name` and `checksum` of the teacher of a distillation.
    """
    return {
        "config": config.to_dict(),
        "classes": list(clips.classes),
        "sample_rate": clips.sample_rate,
        "data": clips.identity,
        "batches": batches,
        "progress": progress,
        "teacher": dict(teacher or {}),
    }


def find(path: str | pathlib.Path) -> tuple[pathlib.Path, int]:
    """The checkpoints folder and step of a path: a run's workdir, its `checkpoints`, or one step in it.

    Raises:
        CheckpointError: there is no checkpoint.
    """
    path = files.resolve(path)
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such folder")
    if path.name.isdigit() and (path / "meta").is_dir():
        return path.parent, int(path.name)
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    if not (steps := _steps(folder)):
        if folds := sorted(run.parent.name for run in path.glob("*/checkpoints")):
            raise CheckpointError(
                f"{path} holds a model for each fold: give one of them, such as {path / folds[0]} ({', '.join(folds)}),"
                f" or train one on every clip with --config.protocol=all --from_crossval={path}"
            )
        raise CheckpointError(f"{path}: contains no checkpoint")
    # As `Checkpoints.best`: the step that a protocol selected, else the newest.
    scores, damaged = [], []
    for step in steps:
        try:
            metric = read_meta(folder, step)["metric"]
        except CheckpointError as error:
            damaged.append(error)
            continue
        if metric is not None:
            scores.append((metric, step))
    if damaged and (scores or len(damaged) == len(steps)):  # the damaged one may be the best
        raise damaged[-1]
    return folder, max(scores)[1] if scores else max(steps)


def newest(folder: pathlib.Path) -> int:
    """The last step in a checkpoints folder, whether or not a protocol selected another one."""
    return max(_steps(folder))


def _steps(folder: pathlib.Path) -> list[int]:
    """Steps with a complete checkpoint. One that a killed process was deleting may have lost its meta."""
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit() and (p / "meta" / "metadata").is_file())


def check_data(trained_on: str, identity: str, workdir: pathlib.Path) -> None:
    """Raises OtherDataError where the run in a workdir was trained on other data (`Clips.identity`)."""
    if trained_on != identity:
        key = "data.dir" if trained_on.split("+")[0] != identity.split("+")[0] else "data.background"
        raise OtherDataError(f"{workdir} was trained on other data than {key} contains: choose another --workdir")


def newest_meta(workdir: pathlib.Path) -> dict[str, Any] | None:
    """The JSON object of the newest checkpoint of a run that is not damaged; None where there is none."""
    folder = workdir / "checkpoints"
    for step in sorted(_steps(folder) if folder.is_dir() else [], reverse=True):
        with contextlib.suppress(CheckpointError):  # a damaged one, which a resume passes over
            return read_meta(folder, step)
    return None


def read_meta(folder: pathlib.Path, step: int) -> dict[str, Any]:
    """The JSON object of a checkpoint. Raises CheckpointError for one of another version of the format."""
    path = folder / str(step) / "meta" / "metadata"
    try:
        meta = files.read_json(path, MAX_META_BYTES)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / str(step)}: its metadata cannot be read ({first_line(error)})") from None
    if not isinstance(meta, dict):
        raise CheckpointError(f"{folder / str(step)}: its metadata cannot be read (not a JSON object)")
    if meta.get("format") != FORMAT:
        raise CheckpointError(
            f"{folder / str(step)} has format {shorten(meta.get('format'))}, but this version of esc_jax reads format"
            f" {FORMAT}: train again, or use the version that wrote it"
        )
    digest = meta.pop("crc32", None)
    if digest is None:
        raise CheckpointError(f"{folder / str(step)} is damaged: its metadata have no checksum")
    if digest != files.json_checksum(meta):
        raise CheckpointError(f"{folder / str(step)} is damaged: the checksum of its metadata does not match")
    return meta


@functools.cache  # once is enough
def _discard_late_errors() -> None:
    """Keeps errors of orbax's threads from being printed after a failed read.

    They find the event loop of the read closed, or belong to tasks whose result nobody asks for. Python prints such
    errors, which nobody can catch, with a traceback.
    """
    standard_logging.getLogger("asyncio").setLevel(standard_logging.CRITICAL)
    hook = sys.unraisablehook

    def discard(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            hook(unraisable)

    sys.unraisablehook = discard


def _check_chunks(path: pathlib.Path, item: str) -> int:
    """The number of values of an item, before it is read.

    Raises:
        CheckpointError: an array is stored in chunks that are larger than itself. A whole chunk is decompressed,
            however small the array and the file are.
    """
    with contextlib.closing(ocp.StandardCheckpointHandler()) as handler:  # StandardCheckpointer logs a warning
        saved = jax.tree.leaves(handler.metadata(path / item).tree)
    for leaf in saved:
        chunk = leaf.storage.chunk_shape if leaf.storage else None
        if chunk and math.prod(chunk) > max(1, math.prod(leaf.shape)):
            raise CheckpointError(f"{path} is damaged: {item} has chunks of {shorten(chunk)} for {shorten(leaf.shape)}")
    return sum(math.prod(leaf.shape) for leaf in saved)


def _read_item(
    path: pathlib.Path, item: str, name: str, *, reason: str = "", like: Any = None, most: int | None = None
) -> Any:
    """The tree of arrays of an item.

    Args:
        path: of the checkpoint.
        item: its name.
        name, reason: words for errors.
        like: arrays or shapes in the structure of the result; None for that of the file.
        most: number of values.

    Raises:
        CheckpointError: it cannot be read, or has more values.
    """
    try:
        values = _check_chunks(path, item)
        if most is not None and values > most:
            raise CheckpointError(f"{path}: {name} has {values:.1e} values")
        with ocp.StandardCheckpointer() as reader:
            return reader.restore(path / item, *([] if like is None else [like]))
    except CheckpointError:
        raise
    except Exception as error:
        _discard_late_errors()
        raise CheckpointError(f"{path}: {name} cannot be read{reason} ({first_line(error)})") from error


def read_weights(folder: pathlib.Path, step: int, like: Any) -> Any:
    """Weights for prediction, in the structure of `like` (arrays or shapes): the moving average where there is one."""
    meta, path = read_meta(folder, step), folder / str(step)
    item = "ema" if "ema" in meta["checksums"] else "variables"
    # The devices of the training need not be there.
    placement = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placement), like)
    weights = _read_item(path, item, "its weights", reason=", or do not match the model of its config", like=like)
    _verify(weights, item, meta, path)
    return weights


def read_novelty(folder: pathlib.Path, step: int) -> Any | None:
    """The tree of arrays `novelty` of a checkpoint, in numpy; None where it has none."""
    meta, path = read_meta(folder, step), folder / str(step)
    if "novelty" not in meta["checksums"]:
        return None
    saved = _read_item(path, "novelty", "its detector of unfamiliar sounds", most=MAX_NOVELTY_VALUES)
    tree = jax.tree.map(np.asarray, saved)
    _verify(tree, "novelty", meta, path)
    return tree
