"""Classifies live sound: a result for each window while the sound arrives, and the times of all of them.

A position is the time since the first sample. Within a segment it is a number of samples divided by their rate, so that
errors do not add up. Between segments it has the length of the gap, by the clock of this machine.
"""

from collections import deque
from collections.abc import Iterator
import dataclasses
from datetime import datetime, timedelta
import math
from typing import Any

import numpy as np

from esc_jax.data import live
from esc_jax.data.live import Capture, Chunk, Segment
from esc_jax.data.source import AudioError
from esc_jax.data.stream import resample
from esc_jax.inference.classifier import SILENCE_DB, SoundClassifier
from esc_jax.inference.timeline import Timeline

_CHECK_S = 60.0  # the shortest delay within this time is compared with the clock
_TOLERANCE_S = 0.25
# Sound cards are right to a tenth of this. Sound that arrives faster is not live: it is no error of a clock.
_CLOCK_ERROR = 1e-3


@dataclasses.dataclass(frozen=True)
class Window:
    """A window of live sound.

    Attributes:
        timeline: of this window alone, in its segment.
        start_s, end_s: position.
        time: of its first sample.
        arrived: when its last sample arrived, seconds since the epoch.
    """

    timeline: Timeline
    start_s: float
    end_s: float
    time: datetime
    arrived: float


@dataclasses.dataclass(frozen=True)
class Gap:
    """A break between two segments.

    Attributes:
        start_s, end_s: position.
        time: of its beginning.
        reason: why the segment before it ended.
    """

    start_s: float
    end_s: float
    time: datetime
    reason: str


@dataclasses.dataclass(frozen=True)
class ClockChange:
    """The times of the following windows are corrected: the source's samples and this machine's clock disagree.

    Attributes:
        position_s: from which it counts.
        time: of this position, corrected.
        seconds: by which times are later than before.
    """

    position_s: float
    time: datetime
    seconds: float


class SampleClock:
    """The time of each sample of a segment, from those at which chunks arrive.

    The time of the first sample is the earliest that a chunk allows, until `fix` is called. From then on it changes
    only if even the least delayed chunk of a minute is off by more than a quarter of a second.

    Args:
        rate: Hz.
    """

    def __init__(self, rate: int):
        self._rate, self._count, self._fixed = rate, 0, False
        self.origin = math.inf
        self._arrivals: deque[tuple[int, float]] = deque()
        self._delay, self._checked_s = math.inf, 0.0
        self._correction = 0.0

    @property
    def duration_s(self) -> float:
        """Of the samples so far."""
        return self._count / self._rate

    def add(self, chunk: Chunk) -> None:
        """Notes the arrival of the next samples."""
        self._count += len(chunk.samples)
        self._arrivals.append((self._count, chunk.arrived))
        if not self._fixed:
            self.origin = min(self.origin, chunk.arrived - self.duration_s)
            return
        self._delay = min(self._delay, chunk.arrived - self.origin - self.duration_s)
        if self.duration_s < self._checked_s + _CHECK_S:
            return
        if self._delay > _TOLERANCE_S or -_CLOCK_ERROR * self.duration_s < self._delay < -_TOLERANCE_S:
            self.origin += self._delay
            self._correction += self._delay
        self._delay, self._checked_s = math.inf, self.duration_s

    def fix(self) -> None:
        """Fixes the time of the first sample."""
        self._fixed = True

    def correction(self) -> float:
        """By how much the time of the first sample was changed since the last call, s."""
        value, self._correction = self._correction, 0.0
        return value

    def arrived(self, position_s: float) -> float:
        """When the sample that ends at this position arrived. Positions must not decrease."""
        count = round(position_s * self._rate)
        while len(self._arrivals) > 1 and self._arrivals[0][0] < count:
            self._arrivals.popleft()
        return self._arrivals[0][1]


def listen(
    classifier: SoundClassifier,
    capture: Capture,
    window_s: float | None = None,
    hop_s: float = 1.0,
    *,
    silence_db: float | None = SILENCE_DB,
    channel: int | None = None,
    start: datetime | None = None,
    follow_clock: bool = True,
) -> Iterator[Window | Gap | ClockChange]:
    """Classifies live sound, window by window. A segment has the windows that a recording of it has.

    Args:
        classifier: the model.
        capture: of the sound; not yet iterated over.
        window_s, hop_s, silence_db: as of `SoundClassifier.timeline`.
        channel: as of `data.live.mono`.
        start: time of the first sample; None for the clock of this machine.
        follow_clock: correct the times where the samples and the clock of this machine disagree (`SampleClock`).

    Raises:
        LiveError, AudioError: the sound cannot be used; as of `Capture.segments`.
    """
    size_s: float = classifier.window_s if window_s is None else window_s
    warm_up(classifier, size_s)
    first: float | None = None  # origin of the first segment
    base, end_s = start, 0.0
    for segment in capture.segments():
        if channel is not None and channel >= segment.channels:
            raise AudioError(f"{capture.name}: has no channel {channel + 1}, only {segment.channels}")
        clock, opened, offset = SampleClock(segment.rate), False, end_s
        blocks = resample(_tapped(segment, channel, clock), segment.rate, classifier.sample_rate, capture.name)
        for timeline in classifier.live(blocks, size_s, hop_s, silence_db=silence_db):
            if not opened:
                clock.fix()
                opened = True
                first = clock.origin if first is None else first
                base = base or datetime.fromtimestamp(first).astimezone()
                offset = max(end_s, clock.origin - first)
                if segment.reason:
                    yield Gap(end_s, offset, _at(base, end_s), segment.reason)
            assert first is not None and base is not None
            begin, end = offset + float(timeline.starts[0]), offset + float(timeline.ends[0])
            if change := clock.correction():
                first += change
                if follow_clock:
                    base += timedelta(seconds=change)
                    yield ClockChange(begin, _at(base, begin), change)
            yield Window(timeline, begin, end, _at(base, begin), clock.arrived(float(timeline.ends[0])))
        end_s = offset + clock.duration_s
    if first is None:
        raise AudioError(f"{capture.name}: holds no samples")


def warm_up(classifier: SoundClassifier, window_s: float) -> None:
    """Compiles the program of a window, which would delay the first result."""
    silence = np.zeros(round(window_s * classifier.sample_rate), np.float32)
    for _ in classifier.live([silence], window_s, window_s):
        pass


def _tapped(segment: Segment, channel: int | None, clock: SampleClock) -> Iterator[np.ndarray]:
    """The samples of a segment with one channel, whose arrivals the clock notes."""

    def chunks() -> Iterator[Chunk]:
        for chunk in segment.chunks:
            clock.add(chunk)
            yield chunk

    return live.mono(dataclasses.replace(segment, chunks=chunks()), channel)


def _at(base: datetime, seconds: float) -> datetime:
    return base + timedelta(seconds=seconds)


def to_json(item: Gap | ClockChange) -> dict[str, Any]:
    """What is between windows as a JSON object, with its `type`."""
    time = item.time.isoformat(timespec="milliseconds")
    if isinstance(item, ClockChange):
        return {
            "type": "clock",
            "time": time,
            "position_s": round(item.position_s, 4),
            "seconds": round(item.seconds, 4),
        }
    return {
        "type": "gap",
        "time": time,
        "start_s": round(item.start_s, 4),
        "end_s": round(item.end_s, 4),
        "duration_s": round(item.end_s - item.start_s, 4),
        "reason": item.reason,
    }
