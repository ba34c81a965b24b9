"""Learning-rate schedules: step → value, exactly as the published recipes define them.

Lengths in steps are numbers, or arrays that the compiled program takes as arguments.
"""

from collections.abc import Callable
import math
from typing import Any

import jax
import jax.numpy as jnp

from esc_jax.extensions import Registry

Schedule = Callable[[jax.Array], jax.Array]
Steps = float | jax.Array


def _cosine(start: float, end: float, share: jax.Array) -> jax.Array:
    return end + (start - end) / 2.0 * (1.0 + jnp.cos(jnp.pi * share))


def _one_cycle(first: float, peak: float, last: float, total: Steps, warmup: Steps) -> Schedule:
    # torch's phases end at these steps, fractions included.
    up, down = jnp.float32(warmup) - 1.0, jnp.float32(total) - 1.0

    def schedule(step: jax.Array) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        rising = _cosine(first, peak, jnp.where(up > 0.0, step / jnp.where(up > 0.0, up, 1.0), 1.0))
        falling = _cosine(peak, last, jnp.clip((step - up) / jnp.maximum(down - up, 1e-9), 0.0, 1.0))
        return jnp.where(step <= up, rising, falling)

    return schedule


def one_cycle(peak: float, total: Steps, warmup: Steps, div: float = 25.0, final_div: float = 1e4) -> Schedule:
    """torch's `OneCycleLR` with cosine annealing.

        s ≤ p:  from peak/div to peak,           along ½(1 + cos(π s / p)),             p = W − 1
        s > p:  from peak to peak/div/final_div, along ½(1 + cos(π (s − p)/(T − 1 − p)))

    Args:
        peak: largest value.
        total: steps T.
        warmup: steps W spent rising, T times torch's `pct_start`; may be a fraction.
        div: peak over the first value.
        final_div: first value over the last.
    """
    return _one_cycle(peak / div, peak, peak / div / final_div, total, warmup)


def one_cycle_momentum(total: Steps, warmup: Steps, base: float = 0.85, most: float = 0.95) -> Schedule:
    """Adam's β₁ under `OneCycleLR`: from `most` down to `base` while the rate rises, and back (`cycle_momentum`)."""
    return _one_cycle(most, base, most, total, warmup)


def linear(peak: float, total: Steps, warmup: Steps = 0) -> Schedule:
    """Hugging Face's linear schedule: peak · s/W for s < W, else peak · (T − s)/(T − W). Step 0 of a warm-up is 0."""
    total, warmup = jnp.float32(total), jnp.float32(warmup)

    def schedule(step: jax.Array) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        falling = jnp.maximum(0.0, (total - step) / jnp.maximum(1.0, total - warmup))
        return peak * jnp.where(step < warmup, step / jnp.maximum(1.0, warmup), falling)

    return schedule


def cosine(peak: float, total: Steps, warmup: Steps = 0) -> Schedule:
    """Linear warm-up from 0 over W steps, then half a cosine from peak to 0 at step T."""
    total, warmup = jnp.float32(total), jnp.float32(warmup)

    def schedule(step: jax.Array) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        falling = _cosine(peak, 0.0, jnp.clip((step - warmup) / jnp.maximum(1.0, total - warmup), 0.0, 1.0))
        return jnp.where(step < warmup, peak * step / jnp.maximum(1.0, warmup), falling)

    return schedule


def constant(peak: float, total: Steps, warmup: Steps = 0) -> Schedule:
    """Linear warm-up from 0 over W steps, then `peak`."""
    del total
    warmup = jnp.float32(warmup)

    def schedule(step: jax.Array) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        return peak * jnp.where(step < warmup, step / jnp.maximum(1.0, warmup), 1.0)

    return schedule


# By name: (peak, total, warmup) → schedule. `optim` also gives `one_cycle` its factors.
SCHEDULES: Registry[Callable[[float, Steps, Steps], Schedule]] = Registry(
    "esc_jax.schedules", {"one_cycle": one_cycle, "linear": linear, "cosine": cosine, "constant": constant}
)


def warmup_steps(config: Any, total: int, per_epoch: int) -> int:
    """Steps of the warm-up: the first of `warmup_steps`, `warmup_epochs` and `warmup_percent` that is not negative.

    Args:
        config: `optim` of a config.
        total: steps of the training.
        per_epoch: steps of an epoch.

    Returns:
        The number of steps, rounded up; 0 if all three are negative.
    """
    for unit, scale in (("steps", 1), ("epochs", per_epoch), ("percent", total / 100)):
        if (value := config[f"warmup_{unit}"]) >= 0:
            return math.ceil(value * scale)
    return 0
