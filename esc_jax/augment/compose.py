"""The augmentations of a config, applied to a batch.

All random numbers are derived from a key of the step and from the position of an example in the *global* batch. The
same run draws the same numbers on any number of devices.
"""

from collections.abc import Callable
import functools
from typing import Any

import jax
import jax.numpy as jnp

from esc_jax.augment import mix, spectrogram, waveform


def defaults() -> dict[str, Any]:
    """Keys of a config's `augment`, with everything turned off."""
    return {
        "roll": 0.0,  # rotation in time, as a fraction of the clip
        "crop_s": 0.0,  # length of random crops, s; 0: whole clips
        "crop_tries": 1,  # number of windows drawn, of which the loudest is used
        "speed_octaves": 0.0,  # largest change of a crop's speed
        "gain_db": 0.0,  # largest change of level
        "noise": 0.0,  # largest level of white noise, as a fraction of the clip's RMS
        "mixup_alpha": 0.0,  # mixes pairs of examples and their targets
        "mixup_probability": 1.0,
        "mixup_on": "waveform",  # or "spectrogram"
        "mixup_kinds": ("loudness",),  # keys of `mix.WAVEFORM_MIXES`, one of which is drawn
        "mixup_draw": "batch",  # draw a kind for each "batch" or "example"
        "mixup_start_epoch": 0,  # epochs without mixup at the start
        "mixup_targets": "share",  # or "union": all classes of both clips
        "mel_jitter": False,  # random edges of the mel bank in each step; for frontend efficientat_mel
        "frequency_warp": 0.0,  # stretches and shifts the frequency axis
        "time_mask": 0,  # SpecAugment: widest mask, frames
        "freq_mask": 0,  # SpecAugment: widest mask, bins
        "mask_count": 2,
    }


def keys_at(key: jax.Array, positions: jax.Array) -> jax.Array:
    """One PRNG key per example.

    Args:
        key: PRNG key, the same on all devices.
        positions: (B,) positions of the examples in the global batch.

    Returns:
        (B,) keys.
    """
    return jax.vmap(jax.random.fold_in, (None, 0))(key, positions)


def augment_waveforms(
    config: Any,
    key: jax.Array,
    positions: jax.Array,
    audio: jax.Array,
    sample_rate: int,
    samples: jax.Array | None = None,
) -> jax.Array:
    """Applies rotation, crop with change of speed, gain and noise to a batch.

    Args:
        config: `augment` of a config.
        key: PRNG key.
        positions: (B,) positions of the examples in the global batch.
        audio: (B, time), float.
        sample_rate: Hz.
        samples: (B,) length of each clip without the padding at its end, which is not rotated; None: no clip is padded.
            Padded clips cannot be cropped.

    Returns:
        (B, time), or (B, crop) with `crop_s`.
    """

    def augment(key: jax.Array, x: jax.Array, samples: jax.Array | None) -> jax.Array:
        roll_key, crop_key, gain_key, noise_key = jax.random.split(key, 4)
        if config.roll:
            x = waveform.roll(roll_key, x, config.roll, samples)
        if config.crop_s:
            window = round(config.crop_s * sample_rate)
            x = waveform.crop(crop_key, x, window, config.speed_octaves, config.crop_tries)
        if config.gain_db:
            x = waveform.gain(gain_key, x, config.gain_db)
        if config.noise:
            x = waveform.noise(noise_key, x, config.noise)
        return x

    return jax.vmap(augment)(keys_at(key, positions), audio, samples)


def augment_spectrograms(config: Any, key: jax.Array, positions: jax.Array, features: jax.Array) -> jax.Array:
    """Applies the frequency warp and SpecAugment's masks to a batch.

    Args:
        config: `augment` of a config.
        key: PRNG key.
        positions: (B,) positions of the examples in the global batch.
        features: (B, frames, bins).

    Returns:
        (B, frames, bins).
    """

    def augment(key: jax.Array, x: jax.Array) -> jax.Array:
        warp_key, time_key, freq_key = jax.random.split(key, 3)
        if config.frequency_warp:
            x = spectrogram.frequency_warp(warp_key, x, config.frequency_warp)
        if config.time_mask:
            x = spectrogram.mask(time_key, x, 0, config.time_mask, config.mask_count)
        if config.freq_mask:
            x = spectrogram.mask(freq_key, x, 1, config.freq_mask, config.mask_count)
        return x

    return jax.vmap(augment)(keys_at(key, positions), features)


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


def random_partners(key: jax.Array, batch_size: int) -> jax.Array:
    """(batch_size,) a partner for each position of the global batch.

    The partners form one random cycle, so that no example is its own partner (with two examples or more).
    """
    order = jax.random.permutation(key, batch_size)
    return jnp.zeros(batch_size, jnp.int32).at[order].set(jnp.roll(order, 1).astype(jnp.int32))


def augmentation_examples(
    clip: jax.Array, other: jax.Array, sample_rate: int, frontend: Callable[..., jax.Array], key: jax.Array
) -> dict[str, jax.Array]:
    """Applies each augmentation to one clip, strongly enough to be visible in `plots.augmentations`.

    Args:
        clip, other: (time,) waveforms; mixup mixes `other` into `clip`.
        sample_rate: Hz.
        frontend: waveform → (frames, bins).
        key: PRNG key.

    Returns:
        Name → waveform (time,), or features (frames, bins) for augmentations of spectrograms.
    """
    half = len(clip) // 2
    features = frontend(clip)
    return {
        "clip": clip,
        "gain": waveform.gain(key, clip, 12.0),
        "roll": waveform.roll(key, clip, 1.0),
        "noise": waveform.noise(key, clip, 1.0),
        "crop": waveform.crop(key, clip, half, tries=2),
        "crop, speed": waveform.crop(key, clip, half, octaves=0.5, tries=2),
        "mixup, waveform": mix.mix_waveforms(jnp.float32(0.6), clip, other),
        "cut-mix, time": mix.cut_time(jnp.float32(0.6), clip, other, jnp.bool_(False)),
        "cut-mix, frequency": mix.cut_frequency(jnp.float32(0.7), clip, other, jnp.bool_(True)),
        "phase mix": mix.mix_phases(jnp.float32(0.75), clip, other),
        "mixup, spectrogram": mix.mix_linear(jnp.float32(0.6), features, frontend(other)),
        "frequency warp": spectrogram.frequency_warp(key, features, 0.3),
        "time mask": spectrogram.mask(key, features, 0, features.shape[0] // 5, 2),
        "frequency mask": spectrogram.mask(key, features, 1, features.shape[1] // 5, 2),
    }
