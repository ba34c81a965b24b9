"""Processes recordings, several at a time: some are decoded while the device computes others."""

from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
import dataclasses
import itertools
import os

_MOST_AT_ONCE = 8  # recordings


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a recording.

    Attributes:
        file: path below the common folder.
        status: "done", "skipped" (finished before), "locked" (by another process), "duplicate" (in a store that has the
            content under another name) or "failed".
        duration_s: length of the recording.
        seconds: that it took.
        note: a sentence on what is wrong with it.
    """

    file: str
    status: str
    duration_s: float = 0.0
    seconds: float = 0.0
    note: str = ""


def recordings_at_once() -> int:
    """Number of recordings that are processed at a time: half of the processor cores, but from two to eight.

    One of them uses the device. Decoding the others takes longer than that for small networks and on GPUs.
    """
    return max(2, min(_MOST_AT_ONCE, (os.cpu_count() or 1) // 2))


def run_ahead(run: Callable[[str], Outcome], recordings: Sequence[str]) -> Iterator[Outcome]:
    """Yields `run` of each recording in the order of their ends; `recordings_at_once` are in work, in threads."""
    remaining, count = iter(recordings), recordings_at_once()
    with futures.ThreadPoolExecutor(count) as pool:
        running = {pool.submit(run, recording) for recording in itertools.islice(remaining, count)}
        try:
            while running:
                done, running = futures.wait(running, return_when=futures.FIRST_COMPLETED)
                running |= {pool.submit(run, recording) for recording in itertools.islice(remaining, len(done))}
                for one in done:
                    yield one.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
