"""Finds the recordings that appear in a folder, each when it is finished."""

from collections.abc import Callable, Iterator
import os
import time

from esc_jax.inference.recordings import find_recordings


class Watch:
    """A folder that recorders write to.

    A recording is finished when its size and its modification time have been the same for `settle_s`. One that changes
    later is reported again.

    Args:
        folder: is searched recursively.
        settle_s: without a change.
        now: the clock, s.
    """

    def __init__(self, folder: str, settle_s: float, now: Callable[[], float] = time.monotonic):
        self._folder, self._settle_s, self._now = folder, settle_s, now
        self._since: dict[str, tuple[tuple[int, int], float]] = {}  # of unfinished files: their state, and since when
        self._reported: dict[str, tuple[int, int]] = {}

    def finished(self) -> list[str]:
        """The recordings that have been finished since the last call, in the order of their names."""
        paths, _ = find_recordings([self._folder])
        found = []
        for path, state in _states(paths):
            if self._reported.get(path) == state:
                continue
            known, since = self._since.get(path, (None, 0.0))
            if known != state:
                self._since[path] = state, self._now()
            elif self._now() - since >= self._settle_s:
                del self._since[path]
                self._reported[path] = state
                found.append(path)
        return found


def _states(paths: list[str]) -> Iterator[tuple[str, tuple[int, int]]]:
    """(path, (size, modification time)) of the files that are still there and not empty."""
    for path in paths:
        try:
            status = os.stat(path)
        except OSError:
            continue
        if status.st_size:
            yield path, (status.st_size, status.st_mtime_ns)
