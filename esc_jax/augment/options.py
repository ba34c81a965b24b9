"""The keys of a config's `augment`: defaults, ranges, and what excludes what."""

from collections.abc import Sequence
from typing import Any

from esc_jax.augment import resample, waveform
from esc_jax.errors import ConfigError

Range = tuple[float, float]


def defaults() -> dict[str, Any]:
    """Keys of a config's `augment`, with everything turned off."""
    return {
        "roll": 0.0,  # rotation in time, as a fraction of the clip
        "crop_s": 0.0,  # length of random crops, s; 0: whole clips
        "crop_tries": 1,  # number of windows drawn, of which the loudest is used
        "speed_octaves": 0.0,  # largest change of a crop's speed
        "gain_db": 0.0,  # largest change of level
        "noise": 0.0,  # largest level of white noise, as a fraction of the clip's RMS
        "resample": (),  # factors, one of which changes the length of all clips of a batch before they are cropped
        "resample_probability": 0.5,
        "resample_draw": "batch",  # draw a factor for each "batch" or "example"
        "flip_sign": 0.0,  # probability of a change of sign
        "equalizer_bands": 0,  # number of random peaking and shelving filters
        "equalizer_db": 6.0,  # largest gain of a filter
        "wave_mask": 0.0,  # part of the clip that is silenced, as a fraction
        "wave_mask_probability": 0.5,
        "color_noise": (),  # colours of noise, keys of `waveform.NOISE_COLORS`, one of which is drawn
        "color_noise_probability": 0.5,
        "color_noise_snr_min": 30.0,  # dB
        "color_noise_snr_max": 35.0,
        "mixup_alpha": 0.0,  # mixes pairs of examples and their targets
        "mixup_probability": 1.0,
        "mixup_on": "waveform",  # or "spectrogram"
        "mixup_kinds": ("loudness",),  # keys of `mix.WAVEFORM_MIXES`, one of which is drawn
        "mixup_draw": "batch",  # draw a kind for each "batch" or "example"
        "mixup_start_epoch": 0,  # epochs without mixup at the start
        "mixup_targets": "share",  # or "union": all classes of both clips
        "mel_jitter": False,  # random edges of the mel bank in each step; for frontend efficientat_mel
        "freq_mixstyle_alpha": 0.0,  # mixes mean and deviation of each bin with those of another example
        "freq_mixstyle_probability": 0.5,
        "filter_db": 0.0,  # FilterAugment: largest gain of a frequency band
        "filter_kind": "linear",  # or "step"
        "filter_bands_min": 3,
        "filter_bands_max": 5,
        "filter_narrowest": 6,  # bins of a band
        "frequency_warp": 0.0,  # stretches and shifts the frequency axis
        "time_mask": 0,  # SpecAugment: widest mask, frames
        "freq_mask": 0,  # SpecAugment: widest mask, bins
        "mask_count": 2,
    }


# Key: (lowest, highest) allowed.
RANGES: dict[str, Range] = {
    "roll": (0, 1),
    "crop_s": (0, 3600),
    "crop_tries": (1, 100),
    "speed_octaves": (0, 2),
    "gain_db": (0, 60),
    "noise": (0, 10),
    "resample_probability": (0, 1),
    "flip_sign": (0, 1),
    "equalizer_bands": (0, 20),
    "equalizer_db": (0, 30),
    "wave_mask": (0, 0.9),
    "wave_mask_probability": (0, 1),
    "color_noise_probability": (0, 1),
    "color_noise_snr_min": (-30, 120),
    "color_noise_snr_max": (-30, 120),
    "mixup_alpha": (0, 100),
    "mixup_probability": (0, 1),
    "mixup_start_epoch": (0, 1 << 20),
    "freq_mixstyle_alpha": (0, 100),
    "freq_mixstyle_probability": (0, 1),
    "filter_db": (0, 60),
    "filter_bands_min": (2, 64),
    "filter_bands_max": (2, 64),
    "filter_narrowest": (1, 1000),
    "frequency_warp": (0, 0.5),
    "time_mask": (0, 10_000),
    "freq_mask": (0, 10_000),
    "mask_count": (1, 20),
}
_WHOLE = ("equalizer_bands", "filter_bands_min", "filter_bands_max", "filter_narrowest")
CHOICES: dict[str, Sequence[str]] = {
    "resample_draw": ("batch", "example"),
    "mixup_on": ("waveform", "spectrogram"),
    "mixup_draw": ("batch", "example"),
    "mixup_targets": ("share", "union"),
    "filter_kind": ("step", "linear"),
}
_RESAMPLE_RANGE = (0.5, 2.0)
# Keys of the augmentations of a spectrogram, which the raw waveform cannot have; 0 turns them off.
ON_SPECTROGRAM = ("frequency_warp", "time_mask", "freq_mask", "filter_db", "freq_mixstyle_alpha")


def check(augment: Any, frontend: Any, prefix: str) -> None:
    """Checks the options that have no plain range, after the ranges.

    Args:
        augment: `augment` of a config.
        frontend: `frontend` of the config.
        prefix: of the keys in messages, such as "pretrain.augment.".

    Raises:
        ConfigError: an option has an impossible value, or options exclude one another.
    """
    for key in _WHOLE:
        if not isinstance(augment[key], int):
            raise ConfigError(f"config.{prefix}{key}={augment[key]} must be a whole number")
    for factor in _sequence(augment, "resample", prefix):
        low, high = _RESAMPLE_RANGE
        if (
            not isinstance(factor, (int, float))
            or not low <= factor <= high
            or abs(resample.ratio(factor) - factor) > 1e-6
        ):
            raise ConfigError(
                f"config.{prefix}resample={augment.resample}: a factor must be a number from {low:g} to {high:g} that"
                f" is a fraction of whole numbers up to {resample.MAX_TERM}, such as 0.8 or 1.25"
            )
    for color in _sequence(augment, "color_noise", prefix):
        if color not in waveform.NOISE_COLORS:
            known = ", ".join(waveform.NOISE_COLORS)
            raise ConfigError(f"config.{prefix}color_noise={augment.color_noise} must name some of {known}")
    for least, most in (("color_noise_snr_min", "color_noise_snr_max"), ("filter_bands_min", "filter_bands_max")):
        if augment[least] > augment[most]:
            raise ConfigError(
                f"config.{prefix}{least}={augment[least]:g} is above config.{prefix}{most}={augment[most]:g}"
            )
    _check_spectrogram(augment, frontend, prefix)


def _sequence(augment: Any, key: str, prefix: str) -> Sequence[Any]:
    if not isinstance(augment[key], (tuple, list)):
        raise ConfigError(f"config.{prefix}{key}={augment[key]} must be a tuple")
    return augment[key]


def _check_spectrogram(augment: Any, frontend: Any, prefix: str) -> None:
    bins = frontend.get("mels", frontend.get("bins"))
    for key in ON_SPECTROGRAM:
        if augment[key] and bins is None:
            raise ConfigError(
                f"config.{prefix}{key}={augment[key]:g} changes a spectrogram, and frontend.name={frontend.name} gives"
                " none: set it to 0"
            )
    needed = augment.filter_bands_max * augment.filter_narrowest
    if augment.filter_db and needed > bins:
        raise ConfigError(
            f"config.{prefix}filter_bands_max={augment.filter_bands_max} bands of at least"
            f" config.{prefix}filter_narrowest={augment.filter_narrowest} bins need {needed} bins, and the frontend has"
            f" {bins}"
        )
