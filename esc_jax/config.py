"""The keys of a config, their defaults, and what is checked before anything starts.

An experiment is a file in configs/ whose `get_config()` starts from `defaults(…)`, or from another config with
`load(NAME)`, and sets what differs. A key that is neither here nor in the options of the chosen model, frontend or
objective does not exist: a mistyped key is refused, with the nearest one that exists.
"""

from collections.abc import Mapping, Sequence
import difflib
import importlib.util
import pathlib
import re
import traceback
from typing import Any

import ml_collections

from esc_jax import config_rules as rules
from esc_jax.augment import options as augmentations
from esc_jax.augment import views
from esc_jax.data import folds, resident
from esc_jax.data.download import URL
from esc_jax.errors import ConfigError, first_line
from esc_jax.frontends import registry as frontends
from esc_jax.models import registry as models
from esc_jax.objectives import distillation
from esc_jax.objectives import registry as objectives
from esc_jax.objectives.supervised import Supervised
from esc_jax.tasks import registry as tasks
from esc_jax.training import optim

_PACKAGE = pathlib.Path(__file__).parent
# Where configs are found by name: inside an installed package, or beside it in a checkout.
CONFIG_FOLDERS = (_PACKAGE / "configs", _PACKAGE.parent / "configs")


def defaults(model: str, head: str = "linear", frontend: str = "log_mel") -> ml_collections.ConfigDict:
    """A config of an architecture, with everything optional turned off.

    Args:
        model: key of `models.registry.ENCODERS`.
        head: key of `models.registry.HEADS`.
        frontend: key of `frontends.registry.FRONTENDS`.
    """
    rules.check_name("model", model, models.ENCODERS)
    rules.check_name("head", head, models.HEADS)
    rules.check_name("frontend", frontend, frontends.FRONTENDS)
    return _locked(
        {
            "experiment": "",  # name of the config file; main sets it
            "seed": 0,
            "protocol": "holdout",
            "method": "train",  # or "probe": a linear head on the frozen encoder
            "task": "auto",  # single_label or multi_label; auto: that of the data
            "data": {
                "name": "esc50",  # key of `data.datasets.registry.DATASETS`
                "dir": "",  # folder, zip or csv file of the data set; empty: download ESC-50
                "url": URL,
                "cache_dir": "",  # downloads and prepared data; empty: the user's cache
                "test_fold": 5,
                "sample_rate": 32_000,
                "clip_s": 5.0,  # clips are cut or padded to this length
                "mask_padding": False,  # pass a padding mask to the model; hubert and beats use it
                "drop_leaky_sources": False,
                "on_bad_clip": "error",  # or "skip"
                "folds": 5,  # number of folds of data without folds
                "group_pattern": "auto",  # regular expression: the recording in the name of a file; empty: none
                "columns": {"file": "", "labels": "", "fold": "", "group": ""},  # of a csv; empty: by the usual names
                "label_separator": "auto",  # between several labels in one cell of a csv; empty: one label each
                "background": "",  # folder of sounds that are none of the classes; used for training only
                "on_device": "auto",  # "true": keep all clips in the memory of the devices; auto: on a GPU or TPU
                "clips_per_fold": 8,  # of each class of the synthetic set
                "synthetic_seed": 0,
            },
            "frontend": frontends.defaults(frontend),
            "augment": augmentations.defaults(),
            "model": models.defaults(model, head),
            "optim": optim.defaults(),
            "pretrain": {"objective": ""},  # replaced by `pretrain_defaults(OBJECTIVE)`
            "train": {
                "batch_size": 32,
                "accumulate": 1,  # parts of a device's batch whose gradients are summed, one after the other
                "epochs": 50,
                "head_from_probe": False,  # start the head from a linear probe on the initial encoder
                "wise_ft_alpha": 1.0,  # share of the trained weights in the final ones; the rest is the initial weights
                "ema": 0.0,  # decay of the moving average of the weights; 0: off
                "class_balance": "",  # "sampling" or "loss": rare classes count as much as frequent ones
                "calibration_share": 0.0,  # share of the training recordings that is held out to fit the calibration
                "steps_per_call": "auto",  # training steps between two dispatches; auto: 16 on a GPU or TPU, 1 on a CPU
                "checkpoint_epochs": 1,
                "tensorboard": True,
                **Supervised.defaults(),
            },
            "distill": distillation.defaults(),
            "probe": {
                "seeds": 1,  # starting points of the solver
            },
            "crossval": {
                "folds": (),  # test folds; empty: all folds of the data
                "seeds": 1,  # runs of each fold: seed, seed + 1, …
                "vectorized": False,  # all runs at once, in one program
            },
            "eval": {
                "batch_size": 50,
                "tta": 5,  # number of views of a test clip that are averaged; 0: none
                "views": views.ROTATIONS,  # or "crops" of view_crop_s, or "speeds" up to ±view_octaves
                "view_average": "probabilities",  # or "logits"
                "view_crop_s": 2.5,
                "view_octaves": 0.1,
            },
        }
    )


