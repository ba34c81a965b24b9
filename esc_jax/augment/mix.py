"""Mixing of examples: a pair and a weight in, one example out. The caller draws the pairs and vmaps."""

import jax
import jax.numpy as jnp


def weight(key: jax.Array, alpha: float, probability: float = 1.0) -> jax.Array:
    """λ of mixup (Zhang et al. 2018): Beta(alpha, alpha), folded to [½, 1] so that the example itself dominates; 1 in a
    share 1 − `probability` of the examples."""
    beta_key, coin_key = jax.random.split(key)
    drawn = jax.random.beta(beta_key, alpha, alpha)
    mixed = jax.random.bernoulli(coin_key, probability)
    return jnp.where(mixed, jnp.maximum(drawn, 1.0 - drawn), 1.0)


def linear(share: jax.Array, one: jax.Array, other: jax.Array) -> jax.Array:
    """λ · one + (1 − λ) · other: of targets and of spectrograms."""
    return share * one + (1.0 - share) * other


def waveforms(share: jax.Array, one: jax.Array, other: jax.Array) -> jax.Array:
    """Two sounds mixed so that `one` has the share λ of what is heard, at the level of `one`.

        p · one + (1 − p) · other · g,   p = λ,   g = rms(one) / rms(other),   divided by √(p² + (1 − p)²)

    Sounds are brought to one level first (between-class learning, Tokozume et al. 2018): otherwise a loud clip drowns a
    quiet one whatever λ says. The division keeps the power of a sum of independent sounds. Silence is added as it is.
    """
    rms_one = jnp.sqrt(jnp.mean(jnp.square(one)))
    rms_other = jnp.sqrt(jnp.mean(jnp.square(other)))
    audible = (rms_one > 1e-5) & (rms_other > 1e-5)
    level = jnp.where(audible, rms_one / jnp.where(audible, rms_other, 1.0), 1.0)
    mixed = share * one + (1.0 - share) * level * other
    return mixed / jnp.sqrt(jnp.square(share) + jnp.square(1.0 - share))
