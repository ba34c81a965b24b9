"""Events of a timeline, against a loop over windows."""

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from esc_jax.inference.events import EventError, EventOptions, find_events
from tests.inference.factories import make_scene, make_timeline


def brute_force(timeline, limits, options):
    """Every class for itself, window by window."""
    events = []
    edges = timeline.edges
    for index, label in enumerate(timeline.classes):
        spans, scores = [], []
        for window in range(len(timeline.starts)):
            probability = timeline.probabilities[window, index]
            heard = probability >= limits[index] and not timeline.silent[window]
            if timeline.task.exclusive:
                heard = heard and index == int(np.argmax(timeline.probabilities[window]))
            if not heard:
                continue
            if spans and edges[window] - spans[-1][1] <= options.max_gap_s:
                spans[-1][1] = edges[window + 1]
                scores[-1] = max(scores[-1], float(probability))
            else:
                spans.append([edges[window], edges[window + 1]])
                scores.append(float(probability))
        events += [
            (float(a), float(b), label, score)
            for (a, b), score in zip(spans, scores, strict=True)
            if b - a >= options.min_length_s
        ]
    return sorted(events)


@given(
    rows=st.lists(st.lists(st.integers(0, 10), min_size=3, max_size=3), min_size=8, max_size=8),
    silent=st.lists(st.booleans(), min_size=8, max_size=8),
    confidence=st.one_of(st.none(), st.integers(0, 10).map(lambda n: n / 10)),
    length=st.sampled_from([0.0, 2.5, 4.0]),
    gap=st.sampled_from([0.0, 2.0, 5.0]),
    exclusive=st.booleans(),
)
def test_events_equal_a_loop_over_windows(rows, silent, confidence, length, gap, exclusive):
    # Different numbers in a row, so that the most probable class is unique.
    probabilities = np.array(rows, np.float32) / 10 + np.array([0.001, 0.002, 0.003], np.float32)
    scene = make_timeline() if exclusive else make_scene()
    timeline = type(scene)(**{**vars(scene), "probabilities": probabilities, "silent": np.array(silent)})
    options = EventOptions(confidence, {}, length, gap)
    limits = np.zeros(3) if exclusive else timeline.thresholds
    limits = limits if confidence is None else np.full(3, confidence)
    found = [(e.onset_s, e.offset_s, e.label, e.score) for e in find_events(timeline, options)]
    assert sorted(found) == brute_force(timeline, limits, options)
    assert found == sorted(found, key=lambda event: (event[0], event[2]))


def test_the_events_of_a_scene_by_hand():
    """Rain from 0 to 8 s; a dog from 4 s, without the silent window, to the end."""
    events = [(e.label, e.onset_s, e.offset_s) for e in find_events(make_scene())]
    edges = make_scene().edges
    assert events == [
        ("rain", edges[0], edges[4]),
        ("dog", edges[2], edges[4]),
        ("dog", edges[6], edges[8]),
    ]
    joined = find_events(make_scene(), EventOptions(max_gap_s=edges[6] - edges[4]))
    assert [(e.label, e.onset_s, e.offset_s) for e in joined][1:] == [("dog", edges[2], edges[8])]
    strict = find_events(make_scene(), EventOptions(thresholds={"dog": 0.31}))
    assert {e.label for e in strict} == {"rain"}


def test_a_threshold_for_a_class_that_does_not_exist():
    with pytest.raises(EventError, match="the model has no class 'owl'"):
        find_events(make_scene(), EventOptions(thresholds={"owl": 0.5}))


@given(
    rows=st.lists(st.lists(st.integers(0, 10), min_size=3, max_size=3), min_size=8, max_size=8),
    unfamiliar=st.lists(st.booleans(), min_size=8, max_size=8),
    gap=st.sampled_from([0.0, 5.0]),
)
def test_best_window_and_unfamiliar_sounds(rows, unfamiliar, gap):
    probabilities = np.array(rows, np.float32) / 10 + np.array([0.001, 0.002, 0.003], np.float32)
    scene = make_scene()
    values = {**vars(scene), "probabilities": probabilities, "silent": np.zeros(8, bool)}
    timeline = type(scene)(**values | {"unfamiliar": np.array(unfamiliar)})
    for event in find_events(timeline, EventOptions(0.5, max_gap_s=gap)):
        index = timeline.classes.index(event.label)
        windows = [i for i in range(8) if event.onset_s <= timeline.edges[i] < event.offset_s]
        windows = [i for i in windows if probabilities[i, index] >= 0.5]  # without those of gaps
        best = max(windows, key=lambda i: probabilities[i, index])
        assert event.score == probabilities[best, index]
        assert event.peak_s == pytest.approx((timeline.starts[best] + timeline.ends[best]) / 2)
        assert event.unfamiliar == (sum(unfamiliar[i] for i in windows) > len(windows) / 2)
    dropped = find_events(timeline, EventOptions(0.5, max_gap_s=gap, drop_unfamiliar=True))
    # As if the unfamiliar windows were silent.
    as_silent = type(scene)(**values | {"silent": np.array(unfamiliar), "unfamiliar": np.array(unfamiliar)})
    assert dropped == find_events(as_silent, EventOptions(0.5, max_gap_s=gap))
