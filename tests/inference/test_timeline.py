"""Passages, averages and positions of a timeline."""

import numpy as np
import pytest

from esc_jax.inference.timeline import Prediction, clock
from tests.inference.factories import make_timeline


def test_passages_cover_the_recording():
    timeline = make_timeline()
    assert timeline.passages() == [(0, 2), (2, 4), (4, 5), (5, 6), (6, 8)]
    assert timeline.leaders.tolist() == [0, 0, 1, 1, -1, 2, 0, 0]
    assert timeline.edges.tolist() == [0, 3, 5, 7, 9, 11, 13, 14.5, 17]
    # 8.5 s is closest to 8 s, the centre of the fourth window.
    assert [timeline.window_at(position) for position in ("begin", "middle", "end")] == [0, 3, 7]


def test_the_mean_leaves_out_silent_windows():
    timeline = make_timeline()
    assert timeline.mean(4, 5) is None
    assert timeline.mean(3, 5).labels[0] == "sea_waves" and timeline.mean(3, 5).probabilities[0] == pytest.approx(0.8)
    assert timeline.mean(5, 7).top(2) == [("rain", pytest.approx(0.45)), ("dog", pytest.approx(0.45))]


def test_a_prediction_of_windows_is_unfamiliar_if_most_of_them_are():
    probabilities = np.array([[0.25, 0.75], [0.5, 0.5], [0.0, 1.0]])
    prediction = Prediction.average(("a", "b"), probabilities, np.array([True, True, False]))
    assert prediction.labels == ("b", "a") and prediction.unfamiliar
    np.testing.assert_allclose(prediction.vector, [0.25, 0.75])
    np.testing.assert_allclose(prediction.probabilities, [0.75, 0.25])
    assert not Prediction.average(("a", "b"), probabilities[:2], np.array([True, False])).unfamiliar


@pytest.mark.parametrize(
    ("seconds", "decimals", "text"),
    [
        (0, False, "0:00"),
        (59.96, False, "1:00"),
        (61.5, False, "1:01.5"),
        (61, True, "1:01.0"),
        (3617, False, "1:00:17"),
    ],
)
def test_clock(seconds, decimals, text):
    assert clock(seconds, decimals) == text
