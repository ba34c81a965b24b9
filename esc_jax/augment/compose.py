"""The augmentations of a config, applied to a batch.

All random numbers are derived from a key of the step and from the position of an example in the *global* batch. The
same run draws the same numbers on any number of devices.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from esc_jax.augment import equalizer, mix, resample, spectrogram, waveform
from esc_jax.augment.draws import keys_at, random_partners
from esc_jax.runtime import devices

# Numbers of the keys of augmentations that are derived from the key of an example or a step with `fold_in`. They are
# above those of `split`, and stay as they are: an option that is off does not change what the others draw.
_RESAMPLE, _FLIP, _EQUALIZE, _MASK, _COLOR, _FILTER, _MIXSTYLE = range(100, 107)


def augment_waveforms(
    config: Any,
    key: jax.Array,
    positions: jax.Array,
    audio: jax.Array,
    sample_rate: int,
    samples: jax.Array | None = None,
) -> jax.Array:
    """Applies the augmentations of waveforms to a batch.

    In this order: resampling, rotation, crop with change of speed, gain, change of sign, equaliser, mask, noise.

    Args:
        config: `augment` of a config.
        key: PRNG key.
        positions: (B,) positions of the examples in the global batch.
        audio: (B, time), float.
        sample_rate: Hz.
        samples: (B,) length of each clip without the padding at its end, which is not rotated; None: no clip is padded.
            Padded clips cannot be cropped or resampled.

    Returns:
        (B, time), or (B, crop) with `crop_s`.
    """
    if config.resample:
        audio = resample.random_resample(
            jax.random.fold_in(key, _RESAMPLE),
            positions,
            audio,
            config.resample,
            config.resample_probability,
            config.resample_draw,
        )

    def augment(key: jax.Array, x: jax.Array, samples: jax.Array | None) -> jax.Array:
        roll_key, crop_key, gain_key, noise_key = jax.random.split(key, 4)
        shift = None
        if config.roll:
            shift = waveform.draw_shift(roll_key, x.shape[-1] if samples is None else samples, config.roll)
        if config.crop_s:
            window = round(config.crop_s * sample_rate)
            x = waveform.crop(crop_key, x, window, config.speed_octaves, config.crop_tries, shift)
        elif shift is not None:
            x = waveform.rotate(x, shift, samples)
        if config.gain_db:
            x = waveform.gain(gain_key, x, config.gain_db)
        if config.flip_sign:
            x = waveform.flip_sign(jax.random.fold_in(key, _FLIP), x, config.flip_sign)
        if config.equalizer_bands:
            equalizer_key = jax.random.fold_in(key, _EQUALIZE)
            x = equalizer.equalize(equalizer_key, x, sample_rate, config.equalizer_bands, config.equalizer_db)
        if config.wave_mask:
            x = waveform.mask(jax.random.fold_in(key, _MASK), x, config.wave_mask, config.wave_mask_probability)
        if config.noise:
            x = waveform.noise(noise_key, x, config.noise)
        if config.color_noise:
            color_key = jax.random.fold_in(key, _COLOR)
            ratios = config.color_noise_snr_min, config.color_noise_snr_max
            probability = config.color_noise_probability
            x = waveform.add_colored_noise(color_key, x, sample_rate, config.color_noise, ratios, probability)
        return x

    return jax.vmap(augment)(keys_at(key, positions), audio, samples)


def augment_spectrograms(
    config: Any, key: jax.Array, positions: jax.Array, features: jax.Array, frontend: Any = None
) -> jax.Array:
    """Applies the augmentations of spectrograms to a batch.

    In this order: frequency-MixStyle, FilterAugment, frequency warp, SpecAugment's masks.

    Args:
        config: `augment` of a config.
        key: PRNG key.
        positions: (B,) positions of the examples in the global batch.
        features: (B, frames, bins).
        frontend: that the features are from; frequency-MixStyle and FilterAugment need its scale.

    Returns:
        (B, frames, bins).
    """
    if config.freq_mixstyle_alpha:
        features = _mix_styles(config, jax.random.fold_in(key, _MIXSTYLE), positions, features, frontend.log_scale)
    bands = config.filter_bands_min, config.filter_bands_max

    def augment(key: jax.Array, x: jax.Array) -> jax.Array:
        warp_key, time_key, freq_key = jax.random.split(key, 3)
        if config.filter_db:
            filter_key = jax.random.fold_in(key, _FILTER)
            gains = spectrogram.filter_gains(
                filter_key, x.shape[1], config.filter_db, bands, config.filter_narrowest, config.filter_kind
            )
            x = x + frontend.decibel * gains[None]
        if config.frequency_warp:
            x = spectrogram.frequency_warp(warp_key, x, config.frequency_warp)
        if config.time_mask:
            x = spectrogram.mask(time_key, x, 0, config.time_mask, config.mask_count)
        if config.freq_mask:
            x = spectrogram.mask(freq_key, x, 1, config.freq_mask, config.mask_count)
        return x

    return jax.vmap(augment)(keys_at(key, positions), features)


def _mix_styles(config: Any, key: jax.Array, positions: jax.Array, features: jax.Array, log_scale: float) -> jax.Array:
    """Frequency-MixStyle of each example with another one of the global batch. Only within a mapped step."""
    weight_key, order_key = jax.random.split(key)
    alpha, probability = config.freq_mixstyle_alpha, config.freq_mixstyle_probability
    weights = jax.vmap(lambda k: spectrogram.mixstyle_weight(k, alpha, probability))(keys_at(weight_key, positions))
    statistics = jax.vmap(spectrogram.frequency_statistics)(features)
    everyone = devices.all_gather(statistics)
    others = everyone[random_partners(order_key, len(everyone))[positions]]
    mix_style = functools.partial(spectrogram.exchange_statistics, scale=log_scale)
    mixed = jax.vmap(mix_style)(weights, features, statistics, others)
    return jnp.where(weights[:, None, None] < 1.0, mixed, features)


def mixup_pairs(config: Any, key: jax.Array, positions: jax.Array, batch_size: int) -> tuple[jax.Array, jax.Array]:
    """Draws the weights and partners of mixup.

    Args:
        config: `augment` of a config.
        key: PRNG key.
        positions: (B,) positions of the examples in the global batch.
        batch_size: of the global batch.

    Returns:
        λ (B,), and the positions of the partners (B,) in the global batch.
    """
    weight_key, order_key = jax.random.split(key)
    weights = jax.vmap(lambda k: mix.mixup_weight(k, config.mixup_alpha, config.mixup_probability))(
        keys_at(weight_key, positions)
    )
    return weights, random_partners(order_key, batch_size)[positions]


def mix_waveforms(
    config: Any, key: jax.Array, positions: jax.Array, share: jax.Array, audio: jax.Array, other: jax.Array, rate: int
) -> jax.Array:
    """Mixes waveforms in one of the ways of `mixup_kinds`, which is drawn for the batch or for each example.

    Args:
        config: `augment` of a config.
        key: PRNG key, which may be that of `mixup_pairs`.
        positions: (B,) positions of the examples in the global batch.
        share: (B,) of the examples; where it is 1, an example is not changed.
        audio, other: (B, time) the examples and their partners.
        rate: Hz.

    Returns:
        (B, time).
    """
    kind_key, coin_key = jax.random.split(jax.random.fold_in(key, 1))  # `mixup_pairs` splits the key itself
    coins = jax.vmap(jax.random.bernoulli)(keys_at(coin_key, positions))
    ways = [jax.vmap(functools.partial(mix.WAVEFORM_MIXES[kind], sample_rate=rate)) for kind in config.mixup_kinds]
    if len(ways) == 1:
        mixed = ways[0](share, audio, other, coins)
    elif config.mixup_draw == "batch":
        mixed = jax.lax.switch(jax.random.randint(kind_key, (), 0, len(ways)), ways, share, audio, other, coins)
    else:
        kinds = jax.vmap(lambda k: jax.random.randint(k, (), 0, len(ways)))(keys_at(kind_key, positions))
        mixed = jnp.select(
            [kinds[:, None] == n for n in range(len(ways))], [w(share, audio, other, coins) for w in ways]
        )
    return jnp.where(share[:, None] < 1.0, mixed, audio)


def augmentation_examples(
    clip: jax.Array, other: jax.Array, sample_rate: int, frontend: Any, key: jax.Array
) -> dict[str, jax.Array]:
    """Applies each augmentation to one clip, strongly enough to be visible in `plots.augmentations`.

    Args:
        clip, other: (time,) waveforms; mixup mixes `other` into `clip`.
        sample_rate: Hz.
        frontend: waveform → (frames, bins), a logarithmic spectrogram.
        key: PRNG key.

    Returns:
        Name → waveform (time,), or features (frames, bins) for augmentations of spectrograms.
    """
    half = len(clip) // 2
    features, other_features = frontend(clip), frontend(other)
    bins, scale = features.shape[1], frontend.log_scale
    filters = {
        kind: spectrogram.filter_gains(key, bins, 20.0, (3, 5), max(1, bins // 20), kind) for kind in ("step", "linear")
    }

    def with_noise(color: str) -> jax.Array:
        return waveform.add_colored_noise(key, clip, sample_rate, (color,), (0.0, 0.0), 1.0)

    def resampled(factor: float) -> jax.Array:
        return resample.random_resample(key, jnp.arange(1), clip[None], (factor,), 1.0)[0]

    style, other_style = (spectrogram.frequency_statistics(x) for x in (features, other_features))
    return {
        "clip": clip,
        "gain": waveform.gain(key, clip, 12.0),
        "roll": waveform.rotate(clip, waveform.draw_shift(key, len(clip), 1.0)),
        "noise": waveform.noise(key, clip, 1.0),
        "crop": waveform.crop(key, clip, half, tries=2),
        "crop, speed": waveform.crop(key, clip, half, octaves=0.5, tries=2),
        "resampling, 0.8": resampled(0.8),
        "resampling, 1.25": resampled(1.25),
        "change of sign": waveform.flip_sign(key, clip, 1.0),
        "equaliser": equalizer.equalize(key, clip, sample_rate, 4, 20.0),
        "mask": waveform.mask(key, clip, 0.15, 1.0),
        "pink noise": with_noise("pink"),
        "red noise": with_noise("red"),
        "blue noise": with_noise("blue"),
        "violet noise": with_noise("violet"),
        "mixup, waveform": mix.mix_waveforms(jnp.float32(0.6), clip, other),
        "cut-mix, time": mix.cut_time(jnp.float32(0.6), clip, other, jnp.bool_(False)),
        "cut-mix, frequency": mix.cut_frequency(jnp.float32(0.7), clip, other, jnp.bool_(True)),
        "phase mix": mix.mix_phases(jnp.float32(0.75), clip, other),
        "mixup, spectrogram": mix.mix_linear(jnp.float32(0.6), features, other_features),
        "frequency-MixStyle": spectrogram.exchange_statistics(jnp.float32(0.0), features, style, other_style, scale),
        "FilterAugment, step": features + frontend.decibel * filters["step"][None],
        "FilterAugment, linear": features + frontend.decibel * filters["linear"][None],
        "frequency warp": spectrogram.frequency_warp(key, features, 0.3),
        "time mask": spectrogram.mask(key, features, 0, features.shape[0] // 5, 2),
        "frequency mask": spectrogram.mask(key, features, 1, features.shape[1] // 5, 2),
    }
