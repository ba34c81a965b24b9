"""Training with several processes, one per host."""

from collections.abc import Callable, Iterator
import contextlib
import ctypes
import functools
import os
import signal
import sys
from typing import Any, NoReturn

import jax
from jax.experimental import multihost_utils
import numpy as np

from esc_jax.errors import first_line
from esc_jax.runtime.devices import DeviceError
from esc_jax.runtime.xla import reserve_threads

_LOST_PROCESS = (
    "esc_jax: another process of this run has ended or cannot be reached ({}); start all of them again to continue"
    " from the last checkpoint\n"
)


def join_processes() -> None:
    """Connects this process to the others of the run. Must be called before the first use of a device.

    Slurm, Cloud TPU and Open MPI are detected. Elsewhere, set JAX_COORDINATOR_ADDRESS (host:port of process 0),
    JAX_NUM_PROCESSES and JAX_PROCESS_ID.

    Raises:
        DeviceError: the environment describes no such run, or the other processes cannot be reached.
    """
    if sys.platform != "win32":
        ctypes.CDLL(None).signal(signal.SIGABRT, _abort_handler())
    count, number = os.environ.get("JAX_NUM_PROCESSES"), os.environ.get("JAX_PROCESS_ID")
    settings: dict[str, Any] = {}
    if count and number:
        settings = {"num_processes": int(count), "process_id": int(number)}
    reserve_threads()
    try:
        jax.distributed.initialize(**settings)
    except (RuntimeError, ValueError) as error:
        raise DeviceError(
            f"--distributed: this process cannot join others ({first_line(error)}); start it"
            " under Slurm or on a TPU pod, or set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID"
        ) from None


def exit_lost_process(reason: str) -> NoReturn:
    """Ends this process with status 1 and a message, because another process is gone.

    Args:
        reason: for the message.
    """
    os.write(2, _LOST_PROCESS.format(reason).encode())  # sys.stderr may be locked
    os._exit(1)  # an orderly exit would wait for the other processes


@functools.cache
def _abort_handler() -> Callable[[int], None]:
    """A C signal handler that calls `exit_lost_process`. The cache keeps it alive as long as the process.

    When the coordinator cannot be reached, JAX aborts the process from a thread of its own. No exception is raised,
    and Python's signal handlers would wait for the main thread.
    """
    return ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda _: exit_lost_process("see the message of JAX above"))


def is_main_process() -> bool:
    """Whether this is the process that writes results."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits until all processes have reached the barrier of this name."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


@contextlib.contextmanager
def main_process_first(name: str) -> Iterator[None]:
    """Runs a block in the main process first and then in the others, which find its files.

    Args:
        name: of the barrier.
    """
    if not is_main_process():
        barrier(name)
    yield
    if is_main_process():
        barrier(name)


def any_process(flag: bool) -> bool:
    """Whether `flag` is true in any process. All processes must call this."""
    return flag if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.array(flag)).any())


def require_single_process(name: str) -> None:
    """Raises DeviceError if there are several processes.

    Args:
        name: what needs a single process, for the message.
    """
    if jax.process_count() > 1:
        raise DeviceError(f"{name} runs in one process: leave --distributed out")
