"""What supervised training and pretraining share: the loop with a step on the devices, fed with clips."""

from typing import Any

from esc_jax.data.resident import ResidentClips, gathered
from esc_jax.runtime import devices
from esc_jax.training import checkpoint, loop
from esc_jax.training.state import TrainState
from esc_jax.training.step import TrainStep


def train(
    plan: loop.Plan,
    step: TrainStep,
    constants: Any,
    state: TrainState,
    batches: Any,
    checkpoints: checkpoint.Checkpoints,
    resident: ResidentClips | None,
) -> tuple[TrainState, dict[str, Any]]:
    """`loop.run` with a step mapped over the devices.

    Args:
        plan, state, batches, checkpoints: as for `loop.run`.
        step: of one device, as `training.step.train_step` returns it.
        constants: of the objective.
        resident: the clips on the devices, whose indices the batches are; None: the batches are clips.
    """
    if resident:
        step, constants = gathered(step), (resident.arrays, constants)
    if plan.steps_per_call > 1:
        mapped = devices.pmap_steps(step, plan.steps_per_call, constants=constants)
    else:
        mapped = devices.pmap_step(step, constants=constants)
    return loop.run(plan, mapped, state, batches, checkpoints)
