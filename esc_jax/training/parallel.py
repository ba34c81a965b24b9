"""Devices and processes: how a step is mapped over them, and how a process is set up. All of pmap is here."""

from collections.abc import Callable, Iterator
import contextlib
import ctypes
import mmap
import os
import pathlib
import re
import signal
import time
from typing import NoReturn

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import jaxlib
import numpy as np

from esc_jax.errors import Problem, first_line
from esc_jax.models.dropout import AXIS as AXIS
from esc_jax.models.dropout import positions as positions
from esc_jax.training import heap

# XLA on CPU runs matrix products faster through this library than by default: two to twenty times on a processor
# without AVX-512, in bfloat16 by a tenth on one with it. Products alone: where the library takes their neighbours along
# (LIBRARY_FUSION_TYPE_DOT), a separable convolution becomes part of the next product, and the forward pass of mn04 took
# 42 ms instead of 25 (jaxlib 0.10, two cores). From jaxlib 0.11 on the default has convolutions in the library too, and
# steps are 3 to 10 % shorter than with products alone.
_CPU_FLAG = "xla_cpu_experimental_ynn_fusion_type"
_CPU_CHOICE = "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
_CPU_FLAG_BEFORE = (0, 11)  # of jaxlib
_CACHE_BYTES = 2 << 30
_LOST = (
    "esc_jax: another process of this run has ended or cannot be reached ({}); start all of them again, and they go on"
    " from the last checkpoint\n"
)
_RUNS = "runs"  # the axis of devices over which whole runs are spread


class DeviceError(Problem, ValueError):
    """A batch or a machine that doesn't fit. The message is one sentence."""


def initialize(compilation_cache: pathlib.Path | None = None, *, guest: bool = False) -> None:
    """Sets up the process for XLA on CPU, and the persistent compilation cache; before the first use of a device.

    Args:
        compilation_cache: its folder; None: programs are compiled anew.
        guest: the process is somebody else's, so its memory is left as it is (see `training.heap`).
    """
    if not guest:
        heap.keep()
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    flags = os.environ.get("XLA_FLAGS", "")
    wanted = jaxlib.version.__version_info__ < _CPU_FLAG_BEFORE and _CPU_FLAG not in flags
    if wanted and _knows(_CPU_FLAG, _CPU_CHOICE):
        os.environ["XLA_FLAGS"] = f"{flags} --{_CPU_FLAG}={_CPU_CHOICE}".strip()
    if _virtual_devices() > 1:
        more_threads()
    if compilation_cache:
        _mend(compilation_cache)
        jax.config.update("jax_compilation_cache_dir", str(compilation_cache))
        jax.config.update("jax_compilation_cache_max_size", _CACHE_BYTES)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _mend(cache: pathlib.Path) -> None:
    """Removes programs that a killed process left without their times: JAX could store nothing beside them."""
    for program in cache.glob("*-cache"):
        with contextlib.suppress(OSError):  # another process is quicker
            whole = program.with_name(f"{program.name.removesuffix('cache')}atime").exists()
            if not whole and time.time() - program.stat().st_mtime > 10:  # not one that is being written
                program.unlink()


def _knows(*names: str) -> bool:
    """Whether this jaxlib has an XLA flag and its value: an unknown one would abort the process, without a word to
    catch."""
    for library in pathlib.Path(jaxlib.__file__).parent.glob("libjax_common.*"):
        with open(library, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as binary:
            return all(binary.find(name.encode()) >= 0 for name in names)
    return False


def join() -> None:
    """Makes this process one of several that train together; before the first use of a device.

    Slurm, Cloud TPU and Open MPI say themselves who is who; elsewhere JAX_COORDINATOR_ADDRESS (host:port of process 0),
    JAX_NUM_PROCESSES and JAX_PROCESS_ID do.

    Raises:
        DeviceError: nothing says it, or the others cannot be reached.
    """
    ctypes.CDLL(None).signal(signal.SIGABRT, _ABORTED)
    count, number = os.environ.get("JAX_NUM_PROCESSES"), os.environ.get("JAX_PROCESS_ID")
    given = {"num_processes": int(count), "process_id": int(number)} if count and number else {}
    more_threads()
    try:
        jax.distributed.initialize(**given)
    except (RuntimeError, ValueError) as error:
        raise DeviceError(
            f"--distributed: this process cannot join others ({first_line(error)}); start it"
            " under Slurm or on a TPU pod, or set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID"
        ) from None


def lost(why: str) -> NoReturn:
    """Ends this process, with a sentence: another one is gone."""
    os.write(2, _LOST.format(why).encode())  # sys.stderr may be in the middle of something
    os._exit(1)  # a process that leaves in order would wait for the others


# JAX aborts a process, from a thread of its own, once the first one is out of reach: no exception comes of it, and
# Python's handlers of signals wait for the main thread. So it is a handler of C's.
_ABORTED = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda _: lost("JAX says why, above"))


def more_threads() -> None:
    """Threads for XLA on CPU beyond one a core, before it counts them.

    With several processes, or several devices in one, JAX 0.11 runs the programs of CPU devices in the very threads
    that their Fourier transforms wait for: where each core's is taken by a device, all of them wait for good.
    """
    os.environ.setdefault("NPROC", str((os.cpu_count() or 1) + 2 * _virtual_devices()))


