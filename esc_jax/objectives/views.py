"""Augmented views of a batch, as self-supervised objectives use them."""

from typing import Any

import jax

from esc_jax.augment import compose, draws, mix
from esc_jax.models.model import Model
from esc_jax.runtime import devices


def augment_with_background(config: Any, sample_rate: int, key: jax.Array, audio: jax.Array) -> jax.Array:
    """(rows, time) → (rows, time or crop): augmented, with another clip of the global batch mixed in.

    The other clip has a share of up to `background_mix` of the sound (`mix.mix_waveforms`). Views of one clip then
    differ in their background.

    Args:
        config: `pretrain` of a config: augment, background_mix, batch_size.
        sample_rate: Hz.
        key: PRNG key.
        audio: this device's clips, float.
    """
    wave_key, share_key, order_key = jax.random.split(key, 3)
    positions = devices.example_positions(len(audio))
    audio = compose.augment_waveforms(config.augment, wave_key, positions, audio, sample_rate)
    if not config.background_mix:
        return audio
    uniform = jax.vmap(jax.random.uniform)(draws.keys_at(share_key, positions))
    partner = draws.random_partners(order_key, config.batch_size)[positions]
    share = 1.0 - config.background_mix * uniform
    return jax.vmap(mix.mix_waveforms)(share, audio, devices.all_gather(audio)[partner])


def augmented_features(config: Any, model: Model, key: jax.Array, audio: jax.Array) -> jax.Array:
    """One view of this device's clips (rows, time) → features: waveform augmentation, frontend, SpecAugment."""
    wave_key, spec_key = jax.random.split(key)
    positions = devices.example_positions(len(audio))
    features = model.frontend(augment_with_background(config, model.sample_rate, wave_key, audio))
    return compose.augment_spectrograms(config.augment, spec_key, positions, features, model.frontend)
