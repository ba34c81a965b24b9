"""Mapping of steps over devices, placement of arrays and collectives. `jax.pmap` is used in this module only."""

from collections.abc import Callable, Iterator, Sequence
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
_RUNS_AXIS = "runs"  # the mapped axis of `pmap_runs`

Step = Callable[..., tuple[Any, Any]]

# Index of the current part of a device's batch, and the number of parts.
_ACCUMULATION_PART: contextvars.ContextVar[tuple[int | jax.Array, int]] = contextvars.ContextVar(
    "accumulation_part", default=(0, 1)
)


class DeviceError(UserError, ValueError):
    """A batch size that the devices cannot share, or processes that cannot be joined. The message is one sentence."""


@contextlib.contextmanager
def accumulation_part(number: int | jax.Array, parts: int) -> Iterator[None]:
    """Context in which a device's examples are one of several equal parts of its batch (gradient accumulation).

    `example_positions` then returns the positions of that part.

    Args:
        number: index of the part, from 0. May be traced.
        parts: number of parts.
    """
    token = _ACCUMULATION_PART.set((number, parts))
    try:
        yield
    finally:
        _ACCUMULATION_PART.reset(token)


def example_positions(rows: int) -> jax.Array:
    """Positions of this device's examples in the global batch.

    Args:
        rows: number of examples of this device, or of the current part of them.

    Returns:
        (rows,) integers. Outside a mapped step: 0 … rows − 1.
    """
    number, parts = _ACCUMULATION_PART.get()
    first: int | jax.Array
    try:
        first = jax.lax.axis_index(AXIS) * rows * parts
    except NameError:  # the axis does not exist: the step is not mapped
        first = 0
    return first + number * rows + jnp.arange(rows)


def example_keys(key: jax.Array, rows: int) -> jax.Array:
    """One PRNG key for each of this device's examples, derived from its position in the global batch.

    The same example thus gets the same key on any number of devices.

    Args:
        key: PRNG key, the same on all devices.
        rows: as for `example_positions`.

    Returns:
        (rows,) keys.
    """
    return jax.vmap(jax.random.fold_in, (None, 0))(key, example_positions(rows))


def replicate(tree: Any, devices: int | None = None) -> Any:
    """Copies arrays to all devices of this process, as mapped steps expect and return them.

    Args:
        tree: of arrays.
        devices: use only the first few devices; None: all.
    """
    sharding = NamedSharding(Mesh(np.array(jax.local_devices()[:devices]), (AXIS,)), PartitionSpec())
    return jax.device_put(tree, sharding)


def to_global(tree: Any) -> Any:
    """Converts arrays that are equal in all processes into global arrays, which Orbax requires."""
    if jax.process_count() == 1:
        return tree
    mesh = Mesh(np.array(jax.devices()), (AXIS,))
    return multihost_utils.host_local_array_to_global_array(replicate(tree), mesh, PartitionSpec())


def to_host_local(tree: Any) -> Any:
    """Inverse of `to_global`."""
    if jax.process_count() == 1:
        return tree
    mesh = Mesh(np.array(jax.devices()), (AXIS,))
    return multihost_utils.global_array_to_host_local_array(tree, mesh, PartitionSpec())


def to_device(tree: Any) -> Any:
    """Copies arrays from the host to the default device.

    On CPU the copies are complete on return. XLA runs a program whose inputs are still being copied in a thread of its
    own, and glibc does not reuse the memory of such threads (see `runtime.memory`).
    """
    arrays = jax.device_put(tree)
    return jax.block_until_ready(arrays) if jax.default_backend() == "cpu" else arrays


def run_on_host(program: Callable[[], Any]) -> Any:
    """Result of a program that runs once, computed on the CPU, for programs that a GPU takes long to compile.

    JAX may be set up without a CPU (JAX_PLATFORMS); then the program runs on the default device.

    Args:
        program: returns a tree of arrays.

    Returns:
        The arrays, on the default device.
    """
    if jax.default_backend() == "cpu":
        return program()
    try:
        host = jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return program()
    with jax.default_device(host):
        outputs = jax.tree.map(np.asarray, program())
    return jax.device_put(outputs)


def check_batch_size(key: str, batch_size: int, accumulate: int = 1) -> None:
    """Checks that a global batch divides over the devices and over the parts of gradient accumulation.

    Args:
        key: name of the config key, for the message.
        batch_size: of all devices together.
        accumulate: number of parts of each device's batch.

    Raises:
        DeviceError: it does not divide.
    """
    count = jax.device_count() * accumulate
    if batch_size % count:
        parts = f", each in {accumulate} parts" if accumulate > 1 else ""
        raise DeviceError(
            f"{key}={batch_size} is not divisible by the {jax.device_count()} devices{parts}:"
            f" take {batch_size - batch_size % count or count}"
        )


