"""Mixing of two examples with a given weight. The caller draws the pairs and vmaps."""

import jax
import jax.numpy as jnp


def mixup_weight(key: jax.Array, alpha: float, probability: float = 1.0) -> jax.Array:
    """Draws the weight λ of mixup (Zhang et al. 2018).

    λ ~ Beta(alpha, alpha), replaced by max(λ, 1 − λ) so that the example itself has the larger weight.

    Args:
        key: PRNG key.
        alpha: of the Beta distribution.
        probability: of mixing; otherwise λ is 1.

    Returns:
        Scalar in [½, 1].
    """
    beta_key, coin_key = jax.random.split(key)
    weight = jax.random.beta(beta_key, alpha, alpha)
    mixed = jax.random.bernoulli(coin_key, probability)
    return jnp.where(mixed, jnp.maximum(weight, 1.0 - weight), 1.0)


def mix_linear(weight: jax.Array, x: jax.Array, other: jax.Array) -> jax.Array:
    """λ · x + (1 − λ) · other, for targets and spectrograms.

    Args:
        weight: λ, a scalar.
        x, other: arrays of one shape.
    """
    return weight * x + (1.0 - weight) * other


def mix_waveforms(weight: jax.Array, x: jax.Array, other: jax.Array) -> jax.Array:
    """Mixes two waveforms by their loudness (between-class learning, Tokozume et al. 2018).

        (λ · x + (1 − λ) · g · other) / √(λ² + (1 − λ)²),   g = rms(x) / rms(other)

    The sounds are first brought to the same level: otherwise a loud clip masks a quiet one whatever λ is. The division
    keeps the power of the sum of two independent sounds, so that the result has the level of `x`. If one of them is
    silent, g is 1.

    Args:
        weight: λ, a scalar.
        x, other: (time,).
    """
    rms_x = jnp.sqrt(jnp.mean(jnp.square(x)))
    rms_other = jnp.sqrt(jnp.mean(jnp.square(other)))
    audible = (rms_x > 1e-5) & (rms_other > 1e-5)
    gain = jnp.where(audible, rms_x / jnp.where(audible, rms_other, 1.0), 1.0)
    mixed = weight * x + (1.0 - weight) * gain * other
    return mixed / jnp.sqrt(jnp.square(weight) + jnp.square(1.0 - weight))
