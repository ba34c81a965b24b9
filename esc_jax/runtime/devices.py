"""Devices: how a step is mapped over them, placement of arrays, collectives. All of pmap is here."""

from collections.abc import Callable, Iterator
import contextlib
import contextvars
import platform
from typing import Any

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from esc_jax.errors import UserError

AXIS = "batch"  # the mapped axis of training steps
_PART = contextvars.ContextVar("part", default=(0, 1))


@contextlib.contextmanager
def accumulation_part(number: jax.Array, parts: int) -> Iterator[None]:
    """Inside, a device's examples are the `number`-th of as many equal parts of its batch."""
    token = _PART.set((number, parts))
    try:
        yield
    finally:
        _PART.reset(token)


def example_positions(rows: int) -> jax.Array:
    """(rows,) positions of this device's examples in the global batch; 0 … rows − 1 outside a mapped step."""
    number, parts = _PART.get()
    try:
        first = jax.lax.axis_index(AXIS) * rows * parts
    except NameError:  # no such axis: not mapped
        first = 0
    return first + number * rows + jnp.arange(rows)


def example_keys(key: jax.Array, rows: int) -> jax.Array:
    """(rows,) a key for each of this device's examples, from its position in the global batch."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, example_positions(rows))


_RUNS = "runs"  # the axis of devices over which whole runs are spread


class DeviceError(UserError, ValueError):
    """A batch or a machine that doesn't fit. The message is one sentence."""


def replicate(tree, devices: int | None = None):
    """Arrays on all devices of this process, or the first few of them: where a mapped step takes and leaves them."""
    sharding = NamedSharding(Mesh(np.array(jax.local_devices()[:devices]), (AXIS,)), PartitionSpec())
    return jax.device_put(tree, sharding)


def to_global(tree):
    """Arrays of this process, the same in all of them → arrays of them together, as orbax wants them."""
    if jax.process_count() == 1:
        return tree
    mesh = Mesh(np.array(jax.devices()), (AXIS,))
    return multihost_utils.host_local_array_to_global_array(replicate(tree), mesh, PartitionSpec())


def to_host_local(tree):
    """The opposite of `shared`."""
    if jax.process_count() == 1:
        return tree
    mesh = Mesh(np.array(jax.devices()), (AXIS,))
    return multihost_utils.global_array_to_host_local_array(tree, mesh, PartitionSpec())


def to_device(tree):
    """Arrays of the host → arrays that a program finds on the device.

    On CPU they are there when this returns: a program whose inputs are on their way runs in a thread of its own, and
    such a thread's memory is not kept (see `training.heap`).
    """
    placed = jax.device_put(tree)
    return jax.block_until_ready(placed) if jax.default_backend() == "cpu" else placed


def check_batch_size(key: str, batch_size: int, accumulate: int = 1) -> None:
    """Raises DeviceError where a config's global batch does not divide over the devices and the parts each takes it
    in."""
    count = jax.device_count() * accumulate
    if batch_size % count:
        parts = f", each in {accumulate} parts" if accumulate > 1 else ""
        raise DeviceError(
            f"{key}={batch_size} is not divisible by the {jax.device_count()} devices{parts}:"
            f" take {batch_size - batch_size % count or count}"
        )


def pmap_step(step: Callable, devices: int | None = None, constants: Any = None) -> Callable:
    """`step(state, batch, constants) → (state, metrics)` over all devices, or the first few of them.

    The batch is split along its first axis. State and metrics are equal on all devices and have no device axis.
    Gradients, batch statistics and metrics are combined inside `step` by collectives over AXIS. The state is donated.

    Args:
        step: of one device.
        devices: number of devices; None for all.
        constants: tree of arrays that every call gets. A constant of the program would be compiled into it.
    """
    chosen = jax.local_devices()[:devices] if devices else None
    constants = replicate(constants, devices)
    run = jax.pmap(
        step, axis_name=AXIS, in_axes=(None, 0, None), out_axes=(None, None), devices=chosen, donate_argnums=(0,)
    )
    count = devices or jax.local_device_count()

    def call(state: Any, batch: Any) -> Any:
        batch = jax.tree.map(lambda x: x.reshape(count, x.shape[0] // count, *x.shape[1:]), batch)
        return run(state, to_device(batch) if count == 1 else batch, constants)

    return call


def run_layout(runs: int) -> tuple[int, int]:
    """(devices, runs on each) for runs side by side: the most devices among which they divide."""
    devices = max(count for count in range(1, jax.local_device_count() + 1) if runs % count == 0)
    return devices, runs // devices


def pmap_runs(step: Callable, runs: int) -> Callable:
    """`step(state, batch) → (state, metrics)` of many runs at once, the state donated.

    State, batch and metrics have two axes in front, as `places` says; each device has whole runs of its own, which
    never wait for one another, and within a device they are one vmapped program.
    """

    def alone(state, batch):  # AXIS is one device wide: a run is not split
        one = jax.vmap(step, axis_name=AXIS)
        first = jax.tree.map(lambda x: x[None], (state, batch))
        return jax.tree.map(lambda x: x[0], one(*first))

    devices = jax.local_devices()[: run_layout(runs)[0]]
    run = jax.pmap(jax.vmap(alone), axis_name=_RUNS, devices=devices, donate_argnums=(0,))
    return run if len(devices) > 1 else lambda state, batch: run(state, to_device(batch))


def shard_runs(runs: int, tree):
    """State of runs side by side, each on its device."""
    mesh = Mesh(np.array(jax.local_devices()[: run_layout(runs)[0]]), (_RUNS,))
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(_RUNS)))


def all_gather(x: jax.Array) -> jax.Array:
    """(rows, …) on every device → (global batch, …) on all."""
    return jax.lax.all_gather(x, AXIS, tiled=True)


def all_mean(tree):
    """Mean over the devices."""
    return jax.lax.pmean(tree, AXIS)


def device_name() -> str:
    """What the run ran on, in words."""
    device = jax.devices()[0]
    kind = platform.processor() or platform.machine() if device.platform == "cpu" else device.device_kind
    return f"{jax.device_count()} × {device.platform} ({kind})"
