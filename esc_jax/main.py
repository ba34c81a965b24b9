"""Trains and tests what a config describes.

    python -m esc_jax.main --config=configs/resnet34.py
    python -m esc_jax.main --config=configs/resnet34.py --config.data.dir=ESC-50-master --config.data.test_fold=1
    python -m esc_jax.main --config=configs/resnet34.py --mode=crossval

Any key of the config can be set on the command line, as --config.part.key=value. Run the same command again to resume
an interrupted run.
"""

from collections.abc import Iterable
import contextlib
import functools
import hashlib
import os
import pathlib
import re
import sys
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from esc_jax.cli.command import exit_resumable
from esc_jax.errors import ConfigError, UserError, describe_error, first_line, is_out_of_memory

EX_USAGE, EX_INTERRUPTED = 2, 130

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The experiment: a file, or the name of one of the project's own configs.", lock_config=True
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run. Default: runs/, then the config's name and the overridden keys."
)
_MODE = flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "crossval", "evaluate"],
    "Train and test one fold; train and test every fold; or test the run's checkpoint again.",
)
_FROM_CROSSVAL = flags.DEFINE_string(
    "from_crossval",
    None,
    "With --config.protocol=all: workdir of a finished cross-validation of the same config. Its score is quoted by the"
    " model, and its held-out predictions calibrate it.",
)
_DISTRIBUTED = flags.DEFINE_boolean(
    "distributed", False, "Train together with other processes: see launch/slurm.sh and launch/tpu_pod.sh."
)

_MEMORY_ADVICE = (
    "use smaller batches (--config.train.accumulate=4, --config.eval.batch_size), or"
    " --config.model.encoder.remat=True where the encoder is a transformer"
)
_WINDOWS = (
    "training needs array_record, which has no package for Windows: use the Windows Subsystem for Linux (WSL);"
    " predict, embed, export and demo work on Windows"
)


def _fail(status: int, message: object) -> NoReturn:
    sys.stderr.write(f"esc_jax: {message}\n")
    sys.exit(status)


def _overrides(argv: list[str]) -> list[str]:
    return [a.removeprefix("--config.") for a in argv if a.startswith("--config.")]


def default_workdir(config_path: str, overrides: dict[str, object], keys: Iterable[str], mode: str) -> pathlib.Path:
    """runs/NAME, followed by the overridden keys other than those of the data's location, and by the mode crossval.

    Args:
        config_path: of the config.
        overrides: key → value.
        keys: all keys of the config.
        mode: of the command. `evaluate` finds the run that was trained, with any `eval` keys.
    """
    from esc_jax.experiments.workdir import LOCATION_KEYS

    main_keys = [key for key in keys if not key.startswith("pretrain.")]

    def short(key: str) -> str:  # data.test_fold → test_fold, unless another key has the same last part
        leaf = key.rsplit(".", 1)[-1]
        return leaf if [k for k in main_keys if k.rsplit(".", 1)[-1] == leaf] == [key] else key

    def path(ignored_prefix: str = " ") -> pathlib.Path:
        kept = sorted(k for k in overrides if k not in LOCATION_KEYS and not k.startswith(ignored_prefix))
        parts = [f"{short(k)}={overrides[k]}".replace(" ", "") for k in kept] + ["crossval"] * (mode == "crossval")
        # Only characters, and only as many, as a file name can have.
        name = re.sub(r"[^\w.,=+-]", "_", ",".join([pathlib.Path(config_path).stem, *parts]))
        if len(name) > 200:
            name = f"{name[:190]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        return pathlib.Path("runs") / name

    default = path()
    return path("eval.") if mode == "evaluate" and not default.exists() else default


def _with_config_path(argv: list[str]) -> list[str]:
    """The arguments with the name of a config replaced by the path of its file."""
    from esc_jax import config as configs

    try:
        return [f"--config={configs.find(a[9:])}" if a.startswith("--config=") and a[9:] else a for a in argv]
    except ConfigError as error:
        _fail(error.status, error)


def _check_config_file(argv: list[str]) -> None:
    """Loads the config once, since absl drops the message of an exception inside it."""
    from esc_jax import config as configs

    for path in [a[9:] for a in argv if a.startswith("--config=") and a[9:]]:
        try:
            configs.load(path)
        except ConfigError as error:
            _fail(error.status, error)


def _parse(argv: list[str]) -> list[str]:
    """absl's parser, with the nearest key for a key that does not exist, and status 2 for a wrong command line."""
    if "--config" in argv[:-1]:  # --config NAME
        index = argv.index("--config")
        argv = [*argv[:index], f"--config={argv[index + 1]}", *argv[index + 2 :]]
    argv = _with_config_path(argv)
    _check_config_file(argv)
    try:
        return flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        path = next((a.split("=", 1)[1] for a in argv if a.startswith("--config=")), None)
        if path:
            _explain(path, argv)
        _fail(EX_USAGE, first_line(error))


def _explain(path: str, argv: list[str]) -> None:
    """Ends the process with a message for the first override that names no key, or has a value of another type."""
    from esc_jax import config as configs

    try:
        config = configs.load(path)
    except ConfigError as error:
        _fail(error.status, error)
    flat = configs.flatten(config)
    for override in _overrides(argv):
        key = override.split("=")[0]
        if key not in flat:
            _fail(EX_USAGE, configs.nearest(key, config))
    for override in _overrides(argv):
        key, equals, value = override.partition("=")
        if not equals:
            continue
        kind = type(flat[key]).__name__
        try:
            if isinstance(flat[key], (int, float)) and not isinstance(flat[key], bool):
                type(flat[key])(value)
        except ValueError:
            _fail(EX_USAGE, f"config.{key}={value}: expected a value of type {kind}, such as {flat[key]}")


