"""What supervised training and pretraining share: the loop with a step on the devices, fed with clips."""

import functools
from typing import Any

from absl import logging

from esc_jax.data.resident import ResidentClips, gathered
from esc_jax.runtime import devices
from esc_jax.runtime.devices import Step
from esc_jax.training import checkpoint, loop
from esc_jax.training.state import TrainState
from esc_jax.training.step import TrainStep


def map_step(step: TrainStep, steps_per_call: int, resident: ResidentClips | None) -> Step:
    """The program of a training: a step, or a loop of several, mapped over the devices.

    Args:
        step: of one device, as `training.step.train_step` returns it.
        steps_per_call: largest number of steps in a call.
        resident: as for `train`.
    """
    step = gathered(step) if resident else step
    if steps_per_call == 1:
        return devices.pmap_step(step)
    logging.info("the host dispatches %d steps at a time", steps_per_call)
    return devices.pmap_steps(step, steps_per_call)


def train(
    plan: loop.Plan,
    program: Step,
    constants: Any,
    state: TrainState,
    batches: Any,
    checkpoints: checkpoint.Checkpoints,
    resident: ResidentClips | None,
) -> tuple[TrainState, dict[str, Any]]:
    """`loop.run` with a program of `map_step`.

    Args:
        plan, state, batches, checkpoints: as for `loop.run`.
        program: of `map_step`, with `plan.steps_per_call`.
        constants: of the objective.
        resident: the clips on the devices, whose indices the batches are; None: the batches are clips.
    """
    if resident:
        constants = (resident.arrays, constants)
    step = functools.partial(program, constants=devices.replicate(constants))
    return loop.run(plan, step, state, batches, checkpoints)
