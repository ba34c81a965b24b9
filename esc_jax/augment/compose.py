"""The augmentations of a config, over a batch: what the compiled training step and the notebooks call.

Everything random is keyed by the step and by the position of an example in the *global* batch, so that the same run
draws the same numbers on any number of devices.
"""

import jax
import jax.numpy as jnp

from esc_jax.augment import mix, spectrogram, waveform


def defaults() -> dict:
    """What a config's `augment` starts from: everything off."""
    return {
        "roll": 0.0,  # rotate in time, share of the clip
        "crop_s": 0.0,  # train on windows of so many seconds; 0: on whole clips
        "crop_tries": 1,  # take the loudest of so many windows
        "speed_octaves": 0.0,  # play a crop faster or slower
        "gain_db": 0.0,  # ± level
        "noise": 0.0,  # white noise, share of the clip's RMS
        "mixup_alpha": 0.0,  # mix two examples and their labels
        "mixup_probability": 1.0,
        "mixup_on": "waveform",  # or "spectrogram"
        "mel_jitter": False,  # move the edges of the mel bank from step to step; efficientat_mel has it
        "frequency_warp": 0.0,  # stretch and shift the frequency axis
        "time_mask": 0,  # SpecAugment: widest band, frames
        "freq_mask": 0,  # SpecAugment: widest band, bins
        "mask_count": 2,
    }


def keys(key: jax.Array, positions: jax.Array) -> jax.Array:
    """One key per example, from its position in the global batch."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, positions)


def waveforms(
    config, key: jax.Array, positions: jax.Array, audio: jax.Array, sample_rate: int, samples: jax.Array | None = None
) -> jax.Array:
    """(B, time) → (B, time or crop): rotation, crop with speed, gain, noise.

    Where clips end in padding, (B,) `samples` of each are its own, and stay where they are: no crop.
    """

    def one(key: jax.Array, x: jax.Array, samples: jax.Array | None) -> jax.Array:
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

    return jax.vmap(one)(keys(key, positions), audio, samples)


def spectrograms(config, key: jax.Array, positions: jax.Array, features: jax.Array) -> jax.Array:
    """(B, frames, bins) → the same: frequency warp, then SpecAugment."""

    def one(key: jax.Array, x: jax.Array) -> jax.Array:
        warp_key, time_key, freq_key = jax.random.split(key, 3)
        if config.frequency_warp:
            x = spectrogram.frequency_warp(warp_key, x, config.frequency_warp)
        if config.time_mask:
            x = spectrogram.mask(time_key, x, 0, config.time_mask, config.mask_count)
        if config.freq_mask:
            x = spectrogram.mask(freq_key, x, 1, config.freq_mask, config.mask_count)
        return x

    return jax.vmap(one)(keys(key, positions), features)


def mixing(config, key: jax.Array, positions: jax.Array, batch_size: int) -> tuple[jax.Array, jax.Array]:
    """Weights λ (B,) and partners (B,), positions in the global batch of `batch_size`."""
    weight_key, order_key = jax.random.split(key)
    share = jax.vmap(lambda k: mix.weight(k, config.mixup_alpha, config.mixup_probability))(keys(weight_key, positions))
    return share, cycle(order_key, batch_size)[positions]


def cycle(key: jax.Array, batch_size: int) -> jax.Array:
    """(batch_size,) a partner for every position of the global batch: a random cycle, so that nobody gets itself."""
    order = jax.random.permutation(key, batch_size)
    return jnp.zeros(batch_size, jnp.int32).at[order].set(jnp.roll(order, 1).astype(jnp.int32))


def gallery(clip: jax.Array, other: jax.Array, sample_rate: int, frontend, key: jax.Array) -> dict[str, jax.Array]:
    """One clip under each augmentation at a strength that shows, for `plots.augmentations`.

    Args:
        clip, other: (time,) waveforms; `other` is what mixup mixes in.
        sample_rate: Hz.
        frontend: waveform → (frames, bins).
        key: PRNG key.

    Returns:
        Name → a waveform (time,), or the features (frames, bins) where the augmentation is one of features.
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
        "mixup, waveform": mix.waveforms(jnp.float32(0.6), clip, other),
        "mixup, spectrogram": mix.linear(jnp.float32(0.6), features, frontend(other)),
        "frequency warp": spectrogram.frequency_warp(key, features, 0.3),
        "time mask": spectrogram.mask(key, features, 0, features.shape[0] // 5, 2),
        "frequency mask": spectrogram.mask(key, features, 1, features.shape[1] // 5, 2),
    }