def pretrain_defaults(objective: str) -> ml_collections.ConfigDict:
    """The `pretrain` part of a config with a self-supervised stage: common keys and those of the objective.

    Args:
        objective: key of `objectives.registry.PRETRAINING`.
    """
    rules.check_name("objective", objective, objectives.PRETRAINING)
    common = {
        "objective": objective,
        "epochs": 100,  # of a round
        "batch_size": 128,
        "checkpoint_epochs": 5,
        "monitor_epochs": 10,  # epochs between two evaluations of the embeddings
        "augment": augmentations.defaults(),
        "optim": optim.defaults(),
    }
    specific = objectives.defaults(objective)
    assert not common.keys() & specific.keys(), "an objective must not redefine a common key"
    return _locked(common | specific)


def _locked(values: dict[str, Any]) -> ml_collections.ConfigDict:
    """A config without further keys: setting a key that does not exist raises an error."""
    return ml_collections.ConfigDict(values).lock()


def find(name_or_path: str | pathlib.Path) -> pathlib.Path:
    """The file of a config: a path, or the name of one of the project's own configs.

    Raises:
        ConfigError: neither exists.
    """
    path = pathlib.Path(name_or_path)
    if path.is_file():
        return path
    names: dict[str, pathlib.Path] = {}
    for folder in reversed(CONFIG_FOLDERS):
        names |= {file.stem: file for file in folder.glob("*.py") if file.stem != "__init__"}
    # configs/resnet34.py names the project's own config also from another folder.
    name = path.stem if path.suffix == ".py" and path.parent.name == "configs" else str(path)
    if name in names:
        return names[name]
    near = difflib.get_close_matches(path.stem, names, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ConfigError(f"--config={name_or_path} does not exist{hint}")


def load(name_or_path: str | pathlib.Path) -> ml_collections.ConfigDict:
    """The config of a file, or of one of the project's own configs by its name.

    Raises:
        ConfigError: there is no such file, it defines no `get_config()`, or it raises an exception.
    """
    path = find(name_or_path)
    spec = importlib.util.spec_from_file_location("config", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"--config={name_or_path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise ConfigError(f"--config={name_or_path} has no get_config()")
        config = module.get_config()
        if not isinstance(config, ml_collections.ConfigDict):
            raise ConfigError(
                f"--config={name_or_path}: get_config() returns {type(config).__name__}, not a ConfigDict"
            )
        return config
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"--config={name_or_path}{_line_of(error, path)}: {_reason(error)}") from error


def _line_of(error: Exception, path: pathlib.Path) -> str:
    """ ", line N" of the last line of a config file that an exception came from."""
    if isinstance(error, SyntaxError):
        return f", line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f", line {lines[-1]}" if lines else ""


def _reason(error: Exception) -> str:
    """Name and message of an exception; for a key that does not exist, the nearest one."""
    if locked := re.search(r'Key "(\w+)" does not exist', str(error)):
        near = re.search(r'Did you mean "(\w+)"', str(error))
        return f"there is no key {locked[1]}" + (f"; did you mean {near[1]}?" if near else "")
    return f"{type(error).__name__}: {first_line(error)}"


# Key: (lowest, highest) allowed.
_RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, (1 << 31) - 2000),  # crossval.seeds counts on from it
    "data.clip_s": (0.05, 3600),
    "data.clips_per_fold": (1, 10_000),
    "data.synthetic_seed": (0, 1 << 31),
    "data.folds": (2, 100),
    "train.batch_size": (1, 1 << 20),
    "train.accumulate": (1, 1 << 20),
    "train.epochs": (1, 1 << 20),
    "train.wise_ft_alpha": (0, 1),
    "train.ema": (0, 0.99999),
    "train.calibration_share": (0, 0.5),
    "train.checkpoint_epochs": (1, 1 << 20),
    "probe.seeds": (1, 1000),
    "crossval.seeds": (1, 1000),
    "eval.batch_size": (1, 1 << 20),
    "eval.tta": (0, 1000),
    "eval.view_crop_s": (0.001, 3600),
    "eval.view_octaves": (0, 2),
}
_RANGES |= {f"train.{key}": limits for key, limits in Supervised.ranges.items()}
_RANGES |= {f"distill.{key}": limits for key, limits in distillation.RANGES.items()}
_PRETRAIN_RANGES: dict[str, tuple[float, float]] = {
    "pretrain.epochs": (1, 1 << 20),
    "pretrain.batch_size": (2, 1 << 20),
    "pretrain.checkpoint_epochs": (1, 1 << 20),
    "pretrain.monitor_epochs": (1, 1 << 20),
}
_AUGMENT_RANGES = {f"augment.{key}": limits for key, limits in augmentations.RANGES.items()}
_CHOICES: dict[str, Sequence[str]] = {
    "protocol": folds.PROTOCOLS,
    "method": ("train", "probe"),
    "train.class_balance": ("", "sampling", "loss"),
    "data.on_bad_clip": ("error", "skip"),
    "data.on_device": resident.MODES,
    "eval.views": views.KINDS,
    "eval.view_average": ("probabilities", "logits"),
    **{f"augment.{key}": names for key, names in augmentations.CHOICES.items()},
    "train.loss": Supervised.choices["loss"],
    "model.dtype": ("float32", "bfloat16"),
}


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Every key of a config with its value: `train.batch_size` and so on."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, (dict, ml_collections.ConfigDict)):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def nearest(key: str, config: Any) -> str:
    """The sentence for a key that does not exist."""
    if owners := [name for name in objectives.PRETRAINING if key in _stage_keys(name)]:
        current = config.pretrain.objective or '""'
        return (
            f"there is no config.{key}: config.pretrain.objective={current}, and the key is one of {', '.join(owners)}"
        )
    keys = list(flatten(config))
    leaf = key.rsplit(".", 1)[-1]
    near = [k for k in keys if k.rsplit(".", 1)[-1] == leaf]  # the right name in the wrong place
    near = ([k for k in near if not k.startswith("pretrain.")] or near)[:3]
    near = near or difflib.get_close_matches(key, keys, 1, 0.5)
    near = near or [k for k in keys if difflib.get_close_matches(leaf, [k.rsplit(".", 1)[-1]], 1, 0.7)][:1]
    hint = f"; did you mean {' or '.join(f'config.{k}' for k in near)}?" if near else ""
    return f"there is no config.{key}{hint}"


