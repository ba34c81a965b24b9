"""Set-up of XLA on CPU and of the compilation cache."""

import contextlib
import mmap
import os
import pathlib
import re
import time

import jax
import jaxlib

from esc_jax.runtime import memory
from esc_jax.runtime.devices import AXIS as AXIS

# XLA on CPU runs matrix products faster through this library than by default: two to twenty times on a processor
# without AVX-512, in bfloat16 by a tenth on one with it. Products alone: where the library takes their neighbours along
# (LIBRARY_FUSION_TYPE_DOT), a separable convolution becomes part of the next product, and the forward pass of mn04 took
# 42 ms instead of 25 (jaxlib 0.10, two cores). From jaxlib 0.11 on the default has convolutions in the library too, and
# steps are 3 to 10 % shorter than with products alone.
_CPU_FLAG = "xla_cpu_experimental_ynn_fusion_type"


_CPU_CHOICE = "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"


_CPU_FLAG_BEFORE = (0, 11)  # of jaxlib


_CACHE_BYTES = 2 << 30


def initialize(compilation_cache: pathlib.Path | None = None, *, library: bool = False) -> None:
    """Sets up the process for XLA on CPU, and the persistent compilation cache; before the first use of a device.

    Args:
        compilation_cache: its folder; None: programs are compiled anew.
        library: the process is somebody else's, so its memory is left as it is (see `training.heap`).
    """
    if not library:
        memory.keep_heap()
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    flags = os.environ.get("XLA_FLAGS", "")
    wanted = jaxlib.version.__version_info__ < _CPU_FLAG_BEFORE and _CPU_FLAG not in flags
    if wanted and _knows(_CPU_FLAG, _CPU_CHOICE):
        os.environ["XLA_FLAGS"] = f"{flags} --{_CPU_FLAG}={_CPU_CHOICE}".strip()
    if _virtual_devices() > 1:
        reserve_threads()
    if compilation_cache:
        _remove_incomplete(compilation_cache)
        jax.config.update("jax_compilation_cache_dir", str(compilation_cache))
        jax.config.update("jax_compilation_cache_max_size", _CACHE_BYTES)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _remove_incomplete(cache: pathlib.Path) -> None:
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


def reserve_threads() -> None:
    """Threads for XLA on CPU beyond one a core, before it counts them.

    With several processes, or several devices in one, JAX 0.11 runs the programs of CPU devices in the very threads
    that their Fourier transforms wait for: where each core's is taken by a device, all of them wait for good.
    """
    os.environ.setdefault("NPROC", str((os.cpu_count() or 1) + 2 * _virtual_devices()))


def _virtual_devices() -> int:
    """Devices that the processor is to be shown as."""
    found = re.findall(r"xla_force_host_platform_device_count=(\d+)", os.environ.get("XLA_FLAGS", ""))
    return int(found[-1]) if found else 1
