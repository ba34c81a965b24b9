"""Processes that train together."""

from collections.abc import Iterator
import contextlib
import ctypes
import os
import signal
from typing import NoReturn

import jax
from jax.experimental import multihost_utils
import numpy as np

from esc_jax.errors import first_line
from esc_jax.runtime.devices import AXIS as AXIS
from esc_jax.runtime.devices import DeviceError
from esc_jax.runtime.xla import reserve_threads

_LOST = (
    "esc_jax: another process of this run has ended or cannot be reached ({}); start all of them again, and they go on"
    " from the last checkpoint\n"
)


def join_processes() -> None:
    """Makes this process one of several that train together; before the first use of a device.

    Slurm, Cloud TPU and Open MPI say themselves who is who; elsewhere JAX_COORDINATOR_ADDRESS (host:port of process 0),
    JAX_NUM_PROCESSES and JAX_PROCESS_ID do.

    Raises:
        DeviceError: nothing says it, or the others cannot be reached.
    """
    ctypes.CDLL(None).signal(signal.SIGABRT, _ABORTED)
    count, number = os.environ.get("JAX_NUM_PROCESSES"), os.environ.get("JAX_PROCESS_ID")
    given = {"num_processes": int(count), "process_id": int(number)} if count and number else {}
    reserve_threads()
    try:
        jax.distributed.initialize(**given)
    except (RuntimeError, ValueError) as error:
        raise DeviceError(
            f"--distributed: this process cannot join others ({first_line(error)}); start it"
            " under Slurm or on a TPU pod, or set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID"
        ) from None


def exit_lost_process(why: str) -> NoReturn:
    """Ends this process, with a sentence: another one is gone."""
    os.write(2, _LOST.format(why).encode())  # sys.stderr may be in the middle of something
    os._exit(1)  # a process that leaves in order would wait for the others


# JAX aborts a process, from a thread of its own, once the first one is out of reach: no exception comes of it, and
# Python's handlers of signals wait for the main thread. So it is a handler of C's.
_ABORTED = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda _: exit_lost_process("JAX says why, above"))


def is_main_process() -> bool:
    """Whether this is the process that writes what all of them found."""
    return jax.process_index() == 0


def barrier(where: str) -> None:
    """Until all processes are here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(where)


@contextlib.contextmanager
def main_process_first(what: str) -> Iterator[None]:
    """The first process does it, then the others do, and find it done."""
    if not is_main_process():
        barrier(what)
    yield
    if is_main_process():
        barrier(what)


def any_process(flag: bool) -> bool:
    """Whether it is true in any process; all have to ask."""
    return flag if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.array(flag)).any())


def require_single_process(what: str) -> None:
    """Raises DeviceError for what several processes cannot do together."""
    if jax.process_count() > 1:
        raise DeviceError(f"{what} runs in one process: leave --distributed out")
