"""Memory allocation of a process that computes on CPU.

XLA allocates the buffers of every call with malloc. By default, glibc maps each large buffer (32 MB at most, depending
on earlier allocations) from the system and unmaps it when it is freed. Every call then causes a page fault for each
4 KiB of its buffers, which takes longer than small computations: the log-mel frontend of 64 clips of five seconds at
32 kHz took 191 ms on one core, and 33 ms with the settings of this module.

The settings apply to the heap of the main thread. Other threads have small heaps, which still map large buffers.
Programs should therefore run in the thread that calls them, see `xla.initialize` and `devices.to_device`.
"""

import ctypes
import os
import sys
from typing import Any

# Constants of <malloc.h> and <sys/mman.h>.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_MADV_HUGEPAGE = 14


def _glibc() -> Any:
    """The C library of this process; None without glibc."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None  # musl has none


def share_heap() -> None:
    """Makes all threads that start later allocate from one heap. No effect without glibc.

    Each thread of a server would otherwise keep a heap as large as its largest request. To be called before the threads
    start.
    """
    if libc := _glibc():
        libc.mallopt(_M_ARENA_MAX, 1)


def keep_heap() -> None:
    """Makes malloc keep freed memory and use huge pages. No effect without glibc.

    The process then occupies its peak memory until it ends.
    """
    libc = _glibc()
    if libc is None:
        return
    for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1)):  # no separate mappings, no trimming
        libc.mallopt(option, value)
    # Reserve addresses of half the machine's memory for the heap. No page is touched, so no memory is used yet.
    page = os.sysconf("SC_PAGE_SIZE")
    size = os.sysconf("SC_PHYS_PAGES") // 2 * page
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    libc.madvise.argtypes, libc.free.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int), (ctypes.c_void_p,)
    start = libc.malloc(size)
    if not start:  # the process has a memory limit: pages keep their usual size
        return
    first = -(-start // page) * page
    libc.madvise(first, (start + size - first) // page * page, _MADV_HUGEPAGE)
    libc.free(start)
