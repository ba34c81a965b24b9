"""What a training step carries from one step to the next."""

from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from esc_jax.runtime import devices


class TrainState(struct.PyTreeNode):
    """Everything that a resumed run needs to continue bit for bit. Random keys follow from `seed` and `step`.

    Attributes:
        step: () int32, number of finished steps.
        seed: () int32, of the keys of all steps.
        params: parameters.
        batch_stats: running statistics; an empty dict for models without.
        opt_state: state of the optimizer.
        ema: {"params", "batch_stats"}, exponential moving average of the weights; None where it is off.
        carry: state of the objective beside the parameters, such as a target network; None where it has none.
    """

    step: jax.Array
    seed: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any | None
    carry: Any | None = None

    def weights(self) -> dict[str, Any]:
        """Variables for evaluation: the moving average where there is one."""
        return self.ema or {"params": self.params, "batch_stats": self.batch_stats}

    def with_weights(self, weights: dict[str, Any]) -> "TrainState":
        """The same state with other variables for evaluation."""
        return self.replace(ema=weights) if self.ema is not None else self.replace(**weights)


def create(
    variables: dict[str, Any],
    optimizer: optax.GradientTransformation,
    ema: bool,
    seed: int = 0,
    carry: Any | None = None,
) -> TrainState:
    """The state before the first step.

    The moving average starts from a copy of the initial weights, since both are donated to the step.
    """
    params, batch_stats = variables["params"], variables["batch_stats"]

    def derived() -> tuple[Any, Any]:  # each shape would be a program of its own for a GPU
        average = jax.tree.map(jnp.copy, {"params": params, "batch_stats": batch_stats}) if ema else None
        return optimizer.init(params), average

    opt_state, average = devices.run_on_host(derived)
    return TrainState(jnp.int32(0), jnp.int32(seed), params, batch_stats, opt_state, average, carry)


def step_of(state: TrainState) -> int:
    """Number of finished steps. Stacked runs have the same number."""
    return int(np.ravel(np.asarray(state.step))[0])


def is_finite(state: TrainState) -> bool:
    """Whether all weights are finite."""
    leaves = jax.tree.leaves((state.params, state.batch_stats, state.ema))
    return all(np.isfinite(np.asarray(leaf)).all() for leaf in leaves)


def update_ema(average: Any, new: Any, step: jax.Array, decay: float) -> Any:
    """a ← a + (1 − d)(new − a), d = min(decay, (1 + step)/(10 + step)): a faster average in the first steps."""
    warmup = (1.0 + step.astype(jnp.float32)) / (10.0 + step.astype(jnp.float32))
    d = jnp.minimum(decay, warmup)
    # In this form a frozen weight, a = new, keeps its bits.
    return jax.tree.map(lambda a, n: a + (1.0 - d) * (n - a), average, new)


def interpolate(start: Any, alpha: float, end: Any) -> Any:
    """(1 − alpha) · start + alpha · end, of trees of weights.

    After fine-tuning, weights between the initial and the final ones are often better than both (WiSE-FT: Wortsman et
    al., "Robust fine-tuning of zero-shot models", CVPR 2022).
    """
    return jax.tree.map(lambda a, b: b + (1.0 - alpha) * (a - b), start, end)
