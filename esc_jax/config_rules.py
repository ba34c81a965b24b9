"""Rules between the keys of a config: options that exclude or need one another, and names that do not exist."""

from collections.abc import Mapping
import difflib
import re
from typing import Any

from esc_jax.augment import mix, views
from esc_jax.augment import options as augmentations
from esc_jax.data import folds
from esc_jax.errors import ConfigError
from esc_jax.models import registry as models
from esc_jax.tasks import registry as tasks


def check_name(kind: str, name: str, known: Mapping[str, Any]) -> None:
    """Raises ConfigError for a name that does not exist."""
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"there is no {kind} {name}; choose one of {', '.join(known)}{hint}")


def check_augment(config: Any, prefix: str) -> None:
    """Raises ConfigError for augmentation and rates that exclude one another, of one stage."""
    stage = config.pretrain if prefix else config
    augment = stage.augment
    if stage.optim.lr <= 0:
        raise ConfigError(f"config.{prefix}optim.lr={stage.optim.lr} must be above 0")
    if augment.crop_s > config.data.clip_s:
        raise ConfigError(
            f"config.{prefix}augment.crop_s={augment.crop_s:g} is longer than the clips"
            f" (config.data.clip_s={config.data.clip_s:g})"
        )
    if augment.speed_octaves and not augment.crop_s:
        raise ConfigError(f"config.{prefix}augment.speed_octaves needs a crop: set config.{prefix}augment.crop_s")
    augmentations.check(augment, config.frontend, f"{prefix}augment.")


def check_method(config: Any, flat: Mapping[str, Any]) -> None:
    """Raises ConfigError for options that the method, the model or the protocol excludes."""
    if (config.train.head_from_probe or config.method == "probe") and config.model.head.name != "linear":
        raise ConfigError(f"config.model.head.name={config.model.head.name}: a probe fits a linear head")
    if (config.train.head_from_probe or config.method == "probe") and config.model.head.pooling != "mean":
        raise ConfigError(
            f"config.model.head.pooling={config.model.head.pooling}: a probe fits the linear layer alone; use mean"
        )
    pooling, levels = config.model.head.get("pooling", "mean"), config.model.encoder.get("embedding", "last")
    if pooling != "mean" and levels != "last":
        raise ConfigError(
            f"config.model.head.pooling={pooling} pools the last feature map, so that"
            f" config.model.encoder.embedding={levels} has no effect: set it to last"
        )
    if config.data.mask_padding:
        if not models.uses_padding(config.model.name):
            raise ConfigError(
                f"config.data.mask_padding=True: model.name={config.model.name} has no padding mask; the models that"
                f" have one are {' and '.join(filter(models.uses_padding, models.ENCODERS))}"
            )
        for key in ("pretrain.objective", "augment.crop_s", "augment.resample"):
            if flat[key]:
                raise ConfigError(f"config.{key}={flat[key]} requires config.data.mask_padding=False")
    if config.method == "probe":
        for key, allowed in (
            ("protocol", ("holdout", "all")),
            ("pretrain.objective", ("",)),
            ("crossval.seeds", (1,)),
            ("distill.teacher", ("",)),
            ("train.calibration_share", (0,)),  # a probe is calibrated inside its training folds
        ):
            if flat[key] not in allowed:
                raise ConfigError(f"config.{key}={flat[key]} is not available with config.method=probe")
    if 0 < config.train.calibration_share < 0.01:
        raise ConfigError(f"config.train.calibration_share={config.train.calibration_share} must be 0 or at least 0.01")
    if config.train.calibration_share and config.protocol == "validation":
        raise ConfigError(
            "config.train.calibration_share has no effect with config.protocol=validation, whose validation fold fits"
            " the calibration: set it to 0"
        )
    if config.train.wise_ft_alpha < 1 and config.protocol in folds.SELECTING:
        raise ConfigError(
            f"config.train.wise_ft_alpha applies to the last weights, but config.protocol={config.protocol} selects"
            " others"
        )
    if config.augment.mel_jitter and config.frontend.name != "efficientat_mel":
        raise ConfigError(
            f"config.augment.mel_jitter=True requires frontend.name=efficientat_mel, not {config.frontend.name}"
        )
    if config.train.label_smoothing and config.train.loss == "binary":
        raise ConfigError(
            f"config.train.label_smoothing={config.train.label_smoothing:g} is for the cross-entropy of one class:"
            " set it to 0 with config.train.loss=binary"
        )
    _check_mixup(config)
    _check_views(config)
    if config.augment.mixup_alpha and config.train.batch_size < 2:
        raise ConfigError("config.augment.mixup_alpha mixes pairs: config.train.batch_size must be at least 2")
    for key, pattern in (
        ("model.eval_mode", config.model.eval_mode),
        ("data.group_pattern", config.data.group_pattern),
    ):
        try:
            re.compile(pattern)
        except re.error as error:
            raise ConfigError(f"config.{key}={pattern} is not a regular expression ({error})") from None


def _check_views(config: Any) -> None:
    """Raises ConfigError for views that cannot be made of the clips."""
    options = config.eval
    if options.views == "crops" and options.tta and options.view_crop_s > config.data.clip_s:
        raise ConfigError(
            f"config.eval.view_crop_s={options.view_crop_s:g} is longer than the clips"
            f" (config.data.clip_s={config.data.clip_s:g})"
        )
    if options.views != views.ROTATIONS and (config.data.mask_padding or config.method == "probe"):
        other = "data.mask_padding=True" if config.data.mask_padding else "method=probe"
        raise ConfigError(
            f"config.eval.views={options.views} is not available with config.{other}: use {views.ROTATIONS}"
        )
    if options.view_average == "logits" and config.method == "probe":
        raise ConfigError("config.eval.view_average=logits is not available with config.method=probe")


def _check_mixup(config: Any) -> None:
    """Raises ConfigError for ways of mixing that exclude one another."""
    augment = config.augment
    if not augment.mixup_kinds or not all(isinstance(kind, str) for kind in augment.mixup_kinds):
        raise ConfigError(
            f"config.augment.mixup_kinds={augment.mixup_kinds} must name some of {', '.join(mix.WAVEFORM_MIXES)}"
        )
    for kind in augment.mixup_kinds:
        if kind not in mix.WAVEFORM_MIXES:
            near = difflib.get_close_matches(kind, mix.WAVEFORM_MIXES, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"config.augment.mixup_kinds: {kind} is not one of {', '.join(mix.WAVEFORM_MIXES)}{hint}")
    on_spectrogram = augment.mixup_alpha and augment.mixup_on == "spectrogram"
    if on_spectrogram and tuple(augment.mixup_kinds) != ("loudness",):
        raise ConfigError("config.augment.mixup_kinds mixes waveforms: set config.augment.mixup_on to waveform")
    if on_spectrogram and config.distill.teacher:
        raise ConfigError("config.distill.teacher gets mixed waveforms: set config.augment.mixup_on to waveform")
    multi_hot = config.task in tasks.TASKS and tasks.TASKS[config.task].multi_hot
    if augment.mixup_targets == "union" and not multi_hot and config.train.loss != "binary":
        raise ConfigError("config.augment.mixup_targets=union gives several classes: set config.train.loss to binary")