def _virtual_devices() -> int:
    """Devices that the processor is to be shown as."""
    found = re.findall(r"xla_force_host_platform_device_count=(\d+)", os.environ.get("XLA_FLAGS", ""))
    return int(found[-1]) if found else 1


def first() -> bool:
    """Whether this is the process that writes what all of them found."""
    return jax.process_index() == 0


def wait(where: str) -> None:
    """Until all processes are here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(where)


@contextlib.contextmanager
def first_alone(what: str) -> Iterator[None]:
    """The first process does it, then the others do, and find it done."""
    if not first():
        wait(what)
    yield
    if first():
        wait(what)


def any_of(flag: bool) -> bool:
    """Whether it is true in any process; all have to ask."""
    return flag if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.array(flag)).any())


def check_alone(what: str) -> None:
    """Raises DeviceError for what several processes cannot do together."""
    if jax.process_count() > 1:
        raise DeviceError(f"{what} runs in one process: leave --distributed out")


def replicated(tree, devices: int | None = None):
    """Arrays on all devices of this process, or the first few of them: where a mapped step takes and leaves them."""
    sharding = NamedSharding(Mesh(np.array(jax.local_devices()[:devices]), (AXIS,)), PartitionSpec())
    return jax.device_put(tree, sharding)


def shared(tree):
    """Arrays of this process, the same in all of them → arrays of them together, as orbax wants them."""
    if jax.process_count() == 1:
        return tree
    mesh = Mesh(np.array(jax.devices()), (AXIS,))
    return multihost_utils.host_local_array_to_global_array(replicated(tree), mesh, PartitionSpec())


def own(tree):
    """The opposite of `shared`."""
    if jax.process_count() == 1:
        return tree
    mesh = Mesh(np.array(jax.devices()), (AXIS,))
    return multihost_utils.global_array_to_host_local_array(tree, mesh, PartitionSpec())


def ready(tree):
    """Arrays of the host → arrays that a program finds on the device.

    On CPU they are there when this returns: a program whose inputs are on their way runs in a thread of its own, and
    such a thread's memory is not kept (see `training.heap`).
    """
    placed = jax.device_put(tree)
    return jax.block_until_ready(placed) if jax.default_backend() == "cpu" else placed


def check_batch(key: str, batch_size: int, accumulate: int = 1) -> None:
    """Raises DeviceError where a config's global batch does not divide over the devices and the parts each takes it
    in."""
    count = jax.device_count() * accumulate
    if batch_size % count:
        parts = f", each in {accumulate} parts" if accumulate > 1 else ""
        raise DeviceError(
            f"{key}={batch_size} is not divisible by the {jax.device_count()} devices{parts}:"
            f" take {batch_size - batch_size % count or count}"
        )


def mapped(step: Callable, devices: int | None = None, fixed: tuple = ()) -> Callable:
    """`step(state, batch, *fixed) → (state, metrics)` over all devices, or the first few of them, the state donated.

    The batch is split along its first axis; state and metrics are the same on all devices, and stay arrays without a
    device axis: gradients, batch statistics and metrics meet in `step` by collectives over AXIS. `fixed` are trees of
    arrays that every call gets as they are (a constant would be compiled in).
    """
    chosen = jax.local_devices()[:devices] if devices else None
    fixed = replicated(fixed, devices)
    axes = (None, 0, *(None for _ in fixed))
    run = jax.pmap(step, axis_name=AXIS, in_axes=axes, out_axes=(None, None), devices=chosen, donate_argnums=(0,))
    count = devices or jax.local_device_count()

    def call(state, batch):
        batch = jax.tree.map(lambda x: x.reshape(count, x.shape[0] // count, *x.shape[1:]), batch)
        return run(state, ready(batch) if count == 1 else batch, *fixed)

    return call


def places(runs: int) -> tuple[int, int]:
    """(devices, runs on each) for runs side by side: the most devices among which they divide."""
    devices = max(count for count in range(1, jax.local_device_count() + 1) if runs % count == 0)
    return devices, runs // devices


def side_by_side(step: Callable, runs: int) -> Callable:
    """`step(state, batch) → (state, metrics)` of many runs at once, the state donated.

    State, batch and metrics have two axes in front, as `places` says; each device has whole runs of its own, which
    never wait for one another, and within a device they are one vmapped program.
    """

    def alone(state, batch):  # AXIS is one device wide: a run is not split
        one = jax.vmap(step, axis_name=AXIS)
        first = jax.tree.map(lambda x: x[None], (state, batch))
        return jax.tree.map(lambda x: x[0], one(*first))

    devices = jax.local_devices()[: places(runs)[0]]
    run = jax.pmap(jax.vmap(alone), axis_name=_RUNS, devices=devices, donate_argnums=(0,))
    return run if len(devices) > 1 else lambda state, batch: run(state, ready(batch))


def apart(runs: int, tree):
    """State of runs side by side, each on its device."""
    mesh = Mesh(np.array(jax.local_devices()[: places(runs)[0]]), (_RUNS,))
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(_RUNS)))


def gather(x: jax.Array) -> jax.Array:
    """(rows, …) on every device → (global batch, …) on all."""
    return jax.lax.all_gather(x, AXIS, tiled=True)


def mean(tree):
    """Mean over the devices."""
    return jax.lax.pmean(tree, AXIS)
