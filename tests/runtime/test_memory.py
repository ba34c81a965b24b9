"""Memory allocation on CPU: with `keep_heap`, a program's memory is not requested from the system again."""

import os
import platform
import subprocess
import sys

import pytest

# Page faults of the fifth call of a program with buffers (128 MB) that malloc does not keep by default.
CALLS = """
import resource, sys
from esc_jax.runtime import devices, xla
xla.initialize(library=sys.argv[1] == "library")
import jax, numpy as np
program = jax.jit(lambda x: (x[::-1] * 2.0).cumsum())
x = np.arange(1 << 25, dtype=np.float32)
for _ in range(5):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.asarray(program(devices.to_device(x)))
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_a_command_keeps_its_memory_and_a_library_does_not():
    flags = {"XLA_FLAGS": "", "GLIBC_TUNABLES": ""}  # one device, and the defaults of malloc
    faults = {}
    for process in ("command", "library"):
        done = subprocess.run(
            [sys.executable, "-c", CALLS, process], env=os.environ | flags, capture_output=True, text=True, check=True
        )
        faults[process] = int(done.stdout)
    # A buffer of 128 MB has 32,768 pages, and the call has several.
    assert faults["command"] < 1000 and faults["library"] > 30_000, faults


COUNT_HEAPS = """
import ctypes, sys, threading
from esc_jax.runtime import memory
if sys.argv[1] == "shared":
    memory.share_heap()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
together = threading.Barrier(4)
def work():
    together.wait()
    libc.malloc(100_000)
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
libc.fopen.restype = ctypes.c_void_p
file = libc.fopen(sys.argv[2].encode(), b"w")
libc.malloc_info(0, ctypes.c_void_p(file))
libc.fclose(ctypes.c_void_p(file))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_threads_share_one_heap(tmp_path):
    """The heaps in the report of glibc itself."""
    heaps = {}
    for name in ("shared", "default"):
        subprocess.run(
            [sys.executable, "-c", COUNT_HEAPS, name, str(tmp_path / name)],
            env=os.environ | {"GLIBC_TUNABLES": ""},
            check=True,
        )
        heaps[name] = (tmp_path / name).read_text().count("<heap nr=")
    assert heaps["shared"] == 1 and heaps["default"] > 1