def pmap_step(step: Step, devices: int | None = None) -> Step:
    """Maps a training step over the devices.

    The batch is split along its first axis. State and metrics must be equal on all devices, so `step` reduces
    gradients, batch statistics and metrics with collectives over `AXIS`; they have no device axis. The state is
    donated.

    Args:
        step: (state, batch) → (state, metrics), or (state, batch, constants) → (state, metrics).
        devices: use only the first few devices of this process; None: all.

    Returns:
        (state, batch, constants=None) → (state, metrics). `constants` is a tree of arrays, placed by `replicate`, that
        change from call to call seldom or never. Arrays that `step` closes over would be compiled into the program.
    """
    mapped = _mapped(_with_constants(step), devices, (None, 0, None))
    count = devices or jax.local_device_count()

    def call(state: Any, batch: Any, constants: Any = None) -> tuple[Any, Any]:
        batch = jax.tree.map(lambda x: x.reshape(count, x.shape[0] // count, *x.shape[1:]), batch)
        return mapped(state, to_device(batch) if count == 1 else batch, constants)

    return call


def pmap_steps(step: Step, most: int, devices: int | None = None) -> Step:
    """Maps a loop of several training steps over the devices, so that the host dispatches once for all of them.

    One program serves any number of steps up to `most`: the result does not depend on how steps are grouped.

    Args:
        step, devices: as for `pmap_step`.
        most: largest number of steps in a call.

    Returns:
        (state, sequence of 1 … most batches, constants=None) → (state, metrics). The n-th element of each metric, which
        has `most` elements, is that of the n-th step; those after the last step are zero. `constants` as for
        `pmap_step`.
    """
    # `loop` calls the step twice, and jit traces it once.
    step, count = jax.jit(_with_constants(step), inline=True), devices or jax.local_device_count()

    def loop(state: Any, batches: Any, steps: jax.Array, constants: Any) -> tuple[Any, Any]:
        def at(number: int | jax.Array) -> Any:
            return jax.tree.map(lambda x: x[number], batches)

        def body(number: jax.Array, carry: Any) -> Any:
            state, metrics = carry
            state, new = step(state, at(number), constants)
            return state, jax.tree.map(lambda values, value: values.at[number].set(value), metrics, new)

        shapes = jax.eval_shape(step, state, at(0), constants)[1]
        zeros = jax.tree.map(lambda x: jnp.zeros((most, *x.shape), x.dtype), shapes)
        return jax.lax.fori_loop(0, steps, body, (state, zeros))

    mapped = _mapped(loop, devices, (None, 0, None, None))

    def stack(*leaves: np.ndarray) -> np.ndarray:
        """(devices, most, rows of a device, …). Rows after the last batch are not read."""
        rows = len(leaves[0]) // count
        out = np.zeros((count, most, rows, *leaves[0].shape[1:]), leaves[0].dtype)
        for number, leaf in enumerate(leaves):
            out[:, number] = leaf.reshape(count, rows, *leaf.shape[1:])
        return out

    def call(state: Any, batches: Sequence[Any], constants: Any = None) -> tuple[Any, Any]:
        stacked = jax.tree.map(stack, *batches)
        return mapped(state, to_device(stacked) if count == 1 else stacked, np.int32(len(batches)), constants)

    return call


def _with_constants(step: Step) -> Step:
    """A step that is called with constants, which may be None."""
    return lambda state, batch, constants: step(state, batch, *(() if constants is None else (constants,)))


def _mapped(step: Step, devices: int | None, in_axes: tuple[int | None, ...]) -> Step:
    """`jax.pmap` of a step whose first argument is donated and whose outputs are equal on all devices."""
    selected = jax.local_devices()[:devices] if devices else None
    return jax.pmap(step, axis_name=AXIS, in_axes=in_axes, out_axes=(None, None), devices=selected, donate_argnums=(0,))


def run_layout(runs: int) -> tuple[int, int]:
    """Distribution of independent runs over devices: (number of devices, runs per device).

    The number of devices is the largest that divides the number of runs.
    """
    devices = max(count for count in range(1, jax.local_device_count() + 1) if runs % count == 0)
    return devices, runs // devices


def pmap_runs(step: Step, runs: int) -> Step:
    """Maps a training step over independent runs.

    Each device computes whole runs and does not wait for the other devices. The runs of a device are vmapped. The
    state is donated.

    Args:
        step: (state, batch) → (state, metrics) of one run.
        runs: number of runs.

    Returns:
        The same of all runs. State, batch and metrics have the two axes of `run_layout` in front.
    """

    def single_run(state: Any, batch: Any) -> tuple[Any, Any]:
        # A run is not split over devices: `AXIS`, which its collectives name, has size one.
        with_axis = jax.tree.map(lambda x: x[None], (state, batch))
        return jax.tree.map(lambda x: x[0], jax.vmap(step, axis_name=AXIS)(*with_axis))

    devices = jax.local_devices()[: run_layout(runs)[0]]
    mapped = jax.pmap(jax.vmap(single_run), axis_name=_RUNS_AXIS, devices=devices, donate_argnums=(0,))
    return mapped if len(devices) > 1 else lambda state, batch: mapped(state, to_device(batch))


def shard_runs(runs: int, tree: Any) -> Any:
    """Places the state of independent runs on their devices.

    Args:
        runs: number of runs.
        tree: of arrays with the two axes of `run_layout` in front.
    """
    mesh = Mesh(np.array(jax.local_devices()[: run_layout(runs)[0]]), (_RUNS_AXIS,))
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(_RUNS_AXIS)))


def all_gather(x: jax.Array) -> jax.Array:
    """Concatenates the rows of all devices: (rows, …) → (global batch, …). Only within a mapped step."""
    return jax.lax.all_gather(x, AXIS, tiled=True)


def all_mean(tree: Any) -> Any:
    """Mean over the devices. Only within a mapped step."""
    return jax.lax.pmean(tree, AXIS)


def memory_bytes() -> int | None:
    """Memory of the smallest device of this process, as its allocator may use it; None where it is not known (CPU)."""
    sizes = [(device.memory_stats() or {}).get("bytes_limit", 0) for device in jax.local_devices()]
    return min(sizes) or None


def device_name() -> str:
    """Number, platform and kind of the devices, for results: "4 × gpu (NVIDIA H100)"."""
    device = jax.devices()[0]
    kind = platform.processor() or platform.machine() if device.platform == "cpu" else device.device_kind
    return f"{jax.device_count()} × {device.platform} ({kind})"
