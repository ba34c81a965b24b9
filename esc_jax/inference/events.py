"""Events: when each class begins and ends in a recording."""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses

import numpy as np

from esc_jax.errors import UserError
from esc_jax.inference.timeline import Timeline


class EventError(UserError, ValueError):
    """Thresholds that cannot be used. The message is one sentence."""


@dataclasses.dataclass(frozen=True)
class Event:
    """A part of a recording in which a class is detected without interruption.

    Attributes:
        onset_s, offset_s: in the recording.
        label: the class.
        score: largest probability of the class in a window of the event.
        peak_s: centre of this window; None where it is not known.
        unfamiliar: whether more than half of the windows are unlike any class.
    """

    onset_s: float
    offset_s: float
    label: str
    score: float
    peak_s: float | None = None
    unfamiliar: bool = False


@dataclasses.dataclass(frozen=True)
class EventOptions:
    """What counts as an event.

    Attributes:
        min_confidence: smallest probability; None for the thresholds of a multi-label model, and for 0 where every
            window has one class.
        thresholds: class → smallest probability, in the place of `min_confidence`.
        min_length_s: shorter events are dropped.
        max_gap_s: events of one class that are not farther apart are joined.
        drop_unfamiliar: windows that are unlike any class have no events.
    """

    min_confidence: float | None = None
    thresholds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    min_length_s: float = 0.0
    max_gap_s: float = 0.0
    drop_unfamiliar: bool = False


def check_thresholds(options: EventOptions, classes: Sequence[str]) -> None:
    """Raises EventError where a threshold is for a class that the model does not have."""
    if unknown := [name for name in options.thresholds if name not in classes]:
        raise EventError(f"the model has no class {unknown[0]!r}, for which there is a threshold")


def find_events(timeline: Timeline, options: EventOptions = EventOptions()) -> list[Event]:
    """The events of a recording, in the order of their onsets.

    A window counts for the piece of the recording between the middles of its centre and of its neighbours' centres
    (`Timeline.edges`). A multi-label model has an event of a class where its probability is at least the threshold. Of
    another model, a window has one event at most: that of its most probable class.

    Args:
        timeline: of the recording. Silent windows have no events.
        options: of the events.

    Raises:
        EventError: a threshold is for a class that the model does not have.
    """
    check_thresholds(options, timeline.classes)
    active, edges = _active(timeline, options), timeline.edges
    events = []
    for index in np.flatnonzero(active.any(axis=0)).tolist():
        changes = np.diff(np.pad(active[:, index].astype(np.int8), 1))
        runs = list(zip(np.flatnonzero(changes == 1).tolist(), np.flatnonzero(changes == -1).tolist(), strict=True))
        for first, stop in _joined(runs, edges, options.max_gap_s):
            if edges[stop] - edges[first] >= options.min_length_s:
                windows = first + np.flatnonzero(active[first:stop, index])
                events.append(_event(timeline, index, first, stop, windows))
    return sorted(events, key=lambda event: (event.onset_s, event.label))


def _event(timeline: Timeline, index: int, first: int, stop: int, windows: np.ndarray) -> Event:
    """The event of a class from window `first` to `stop` − 1; `windows` are those that have the class, without gaps."""
    scores = timeline.probabilities[windows, index]
    best = int(windows[scores.argmax()])
    return Event(
        onset_s=float(timeline.edges[first]),
        offset_s=float(timeline.edges[stop]),
        label=timeline.classes[index],
        score=float(scores.max()),
        peak_s=float(timeline.starts[best] + timeline.ends[best]) / 2,
        unfamiliar=bool(timeline.unfamiliar[windows].mean() > 0.5),
    )


def _active(timeline: Timeline, options: EventOptions) -> np.ndarray:
    """(windows, classes) bool."""
    limits = None
    if not timeline.task.exclusive:
        limits = np.full(len(timeline.classes), timeline.task.default_threshold)
        limits = limits if timeline.thresholds is None else np.array(timeline.thresholds, np.float64)
    if options.min_confidence is not None:
        limits = np.full(len(timeline.classes), options.min_confidence)
    if options.thresholds:
        limits = np.zeros(len(timeline.classes)) if limits is None else limits
        for name, value in options.thresholds.items():
            limits[timeline.classes.index(name)] = value
    active = timeline.active
    if limits is not None:
        above = timeline.probabilities >= limits
        # A model with one class for each window decides first: a threshold can only drop its decision.
        active = active & above if timeline.task.exclusive else above & ~timeline.silent[:, None]
    return active & ~timeline.unfamiliar[:, None] if options.drop_unfamiliar else active


def _joined(runs: Iterable[tuple[int, int]], edges: np.ndarray, max_gap_s: float) -> list[tuple[int, int]]:
    """Runs of windows (first, stop), of which those with a short gap between them are joined."""
    joined: list[tuple[int, int]] = []
    for first, stop in runs:
        if joined and edges[first] - edges[joined[-1][1]] <= max_gap_s:
            joined[-1] = joined[-1][0], stop
        else:
            joined.append((first, stop))
    return joined