def _run(config: Any, workdir: pathlib.Path, mode: str, from_crossval: str | None) -> str:
    """Runs the mode; returns the summary of the results."""
    import jax

    from esc_jax.experiments import crossval, crossval_quote, evaluate, probe, single
    from esc_jax.experiments import workdir as workdirs
    from esc_jax.experiments.artifacts import summary
    from esc_jax.runtime import processes
    from esc_jax.training.checkpoint import CheckpointError

    train: Any = {"train": single.train_and_evaluate, "probe": probe.probe_and_evaluate}[config.method]
    if from_crossval:
        if mode != "train":
            raise ConfigError(f"--from_crossval needs --mode=train, not {mode}")
        quote = crossval_quote.Quote.read(pathlib.Path(from_crossval), config)
        train = functools.partial(train, quote=quote)
    run = {"train": train, "crossval": crossval.cross_validate, "evaluate": evaluate.evaluate_again}[mode]
    needs_lock = mode != "evaluate" or workdir.is_dir()
    try:
        with workdirs.locked(workdir) if needs_lock else contextlib.nullcontext():
            return f"{summary(run(config, workdir))}\n  results: {workdir}"
    except CheckpointError as error:
        sys.stderr.write(f"esc_jax: {error}\n")
        sys.stderr.flush()
        os._exit(1)  # the threads of a failed write would each print a traceback on exit
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() > 1:
            processes.exit_lost_process(first_line(error))
        if not is_out_of_memory(error):
            raise
        known = describe_error(error)
        _fail(1, f"{known[1] if known else error}; {_MEMORY_ADVICE}")


def _refuse_urls(config: Any) -> None:
    """Ends the process if a folder that would be written to is an address of an object store, such as gs://bucket."""
    folders = {"--workdir": _WORKDIR.value, "--config.data.cache_dir": config.data.cache_dir}
    folders["ESC_JAX_CACHE"] = os.environ.get("ESC_JAX_CACHE")
    for name, folder in folders.items():
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", folder or ""):
            _fail(EX_USAGE, f"{name}={folder}: object stores and other URLs are not supported; give a local folder")


def _cache_root(config: Any) -> pathlib.Path:
    from esc_jax.data import cache

    return cache.cache_root(config.data.cache_dir)


def main(argv: list[str]) -> None:
    """Runs the mode and prints the results as a table."""
    if len(argv) > 1:
        _fail(EX_USAGE, f"{argv[1]}: unexpected argument; options are written as --name=value")
    flag, config = flags.FLAGS["config"], _CONFIG.value
    config_path = config_flags.get_config_filename(flag) if flag.present else ""
    if not config_path:
        _fail(EX_USAGE, "--config is missing: give an experiment, for example --config=configs/quickstart.py")
    if sys.platform == "win32":
        _fail(1, _WINDOWS)
    _refuse_urls(config)
    config.experiment = config.experiment or pathlib.Path(config_path).stem
    from esc_jax import config as configs
    from esc_jax.runtime import processes, xla

    overrides, keys = config_flags.get_override_values(flag), configs.flatten(config)
    workdir = pathlib.Path(_WORKDIR.value or default_workdir(config_path, overrides, keys, _MODE.value))
    try:
        configs.check(config)
        xla.initialize(_cache_root(config) / "compiled")
        if _DISTRIBUTED.value:
            processes.join_processes()
        # While a model is trained, the loop saves its state instead.
        with exit_resumable(lambda: "stopped", interrupt=False):
            text = _run(config, workdir, _MODE.value, _FROM_CROSSVAL.value)
    except UserError as error:
        _fail(error.status, error)
    except Exception as error:
        if (known := describe_error(error, workdir)) is None:
            raise
        _fail(*known)
    if processes.is_main_process():
        sys.stdout.write(f"{text}\n{_next_command(config, workdir)}")


def _next_command(config: Any, workdir: pathlib.Path) -> str:
    """A command to try after a finished run."""
    if (workdir / "checkpoints").is_dir():
        return f"Try it on a recording of yours: python -m esc_jax predict --model={workdir} FILE\n"
    text = f"Compare runs: python -m esc_jax report {workdir.parent}\n"
    if _MODE.value == "crossval":
        text += "Train on every clip: the same command with --mode=train --config.protocol=all"
        text += f" --from_crossval={workdir} and another --workdir\n"
    return text


def _configure_logging() -> None:
    """Shows messages of this package, and warnings of others, without absl's prefix."""
    import logging as std_logging

    logging.set_verbosity(logging.INFO)
    handler = logging.get_absl_handler()
    handler.setFormatter(std_logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    package = str(pathlib.Path(__file__).parent)
    # orbax logs every file that it touches. Its errors are raised as well, and reported in a sentence.
    handler.addFilter(
        lambda r: package in r.pathname or (r.levelname in ("WARNING", "ERROR") and "orbax" not in r.pathname)
    )


def cli() -> None:
    """Entry point of `python -m esc_jax.main`."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's advice to file a bug about slow compilation
    _configure_logging()
    if any(a in ("--help", "-h", "--helpshort", "--helpfull") for a in sys.argv[1:]):
        with contextlib.suppress(SystemExit, BrokenPipeError):  # absl ends with status 1 after its help
            app.run(main)
        sys.exit(0)
    try:
        app.run(main, flags_parser=_parse)
    except KeyboardInterrupt:  # before anything could be saved
        _fail(EX_INTERRUPTED, "interrupted; run the same command again to start over or resume the last checkpoint")


if __name__ == "__main__":
    cli()
