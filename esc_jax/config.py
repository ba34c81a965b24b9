"""The keys every config has, their defaults, and what is checked before anything starts.

An experiment is a file in configs/ whose `get_config()` takes `defaults(…)` and sets what differs. A key that is not
here, or in the architecture's own options, does not exist: a mistyped one is refused with the nearest that does.
"""

import difflib
import importlib.util
import json
import pathlib
import re
from typing import Any

import ml_collections

from esc_jax.augment import compose
from esc_jax.data import folds
from esc_jax.data.download import URL
from esc_jax.errors import UserError
from esc_jax.frontends import registry as frontends
from esc_jax.models import registry as models
from esc_jax.objectives import masked
from esc_jax.runtime import processes
from esc_jax.training import writers


class ConfigError(UserError, ValueError):
    """A config that cannot run. The message is one sentence that names the key."""


def _optim() -> dict[str, Any]:
    return {
        "lr": 1e-3,
        "weight_decay": 0.01,
        "b1": 0.9,  # unless cycle_momentum says otherwise
        "b2": 0.999,
        "eps": 1e-8,
        "clip_norm": 0.0,  # 0: no clipping
        "schedule": "one_cycle",
        "warmup_steps": -1,  # the first of these three that is not negative; none: no warm-up
        "warmup_epochs": -1.0,
        "warmup_percent": 30.0,
        "div": 25.0,  # one_cycle: peak over first
        "final_div": 1e4,  # one_cycle: first over last
        "cycle_momentum": True,  # one_cycle: β₁ falls from 0.95 to 0.85 while the rate rises, and rises again
        "groups": (),  # ((regular expression of parameter paths, factor of lr; 0 freezes), …)
        "layer_decay": 0.0,  # factor of lr from each layer of the encoder to the one before it; 0: off
        "unfreeze": (),  # ((regular expression of parameter paths, epochs that they stay), …)
    }


def defaults(model: str, head: str = "linear", frontend: str = "log_mel") -> ml_collections.ConfigDict:
    """A config of an architecture, everything optional turned off.

    Args:
        model: key of `models.registry.ENCODERS`.
        head: key of `models.registry.HEADS`.
        frontend: key of `frontends.registry.FRONTENDS`.
    """
    return ml_collections.ConfigDict(
        {
            "experiment": "",  # name of the config file; main fills it in
            "seed": 0,
            "protocol": "holdout",
            "method": "train",  # or "probe": a linear head on the frozen encoder
            "data": {
                "name": "esc50",  # esc50, esc10, gtzan, synthetic
                "dir": "",  # a folder or zip in the layout of ESC-50; empty: download it
                "url": URL,
                "cache_dir": "",  # downloads and prepared data; empty: the user's cache
                "test_fold": 5,
                "sample_rate": 32_000,
                "clip_s": 5.0,  # clips are cut or padded to this
                "mask_padding": False,  # tell the model what was padded; hubert and beats can leave it out
                "drop_leaky_sources": False,
                "on_bad_clip": "error",  # or "skip"
                "clips_per_fold": 8,  # of each class of the synthetic set
                "synthetic_seed": 0,
            },
            "frontend": frontends.defaults(frontend),
            "augment": compose.defaults(),
            "model": models.defaults(model, head),
            "optim": _optim(),
            "pretrain": {
                "method": "",  # simclr, masked; empty: none
                "rounds": 1,  # of masked: each further one predicts clusters of what the one before has learned
                "epochs": 100,  # of a round
                "batch_size": 128,
                "checkpoint_epochs": 5,
                "watch_epochs": 10,  # from one look at the embeddings to the next
                "temperature": 0.5,
                "hidden": 512,  # of the projection head, which is thrown away
                "width": 128,
                "clip_weight": 0.0,  # of masked: that what is seen tells the clip's mean too, of what is clustered
                "background": 0.0,  # largest share of another clip that is mixed into a view
                "mask": {
                    "patch": 16,  # frames and bins
                    "share": 0.4,  # of the patches that are hidden
                    "kind": "random",  # or "block", "time", "frequency"
                    "block": 3,  # patches along the sides of what is hidden together; random hides single ones
                    "predictor": 0,  # layers that guess from what the encoder sees, the visible; 0: it sees and guesses
                },
                "tokens": {
                    "clusters": 256,
                    "iterations": 50,  # of k-means, at most
                    "teacher": "",  # whose features are clustered in the first round: a published checkpoint or a run
                },
                "augment": compose.defaults(),
                "optim": _optim(),
            },
            "train": {
                "batch_size": 32,
                "accumulate": 1,  # parts of a device's batch whose gradients are summed, one after the other
                "epochs": 50,
                "head_from_probe": False,  # start the head from a linear probe on the encoder as it is
                "start_share": 0.0,  # of the weights it started from in those it ends with
                "label_smoothing": 0.0,
                "ema": 0.0,  # decay of the weights' average; 0: off
                "checkpoint_epochs": 1,
                "tensorboard": True,
            },
            "probe": {
                "seeds": 1,  # starting points of the solver, which must all end in the same head
            },
            "crossval": {
                "folds": (),  # those to test on; empty: all that the data have
                "seeds": 1,  # runs per fold: seed, seed + 1, …
                "vectorized": False,  # all of them at once, in one program
            },
            "eval": {
                "batch_size": 50,
                "tta": 5,  # views averaged; 0: none
            },
        }
    )


