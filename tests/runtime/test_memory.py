"""Memory of a command's process on CPU: what a program has had once, the system is not asked for again."""

import os
import platform
import subprocess
import sys

import pytest

# Page faults of the fifth call of a program whose buffers (128 MB) are beyond what malloc keeps by default.
CALLS = """
import resource, sys
from esc_jax.training import parallel
parallel.initialize(guest=sys.argv[1] == "guest")
import jax, numpy as np
program = jax.jit(lambda x: (x[::-1] * 2.0).cumsum())
x = np.arange(1 << 25, dtype=np.float32)
for _ in range(5):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.asarray(program(parallel.ready(x)))
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's heap is kept")
def test_a_command_keeps_its_memory_and_a_library_leaves_its_host_alone():
    flags = {"XLA_FLAGS": "", "GLIBC_TUNABLES": ""}  # one device, as most users have it, and malloc as it is
    faults = {}
    for process in ("own", "guest"):
        done = subprocess.run(
            [sys.executable, "-c", CALLS, process], env=os.environ | flags, capture_output=True, text=True, check=True
        )
        faults[process] = int(done.stdout)
    # A buffer of 128 MB has 32,768 pages, and the call has several.
    assert faults["own"] < 1000 and faults["guest"] > 30_000, faults
