"""The runtime on platforms without glibc and POSIX: nothing of them is called."""

import os
import subprocess
import sys

import pytest

# JAX itself is imported first: its Linux build must not see another platform.
INITIALIZE = """
import ctypes, os, signal, sys
import jax, jax.experimental.multihost_utils, numpy as np
sys.platform = sys.argv[1]

def unavailable(*args, **kwargs):
    raise TypeError("LoadLibrary() argument 1 must be str, not None")

ctypes.CDLL = unavailable
for name in ("sysconf", "sched_getaffinity", "fork"):
    delattr(os, name)
if sys.platform == "win32":
    # Signals that Windows lacks.
    for name in ("SIGKILL", "SIGHUP", "SIGUSR1", "SIGALRM"):
        delattr(signal, name)

from esc_jax.runtime import devices, memory, processes, xla

xla.initialize()
memory.keep_heap()
memory.share_heap()
x = devices.to_device(np.arange(3.0, dtype=np.float32))
assert processes.is_main_process() and not processes.any_process(False)
with processes.main_process_first("test"):
    print(devices.device_name(), float(jax.jit(lambda x: x.sum())(x)))
"""
JOIN = """
from esc_jax.runtime import processes
try:
    processes.join_processes()
except processes.DeviceError as error:
    print(error)
"""


def start(code, platform):
    variables = {k: v for k, v in os.environ.items() if k not in ("JAX_NUM_PROCESSES", "SLURM_JOB_ID")}
    return subprocess.run([sys.executable, "-c", code, platform], env=variables, capture_output=True, text=True)


@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_initialization_calls_no_glibc(platform):
    process = start(INITIALIZE, platform)
    assert process.returncode == 0, process.stderr[-3000:]
    assert process.stdout.strip().endswith("3.0")


def test_joining_processes_calls_no_glibc_on_windows():
    # The last lines of INITIALIZE use a device, which must not happen before processes are joined.
    process = start(INITIALIZE.partition("from esc_jax")[0] + JOIN, "win32")
    assert process.returncode == 0, process.stderr[-3000:]
    assert "cannot join others" in process.stdout
