"""What a training step carries from one step to the next."""

from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
import optax


@struct.dataclass
class TrainState:
    """Everything a resumed run needs to go on in the same bits; random keys follow from the seed and `step`.

    Attributes:
        step: () int32, steps done.
        params: parameters.
        batch_stats: running statistics; an empty dict for models without.
        opt_state: of the optimizer.
        ema: {"params": …, "batch_stats": …}, their exponential moving average; None where it is off.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any | None

    def weights(self) -> dict[str, Any]:
        """Variables to evaluate with: the average where there is one."""
        return self.ema or {"params": self.params, "batch_stats": self.batch_stats}


def create(variables: dict[str, Any], optimizer: optax.GradientTransformation, ema: bool) -> TrainState:
    """The state before the first step. The average starts from the initial weights, as a copy: both are donated."""
    params, batch_stats = variables["params"], variables["batch_stats"]
    average = jax.tree.map(jnp.copy, {"params": params, "batch_stats": batch_stats}) if ema else None
    return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, optimizer.init(params), average)


def update_ema(average, new, step: jax.Array, decay: float):
    """a ← a + (1 − d)(new − a), d = min(decay, (1 + step)/(10 + step)): the first steps count less than the rest."""
    warm = (1.0 + step.astype(jnp.float32)) / (10.0 + step.astype(jnp.float32))
    d = jnp.minimum(decay, warm)
    # In this form a frozen weight, a = new, stays what it is to the bit.
    return jax.tree.map(lambda a, n: a + (1.0 - d) * (n - a), average, new)
