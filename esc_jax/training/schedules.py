"""Learning-rate schedules: step → value, exactly as the published recipes define them."""

from collections.abc import Callable
import math
from typing import Any

import jax
import jax.numpy as jnp

Schedule = Callable[[jax.Array], jax.Array]


def _cosine(start: float, end: float, share: jax.Array) -> jax.Array:
    return end + (start - end) / 2.0 * (1.0 + jnp.cos(jnp.pi * share))


def _one_cycle(first: float, peak: float, last: float, total: int, pct_start: float) -> Schedule:
    # torch's phases end at these steps, fractions included.
    up = float(pct_start * total) - 1.0
    down = float(total) - 1.0

    def schedule(step: jax.Array) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        rising = _cosine(first, peak, step / up if up > 0 else jnp.ones_like(step))
        falling = _cosine(peak, last, jnp.clip((step - up) / max(down - up, 1e-9), 0.0, 1.0))
        return jnp.where(step <= up, rising, falling)

    return schedule


def one_cycle(peak: float, total: int, pct_start: float = 0.3, div: float = 25.0, final_div: float = 1e4) -> Schedule:
    """torch's `OneCycleLR` with cosine annealing.

        s ≤ p:  from peak/div to peak,           along ½(1 + cos(π s / p)),             p = pct_start · T − 1
        s > p:  from peak to peak/div/final_div, along ½(1 + cos(π (s − p)/(T − 1 − p)))

    Args:
        peak: largest value.
        total: steps T.
        pct_start: share of the steps spent rising.
        div: peak over the first value.
        final_div: first value over the last.
    """
    return _one_cycle(peak / div, peak, peak / div / final_div, total, pct_start)


def one_cycle_momentum(total: int, pct_start: float = 0.3, base: float = 0.85, most: float = 0.95) -> Schedule:
    """Adam's β₁ under `OneCycleLR`: from `most` down to `base` while the rate rises, and back (`cycle_momentum`)."""
    return _one_cycle(most, base, most, total, pct_start)


def linear(peak: float, total: int, warmup: int = 0) -> Schedule:
    """Hugging Face's linear schedule: peak · s/W for s < W, else peak · (T − s)/(T − W). Step 0 of a warm-up is 0."""

    def schedule(step: jax.Array) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        falling = jnp.maximum(0.0, (total - step) / max(1, total - warmup))
        return peak * jnp.where(step < warmup, step / max(1, warmup), falling)

    return schedule


def cosine(peak: float, total: int, warmup: int = 0, end: float = 0.0) -> Schedule:
    """Linear warm-up from 0 over W steps, then half a cosine from peak to `end` at step T."""

    def schedule(step: jax.Array) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        falling = _cosine(peak, end, jnp.clip((step - warmup) / max(1, total - warmup), 0.0, 1.0))
        return jnp.where(step < warmup, peak * step / max(1, warmup), falling)

    return schedule


def constant(peak: float, total: int, warmup: int = 0) -> Schedule:
    """Linear warm-up from 0 over W steps, then `peak`."""
    del total

    def schedule(step: jax.Array) -> jax.Array:
        return peak * jnp.minimum(1.0, (jnp.asarray(step, jnp.float32)) / max(1, warmup) if warmup else 1.0)

    return schedule


def steps(config: Any, name: str, total: int, per_epoch: int) -> int:
    """A duration of the config in steps: the first of `NAME_steps`, `NAME_epochs` and `NAME_percent` that is given.

    Args:
        config: holds the three keys; negative where a duration is not given in that unit. 0 where none is.
        name: prefix of the keys.
        total: steps that `NAME_percent` is a percentage of.
        per_epoch: steps of an epoch.
    """
    for unit, scale in (("steps", 1), ("epochs", per_epoch), ("percent", total / 100)):
        if (value := config[f"{name}_{unit}"]) >= 0:
            return math.ceil(value * scale)
    return 0
