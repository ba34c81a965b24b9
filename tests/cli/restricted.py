"""Runs `esc-jax` in a process that lacks what Windows lacks, and what is not needed for prediction.

python -m tests.cli.restricted COMMAND …     or: python -m tests.cli.restricted --import MODULE
"""

import ctypes
import importlib
import importlib.abc
import os
import signal
import sys
import types
from typing import Any

ABSENT = {"array_record", "tensorflow_datasets", "tensorflow", "grain", "fcntl", "resource", "termios", "pwd", "grp"}
NOT_IN_OS = ("sched_getaffinity", "sched_setaffinity", "fork", "forkpty", "getuid", "geteuid", "killpg", "sysconf")
NOT_IN_SIGNAL = ("SIGUSR1", "SIGUSR2", "SIGHUP", "SIGKILL", "SIGALRM", "sigwait", "pthread_kill", "pthread_sigmask")


class Without:
    """A meta path finder that finds everything but ABSENT, as if that were not installed."""

    def __init__(self, finder: Any):
        self.finder = finder

    def __getattr__(self, name: str) -> Any:
        return getattr(self.finder, name)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """As of the finder; None for what is absent."""
        return None if name.partition(".")[0] in ABSENT else self.finder.find_spec(name, path, target)


class NoLibc(ctypes.CDLL):
    """`ctypes.CDLL` without the C library of the process."""

    def __init__(self, name: Any, *arguments: Any, **options: Any):
        if name is None or "libc." in str(name):
            raise TypeError(f"CDLL({name!r}) does not exist here")  # as on Windows
        super().__init__(name, *arguments, **options)


def restrict() -> None:
    """Restricts this process."""
    sys.meta_path[:] = map(Without, sys.meta_path)
    for name in ABSENT:
        sys.modules.pop(name, None)
    # These choose their binaries by platform: most when they are imported, soundfile at every call.
    for name in ("asyncio", "jax", "matplotlib.figure", "orbax.checkpoint", "soundfile", "soxr", "tqdm"):
        importlib.import_module(name)
    for module, names in ((os, NOT_IN_OS), (signal, NOT_IN_SIGNAL)):
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    if sys.version_info >= (3, 13):  # which calls sched_getaffinity, where that existed at the start
        os.process_cpu_count = os.cpu_count
    ctypes.CDLL = NoLibc  # type: ignore[misc]  # replaced on purpose
    sys.modules["soundfile"]._sys = types.SimpleNamespace(**vars(sys))  # type: ignore[attr-defined]
    sys.platform = "win32"


if __name__ == "__main__":
    restrict()
    if sys.argv[1] == "--import":
        status = importlib.import_module(sys.argv[2]) is None
    else:
        status = importlib.import_module("esc_jax.__main__").main()
    imported = ABSENT & set(sys.modules)
    sys.exit(status or (f"imported {sorted(imported)}" if imported else 0))