def load(path: str | pathlib.Path) -> ml_collections.ConfigDict:
    """The config of a file in configs/. Raises ConfigError where there is no such file, or no `get_config()` in it."""
    if not pathlib.Path(path).is_file():
        raise ConfigError(f"--config={path} does not exist")
    spec = importlib.util.spec_from_file_location("config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ConfigError(f"--config={path} has no get_config()")
    return module.get_config()


# Key: (lowest, highest) allowed.
_RANGES = {
    "seed": (0, (1 << 31) - 2000),  # crossval.seeds counts on from it
    "data.clip_s": (0.05, 3600),
    "data.clips_per_fold": (1, 10_000),
    "pretrain.rounds": (1, 100),
    "pretrain.epochs": (1, 1 << 20),
    "pretrain.batch_size": (2, 1 << 20),
    "pretrain.checkpoint_epochs": (1, 1 << 20),
    "pretrain.watch_epochs": (1, 1 << 20),
    "pretrain.temperature": (0.001, 100),
    "pretrain.hidden": (1, 1 << 16),
    "pretrain.width": (1, 1 << 16),
    "pretrain.clip_weight": (0, 1e6),
    "pretrain.background": (0, 1),
    "pretrain.mask.patch": (1, 1024),
    "pretrain.mask.share": (0, 1),
    "pretrain.mask.block": (1, 1024),
    "pretrain.mask.predictor": (0, 100),
    "pretrain.tokens.clusters": (2, 1 << 20),
    "pretrain.tokens.iterations": (1, 10_000),
    "augment.roll": (0, 1),
    "augment.crop_s": (0, 3600),
    "augment.crop_tries": (1, 100),
    "augment.speed_octaves": (0, 2),
    "augment.gain_db": (0, 60),
    "augment.noise": (0, 10),
    "augment.mixup_alpha": (0, 100),
    "augment.mixup_probability": (0, 1),
    "augment.frequency_warp": (0, 0.5),
    "augment.time_mask": (0, 10_000),
    "augment.freq_mask": (0, 10_000),
    "augment.mask_count": (1, 20),
    "optim.lr": (0, 100),
    "optim.weight_decay": (0, 10),
    "optim.b1": (0, 0.9999),
    "optim.b2": (0, 0.999999),
    "optim.eps": (1e-12, 1),
    "optim.div": (1, 1e9),
    "optim.final_div": (1, 1e12),
    "optim.clip_norm": (0, 1e6),
    "optim.layer_decay": (0, 1),
    "train.batch_size": (1, 1 << 20),
    "train.accumulate": (1, 1 << 20),
    "train.epochs": (1, 1 << 20),
    "train.start_share": (0, 1),
    "train.label_smoothing": (0, 0.99),
    "train.ema": (0, 0.99999),
    "train.checkpoint_epochs": (1, 1 << 20),
    "probe.seeds": (1, 1000),
    "crossval.seeds": (1, 1000),
    "eval.batch_size": (1, 1 << 20),
    "eval.tta": (0, 1000),
}
_CHOICES = {
    "protocol": folds.PROTOCOLS,
    "method": ("train", "probe"),
    "pretrain.method": ("", "simclr", "masked"),
    "pretrain.mask.kind": masked.KINDS,
    "data.on_bad_clip": ("error", "skip"),
    "augment.mixup_on": ("waveform", "spectrogram"),
    "model.dtype": ("float32", "bfloat16"),
}

# Where the same data lie, and what is not part of the result: free to differ when a run is resumed.
LOCATION_KEYS = ("data.dir", "data.url", "data.cache_dir", "train.tensorboard", "train.checkpoint_epochs", "experiment")


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Every key of a config with its value, `train.batch_size` and so on."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, (dict, ml_collections.ConfigDict)):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def nearest(key: str, config: Any) -> str:
    """The sentence for a key that does not exist."""
    keys = list(flatten(config))
    leaf = key.rsplit(".", 1)[-1]
    near = [k for k in keys if k.rsplit(".", 1)[-1] == leaf]  # a right name in the wrong place
    near = ([k for k in near if not k.startswith("pretrain.")] or near)[:3]
    near = near or difflib.get_close_matches(key, keys, 1, 0.5)
    near = near or [k for k in keys if difflib.get_close_matches(leaf, [k.rsplit(".", 1)[-1]], 1, 0.7)][:1]
    return f"there is no config.{key}" + (f"; did you mean {' or '.join(f'config.{k}' for k in near)}?" if near else "")


def check(config: ml_collections.ConfigDict) -> None:
    """Raises ConfigError or ModelError for values that cannot be, before anything is downloaded or compiled."""
    flat = flatten(config)
    # The pretraining stage has augmentations and an optimizer of its own, with the same limits.
    again = {f"pretrain.{key}": limits for key, limits in _RANGES.items() if key.startswith(("augment.", "optim."))}
    for key, (low, high) in (_RANGES | again).items():
        if not low <= flat[key] <= high:
            raise ConfigError(f"config.{key}={flat[key]} is out of range: it goes from {low:g} to {high:g}")
    for key, choices in _CHOICES.items():
        if flat[key] not in choices:
            near = difflib.get_close_matches(str(flat[key]), choices, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"config.{key}={flat[key]}: choose one of {', '.join(choices)}{hint}")
    models.build(config.model, 2)  # says what makes no model; nothing is computed
    if (config.train.head_from_probe or config.method == "probe") and config.model.head.name != "linear":
        raise ConfigError(f"config.model.head.name={config.model.head.name}: a probe fits a linear head")
    if config.data.mask_padding:
        if config.model.name not in models.MASKING:
            raise ConfigError(
                f"config.data.mask_padding: to model.name={config.model.name} padding is silence;"
                f" {' and '.join(models.MASKING)} can leave it out"
            )
        for key in ("pretrain.method", "augment.crop_s"):
            if flat[key]:
                raise ConfigError(
                    f"config.{key}={flat[key]} takes padding for silence, and needs data.mask_padding=False"
                )
    if config.method == "probe":
        for key, usual in (("protocol", "holdout"), ("pretrain.method", ""), ("crossval.seeds", 1)):
            if flat[key] != usual:
                raise ConfigError(f"config.{key}={flat[key]}: a probe does not do that (config.method=probe)")
    if config.train.start_share and config.protocol != "holdout":
        raise ConfigError(
            f"config.train.start_share is of the last weights, and config.protocol={config.protocol} selects others"
        )
    for prefix, part in (("", config), ("pretrain.", config.pretrain)):
        if part.optim.lr <= 0:
            raise ConfigError(f"config.{prefix}optim.lr={part.optim.lr} must be above 0")
        if part.augment.crop_s > config.data.clip_s:
            raise ConfigError(
                f"config.{prefix}augment.crop_s={part.augment.crop_s:g} is longer than the clips"
                f" (config.data.clip_s={config.data.clip_s:g})"
            )
        if part.augment.speed_octaves and not part.augment.crop_s:
            raise ConfigError(
                f"config.{prefix}augment.speed_octaves needs a crop to stretch: set config.{prefix}augment.crop_s"
            )
    own = config.pretrain.augment
    if own.mixup_alpha:
        raise ConfigError("config.pretrain.augment.mixup_alpha mixes labels: set config.pretrain.background")
    unused = ("frequency_warp", "time_mask", "freq_mask") if config.pretrain.method == "masked" else ()
    for key in (*unused, "mel_jitter"):
        if own[key]:
            raise ConfigError(f"config.pretrain.augment.{key}={own[key]} has no part in this pretraining")
    if config.augment.mel_jitter and config.frontend.name != "efficientat_mel":
        raise ConfigError(f"config.augment.mel_jitter: frontend.name={config.frontend.name} has none to move")
    try:
        re.compile(config.model.evaluating)
    except re.error as error:
        raise ConfigError(
            f"config.model.evaluating={config.model.evaluating} is not a regular expression ({error})"
        ) from None
    if config.augment.mixup_alpha and config.train.batch_size < 2:
        raise ConfigError("config.augment.mixup_alpha mixes pairs: config.train.batch_size must be at least 2")


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Keys in which two flat configs differ, as "key (old, now new)"; LOCATION_KEYS may.

    One that only one of them has is a later version's, and is off (0, empty) where it makes no difference.
    """
    old, new = json.loads(json.dumps(old)), json.loads(json.dumps(new))  # a tuple is a list once it was on disk
    keys = sorted((set(old) | set(new)) - set(LOCATION_KEYS))
    off = {k for k in keys if not (old.get(k) or new.get(k)) and (k not in old or k not in new)}
    return [f"{k} ({old.get(k)}, now {new.get(k)})" for k in keys if k not in off and old.get(k) != new.get(k)]


def claim(workdir: pathlib.Path, config) -> None:
    """Makes a workdir this config's own, or raises ConfigError where it is another's."""
    path = workdir / "config.json"
    if path.exists() and (changed := differences(flatten(json.loads(path.read_text())), flatten(config))):
        raise ConfigError(
            f"{workdir} holds a run of another config: {'; '.join(changed[:3])}{' …' if len(changed) > 3 else ''};"
            " choose another --workdir"
        )
    if processes.is_main_process():
        workdir.mkdir(parents=True, exist_ok=True)
        writers.write_json(path, config.to_dict())
    processes.barrier(f"{workdir} is claimed")
