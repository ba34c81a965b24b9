"""How a command's process holds memory on CPU: one heap, of huge pages, that keeps what it has had.

XLA asks malloc for the buffers of every call anew. Above 32 MB at most, glibc maps each of them from the system and
gives it back at its end, so that every call has all its pages cleared again, 4 KiB at a time: a page fault each, more
time than the work on them takes where that is little (64 clips of five seconds at 32 kHz: the log-mel frontend took
191 ms, and 33 with this heap, on one core).

The heap is the main thread's. Threads have small ones of their own, where large buffers are still mapped one by one; so
programs are to run in the thread that calls them, as `parallel.initialize` and `parallel.ready` see to.
"""

import ctypes
import os

# Of <malloc.h> and <sys/mman.h>.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_HUGE_PAGES = 14


def keep_heap() -> None:
    """Memory that the process has had stays its own. Without glibc nothing happens.

    It then holds its peak until it ends: what it frees serves itself, and nobody else.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return
    for option, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1)):  # nothing mapped on its own, nothing given back
        libc.mallopt(option, value)
    # Addresses alone, as nothing is written: half the machine's memory, so that the heap can grow within them.
    page = os.sysconf("SC_PAGE_SIZE")
    size = os.sysconf("SC_PHYS_PAGES") // 2 * page
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    libc.madvise.argtypes, libc.free.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int), (ctypes.c_void_p,)
    start = libc.malloc(size)
    if not start:  # the process is limited: its heap grows in pages of the usual size
        return
    first = -(-start // page) * page
    libc.madvise(first, (start + size - first) // page * page, _HUGE_PAGES)
    libc.free(start)
