"""The folder of a run: which config, data and teacher it belongs to."""

import contextlib
import json
import pathlib
from typing import Any

from esc_jax import config as configs
from esc_jax import files
from esc_jax.data.clips import Clips
from esc_jax.data.rows import Layout
from esc_jax.errors import ConfigError
from esc_jax.runtime import processes
from esc_jax.training import checkpoint

# Where the data are, and what does not change the result. These keys may differ when a run is resumed.
LOCATION_KEYS = (
    "data.dir",
    "data.url",
    "data.cache_dir",
    "data.on_device",
    "train.steps_per_call",
    "train.tensorboard",
    "train.checkpoint_epochs",
    "experiment",
)


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Keys in which two flat configs differ, as "key (old, now new)". LOCATION_KEYS are ignored.

    A key that only one of them has was added by a later version. It is ignored where its value is off (0 or empty), or
    its default.
    """
    old, new, defaults = (json.loads(json.dumps(x)) for x in (old, new, _defaults(new)))  # on disk, tuples are lists
    keys = sorted((set(old) | set(new)) - set(LOCATION_KEYS))
    off = {k for k in keys if not (old.get(k) or new.get(k)) and (k not in old or k not in new)}
    off |= {k for k in set(defaults) - set(old) if new.get(k) == defaults[k]}
    return [f"{k} ({old.get(k)}, now {new.get(k)})" for k in keys if k not in off and old.get(k) != new.get(k)]


def _defaults(flat: dict[str, Any]) -> dict[str, Any]:
    """Flat defaults of the architecture and the objective that a flat config names; empty where it names none."""
    names = [flat[key] for key in ("model.name", "model.head.name", "frontend.name") if key in flat]
    if len(names) < 3:
        return {}
    defaults = configs.flatten(configs.defaults(*names))
    if objective := flat.get("pretrain.objective"):
        defaults |= configs.flatten(configs.pretrain_defaults(objective), "pretrain.")
    return defaults


def locked(folder: pathlib.Path) -> contextlib.AbstractContextManager[None]:
    """Locks a workdir for this process, or raises LockedError; other processes of a distributed run lock nothing."""
    return files.exclusive_lock(folder) if processes.is_main_process() else contextlib.nullcontext()


def read_config(workdir: pathlib.Path) -> dict[str, Any]:
    """The flat config of the run in a workdir. Raises ConfigError where it cannot be read."""
    path = workdir / "config.json"
    try:
        return configs.flatten(json.loads(path.read_text()))
    except (OSError, ValueError, AttributeError):
        raise ConfigError(f"{path} cannot be read: choose another --workdir") from None


def check_workdir(workdir: pathlib.Path, config: Any) -> None:
    """Raises ConfigError where a workdir belongs to a run of another config. Nothing is written."""
    if workdir.exists() and not workdir.is_dir():
        raise ConfigError(f"--workdir={workdir} is a file: choose a folder")
    if not checkpoint.is_writable_name(workdir):
        raise ConfigError(
            f"--workdir={workdir}: checkpoints cannot be written below a folder with [, ] or \\ in its name; choose"
            " another one"
        )
    if not (workdir / "config.json").exists():
        return
    stored = read_config(workdir)
    if changed := differences(stored, configs.flatten(config)):
        more = " …" if len(changed) > 3 else ""
        raise ConfigError(
            f"{workdir} contains a run of another config: {'; '.join(changed[:3])}{more}; choose another --workdir"
        )


def bind_workdir(workdir: pathlib.Path, config: Any) -> None:
    """Makes a workdir that of this config. Raises ConfigError as `check_workdir`."""
    check_workdir(workdir, config)
    if processes.is_main_process():
        workdir.mkdir(parents=True, exist_ok=True)
        files.write_json(workdir / "config.json", config.to_dict())
    processes.barrier(f"{workdir} is bound")


def check_clips(workdir: pathlib.Path, clips: Clips) -> None:
    """Raises OtherDataError where the run in a workdir was trained on other clips."""
    if meta := checkpoint.newest_meta(workdir):
        checkpoint.check_data(meta["data"], clips.identity, workdir)


def check_files(workdir: pathlib.Path, data: Layout, background: Layout | None) -> None:
    """As `check_clips`, for files that have not been prepared yet."""
    if meta := checkpoint.newest_meta(workdir):
        fingerprints = [layout.fingerprint for layout in (data, background) if layout]
        # `Clips.identity` adds to a fingerprint how the clips were made from the files.
        parts = [part.split("-")[0] for part in meta["data"].split("+")]
        checkpoint.check_data("+".join(parts), "+".join(fingerprints), workdir)


def check_teacher(workdir: pathlib.Path, checksum: str) -> None:
    """Raises OtherDataError where the run in a workdir has learned from a teacher with another checksum."""
    meta = checkpoint.newest_meta(workdir)
    if meta and meta.get("teacher", {}).get("checksum", "") != checksum:
        raise checkpoint.OtherDataError(
            f"{workdir} was started with another distill.teacher, or its weights have changed: choose another --workdir"
        )
