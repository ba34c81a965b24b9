"""What a training step carries from one step to the next."""

from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np
import optax


@struct.dataclass
class TrainState:
    """Everything a resumed run needs to go on in the same bits; random keys follow from the seed and `step`.

    Attributes:
        step: () int32, steps done.
        seed: () int32, what the keys of all steps are made of, with `step`.
        params: parameters.
        batch_stats: running statistics; an empty dict for models without.
        opt_state: of the optimizer.
        ema: {"params": …, "batch_stats": …}, their exponential moving average; None where it is off.
    """

    step: jax.Array
    seed: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any | None

    def weights(self) -> dict[str, Any]:
        """Variables to evaluate with: the average where there is one."""
        return self.ema or {"params": self.params, "batch_stats": self.batch_stats}

    def with_weights(self, weights: dict[str, Any]) -> "TrainState":
        """The same with other variables to evaluate with."""
        return self.replace(ema=weights) if self.ema is not None else self.replace(**weights)


def create(variables: dict[str, Any], optimizer: optax.GradientTransformation, ema: bool, seed: int = 0) -> TrainState:
    """The state before the first step. The average starts from the initial weights, as a copy: both are donated."""
    params, batch_stats = variables["params"], variables["batch_stats"]
    average = jax.tree.map(jnp.copy, {"params": params, "batch_stats": batch_stats}) if ema else None
    return TrainState(jnp.int32(0), jnp.int32(seed), params, batch_stats, optimizer.init(params), average)


def step_of(state: TrainState) -> int:
    """Steps done; of runs side by side, which keep step, those of the first."""
    return int(np.ravel(np.asarray(state.step))[0])


def finite(state: TrainState) -> bool:
    """Whether all of its weights are numbers."""
    leaves = jax.tree.leaves((state.params, state.batch_stats, state.ema))
    return all(np.isfinite(np.asarray(leaf)).all() for leaf in leaves)


def update_ema(average, new, step: jax.Array, decay: float):
    """a ← a + (1 − d)(new − a), d = min(decay, (1 + step)/(10 + step)): the first steps count less than the rest."""
    warm = (1.0 + step.astype(jnp.float32)) / (10.0 + step.astype(jnp.float32))
    d = jnp.minimum(decay, warm)
    # In this form a frozen weight, a = new, stays what it is to the bit.
    return jax.tree.map(lambda a, n: a + (1.0 - d) * (n - a), average, new)


def blend(start, share: float, end):
    """share · start + (1 − share) · end, of trees of weights.

    After fine-tuning, weights on the line between where it started and where it ended are often better than both
    (Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022).
    """
    return jax.tree.map(lambda a, b: b + share * (a - b), start, end)