def check(config: ml_collections.ConfigDict) -> None:
    """Checks the values of a config, before anything is downloaded or compiled.

    Raises:
        ConfigError, ModelError, FrontendError, OptimError: a value is impossible, or values exclude one another.
    """
    flat = flatten(config)
    _check_choices(flat)
    objective = objectives.PRETRAINING.get(config.pretrain.objective)
    ranges = _RANGES | _AUGMENT_RANGES | {f"optim.{key}": limits for key, limits in optim.RANGES.items()}
    if objective:
        _check_stage(config, flat)
        ranges |= {f"pretrain.{k}": v for k, v in ranges.items() if k.startswith(("augment.", "optim."))}
        ranges |= _PRETRAIN_RANGES | {f"pretrain.{key}": limits for key, limits in objective.ranges.items()}
    for key, (low, high) in ranges.items():
        if isinstance(flat[key], bool) or not isinstance(flat[key], (int, float)):
            raise ConfigError(f"config.{key}={flat[key]} must be a number from {low} to {high}")
        if not low <= flat[key] <= high:
            raise ConfigError(f"config.{key}={flat[key]} is out of range: it must be between {low} and {high}")
    if (steps := config.train.steps_per_call) != "auto" and not (steps.isdecimal() and 1 <= int(steps[:5]) <= 1024):
        raise ConfigError(f"config.train.steps_per_call={steps} must be auto or a number from 1 to 1024")
    models.build(config.model, 2)  # raises ModelError; nothing is computed
    if config.model.pretrained:  # the settings of the frontend are those of the checkpoint
        frontends.check(config.frontend)
    else:
        frontends.build(config.frontend, config.data.sample_rate)
    optim.check(config.optim)
    rules.check_augment(config, "")
    rules.check_method(config, flat)
    if objective:
        with optim.prefixed_errors("pretrain."):
            optim.check(config.pretrain.optim)
        rules.check_augment(config, "pretrain.")
        if config.pretrain.augment.mixup_alpha:
            raise ConfigError("config.pretrain.augment.mixup_alpha mixes labels: use config.pretrain.background_mix")
        if config.pretrain.augment.mel_jitter:
            raise ConfigError("config.pretrain.augment.mel_jitter=True has no effect in pretraining: set it to False")
        objective.check(config)


def _check_choices(flat: Mapping[str, Any]) -> None:
    choices = _CHOICES | {"task": ("auto", *tasks.TASKS), "pretrain.objective": ("", *objectives.PRETRAINING)}
    if objective := objectives.PRETRAINING.get(flat["pretrain.objective"]):
        stage = dict(objective.choices) | {f"augment.{key}": names for key, names in augmentations.CHOICES.items()}
        choices |= {f"pretrain.{key}": allowed for key, allowed in stage.items() if f"pretrain.{key}" in flat}
    for key, allowed in choices.items():
        if flat[key] not in allowed:
            near = difflib.get_close_matches(str(flat[key]), [choice for choice in allowed if choice], 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            shown = ", ".join(choice or '""' for choice in allowed)
            raise ConfigError(f"config.{key}={flat[key]}: choose one of {shown}{hint}")


def _stage_keys(objective: str) -> set[str]:
    """All keys of a self-supervised stage: `pretrain.batch_size` and so on."""
    return set(flatten(pretrain_defaults(objective), "pretrain."))


def _check_stage(config: Any, flat: Mapping[str, Any]) -> None:
    """Raises ConfigError where the keys of `pretrain` are not those of its objective."""
    name = config.pretrain.objective
    if _stage_keys(name) != {key for key in flat if key.startswith("pretrain.")}:
        raise ConfigError(
            f"config.pretrain.objective={name}: the keys of config.pretrain are those of another objective; start from"
            f' a config with config.pretrain = pretrain_defaults("{name}")'
        )
