"""Configuration of XLA on CPU and of the compilation cache."""

import contextlib
import mmap
import os
import pathlib
import re
import time

import jax
import jaxlib

from esc_jax.runtime import memory

# Before jaxlib 0.11, XLA on CPU multiplies matrices faster with the YNNPACK library than by default: by a factor of two
# to twenty on processors without AVX-512, by a tenth in bfloat16 on those with it. LIBRARY_FUSION_TYPE_DOT would also
# fuse neighbouring operations into the library call; a separable convolution then becomes part of the next product, and
# the forward pass of mn04 took 42 ms instead of 25 (jaxlib 0.10, two cores). From jaxlib 0.11 on, convolutions use the
# library by default, and training steps are 3 to 10 % faster than with matrix products alone.
_CPU_FLAG = "xla_cpu_experimental_ynn_fusion_type"
_CPU_FLAG_VALUE = "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
_CPU_FLAG_BEFORE = (0, 11)  # of jaxlib
_CACHE_BYTES = 2 << 30


def initialize(compilation_cache: pathlib.Path | None = None, *, library: bool = False) -> None:
    """Configures XLA on CPU and the persistent compilation cache. Must be called before the first use of a device.

    Args:
        compilation_cache: folder of the cache; None: programs are not cached.
        library: esc_jax is used as a library by another program, whose memory allocation is not changed
            (see `runtime.memory`).
    """
    if not library:
        memory.keep_heap()
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    flags = os.environ.get("XLA_FLAGS", "")
    if jaxlib.version.__version_info__ < _CPU_FLAG_BEFORE and _CPU_FLAG not in flags:
        if _jaxlib_contains(_CPU_FLAG, _CPU_FLAG_VALUE):
            os.environ["XLA_FLAGS"] = f"{flags} --{_CPU_FLAG}={_CPU_FLAG_VALUE}".strip()
    if _virtual_devices() > 1:
        reserve_threads()
    if compilation_cache:
        _remove_incomplete(compilation_cache)
        jax.config.update("jax_compilation_cache_dir", str(compilation_cache))
        jax.config.update("jax_compilation_cache_max_size", _CACHE_BYTES)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _remove_incomplete(cache: pathlib.Path) -> None:
    """Removes cached programs without an access time, which a killed process leaves.

    JAX stores nothing more in a cache that contains one.
    """
    for program in cache.glob("*-cache"):
        with contextlib.suppress(OSError):  # another process has removed it
            complete = program.with_name(f"{program.name.removesuffix('cache')}atime").exists()
            if not complete and time.time() - program.stat().st_mtime > 10:  # not one that is being written
                program.unlink()


def _jaxlib_contains(*names: str) -> bool:
    """Whether the binary of jaxlib contains all of these strings.

    XLA aborts the process if it does not know a flag or its value, so that they must be looked up before they are set.
    """
    for library in pathlib.Path(jaxlib.__file__).parent.glob("libjax_common.*"):
        with open(library, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as binary:
            return all(binary.find(name.encode()) >= 0 for name in names)
    return False


def reserve_threads() -> None:
    """Makes XLA on CPU create more threads than there are cores. Must be called before the first use of a device.

    With several processes, or several CPU devices in one process, JAX 0.11 runs the programs of the devices in the
    thread pool that their Fourier transforms wait for. If each thread is occupied by a device, they wait forever.
    """
    os.environ.setdefault("NPROC", str((os.cpu_count() or 1) + 2 * _virtual_devices()))


def _virtual_devices() -> int:
    """Number of CPU devices that XLA_FLAGS asks for."""
    counts = re.findall(r"xla_force_host_platform_device_count=(\d+)", os.environ.get("XLA_FLAGS", ""))
    return int(counts[-1]) if counts else 1
