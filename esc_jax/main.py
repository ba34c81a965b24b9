"""Trains and tests what a config describes.

    python -m esc_jax.main --config=configs/resnet34.py
    python -m esc_jax.main --config=configs/resnet34.py --config.data.dir=ESC-50-master --config.data.test_fold=1
    python -m esc_jax.main --config=configs/resnet34.py --mode=crossval

Any key of the config can be given on the command line, as --config.part.key=value. The same command started again
goes on where it was interrupted.
"""

from collections.abc import Iterable
import contextlib
import hashlib
import os
import pathlib
import re
import sys
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from esc_jax.errors import describe_error, first_line, is_out_of_memory

_CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment: a file in configs/.", lock_config=True)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where the run lives. By default runs/, then the config's name and what is overridden in it."
)
_MODE = flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "crossval", "evaluate"],
    "Train and test; do so for every fold; or test the run's checkpoint again.",
)
_DISTRIBUTED = flags.DEFINE_boolean(
    "distributed", False, "One of several processes that train together: see launch/slurm.sh and launch/tpu_pod.sh."
)


_SMALLER = (
    "take fewer clips at a time (--config.train.accumulate=4 takes a batch in four parts, --config.eval.batch_size), or"
    " --config.model.encoder.remat=True where the encoder is a transformer"
)


def _fail(status: int, sentence: object) -> NoReturn:
    sys.stderr.write(f"esc_jax: {sentence}\n")
    sys.exit(status)


def _overrides(argv: list[str]) -> list[str]:
    return [a.removeprefix("--config.") for a in argv if a.startswith("--config.")]


def default_workdir(config_path: str, overrides: dict[str, object], keys: Iterable[str], mode: str) -> pathlib.Path:
    """runs/NAME, followed by what is overridden (where the data lie aside), and by crossval in that mode.

    Args:
        config_path: of the config.
        overrides: key → value.
        keys: all that the config has.
        mode: of the command. `evaluate` looks for the run that was trained, whatever `eval` it was to be tested with.
    """
    from esc_jax.config import LOCATION_KEYS

    own = [key for key in keys if not key.startswith("pretrain.")]

    def short(key: str) -> str:  # data.test_fold → test_fold, where nothing else is called that
        leaf = key.rsplit(".", 1)[-1]
        return leaf if [k for k in own if k.rsplit(".", 1)[-1] == leaf] == [key] else key

    def path(left_out: str = " ") -> pathlib.Path:
        kept = sorted(k for k in overrides if k not in LOCATION_KEYS and not k.startswith(left_out))
        parts = [f"{short(k)}={overrides[k]}".replace(" ", "") for k in kept] + ["crossval"] * (mode == "crossval")
        # With nothing in it that a file name cannot hold, and no more than it can.
        name = re.sub(r"[^\w.,=+-]", "_", ",".join([pathlib.Path(config_path).stem, *parts]))
        if len(name) > 200:
            name = f"{name[:190]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        return pathlib.Path("runs") / name

    found = path()
    return path("eval.") if mode == "evaluate" and not found.exists() else found


def _parse(argv: list[str]) -> list[str]:
    """absl's parser, with the nearest key for one that does not exist and status 2 for a wrong command line."""
    try:
        return flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        path = next((a.split("=", 1)[1] for a in argv if a.startswith("--config=")), None)
        if path and _overrides(argv):
            _explain(path, argv)
        _fail(2, first_line(error))


def _explain(path: str, argv: list[str]) -> None:
    """Ends the process with the sentence for the first override that names no key, or has a value of another type."""
    from esc_jax import config as configs

    try:
        config = configs.load(path)
    except configs.ConfigError as error:
        _fail(2, error)
    flat = configs.flatten(config)
    for override in _overrides(argv):
        key = override.split("=")[0]
        if key not in flat:
            _fail(2, configs.nearest(key, config))
    for override in _overrides(argv):
        key, _, value = override.partition("=")
        kind = type(flat[key]).__name__
        try:
            if isinstance(flat[key], (int, float)) and not isinstance(flat[key], bool):
                type(flat[key])(value)
        except ValueError:
            _fail(2, f"config.{key}={value}: the value must be of type {kind}, as {flat[key]} is")


def main(argv: list[str]) -> None:
    """Runs the mode, prints the table."""
    if len(argv) > 1:
        _fail(2, f"{argv[1]}: unexpected argument; options are given as --name=value")
    flag, config = flags.FLAGS["config"], _CONFIG.value
    config_path = config_flags.get_config_filename(flag) if flag.present else ""
    if not config_path:
        _fail(2, "which experiment? Give one as --config=configs/NAME.py")
    if not pathlib.Path(config_path).is_file():  # the flag has tried, and keeps its error until the first key is read
        _fail(2, f"--config={config_path} does not exist")
    config.experiment = config.experiment or pathlib.Path(config_path).stem
    from esc_jax import config as configs
    from esc_jax.data import prepare
    from esc_jax.runtime import devices, processes, xla

    overrides, keys = config_flags.get_override_values(flag), configs.flatten(config)
    workdir = pathlib.Path(_WORKDIR.value or default_workdir(config_path, overrides, keys, _MODE.value))
    cache = prepare.cache_root(config.data.cache_dir)
    xla.initialize(cache / "compiled")
    if _DISTRIBUTED.value:
        try:
            processes.join_processes()
        except devices.DeviceError as error:
            _fail(error.status, error)
    import jax

    from esc_jax import files
    from esc_jax.experiments import artifacts, crossval, probe
    from esc_jax.experiments import single as train
    from esc_jax.training import loop
    from esc_jax.training.checkpoint import CheckpointError

    try:
        configs.check(config)
        method = {"train": train.train_and_evaluate, "probe": probe.probe_and_evaluate}[config.method]
        modes = {"train": method, "crossval": crossval.cross_validate, "evaluate": train.evaluate_again}
        alone = (
            files.exclusive_lock(workdir, cache / "locks") if processes.is_main_process() else contextlib.nullcontext()
        )
        with alone:
            found = modes[_MODE.value](config, workdir)
    except CheckpointError as error:
        sys.stderr.write(f"esc_jax: {error}\n")
        sys.stderr.flush()
        os._exit(1)  # the threads of a write that failed would each print a traceback on their way out
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() > 1:
            processes.exit_lost_process(first_line(error))
        if not is_out_of_memory(error):
            raise
        _fail(1, f"{describe_error(error)[1]}; {_SMALLER}")
    except loop.Interrupted as stopped:
        said = str(stopped)
    except Exception as error:
        if (known := describe_error(error, workdir)) is None:
            raise
        _fail(*known)
    else:
        said = f"{artifacts.summary(found)}\n  all of it is in {workdir}"
    if processes.is_main_process():
        sys.stdout.write(f"{said}\n")


def cli() -> None:
    """Entry point of `python -m esc_jax.main`."""
    logging.set_verbosity(logging.INFO)
    # orbax and TFDS tell of every file they touch; of others only warnings are shown. What fails in orbax is raised
    # as well, and said in a sentence.
    ours = str(pathlib.Path(__file__).parent)
    logging.get_absl_handler().addFilter(
        lambda r: ours in r.pathname or (r.levelname in ("WARNING", "ERROR") and "orbax" not in r.pathname)
    )
    try:
        app.run(main, flags_parser=_parse)
    except KeyboardInterrupt:  # while nothing was under way that could be saved
        _fail(130, "stopped; the same command begins again, or goes on from the last checkpoint")


if __name__ == "__main__":
    cli()
