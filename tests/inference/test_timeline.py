"""Passages, averages and positions of a timeline."""

import numpy as np
import pytest

from esc_jax.inference.timeline import Prediction, clock
from esc_jax.tasks import registry as tasks
from tests.inference.factories import make_scene, make_timeline

TASK = tasks.get("single_label")


def test_passages_cover_the_recording():
    timeline = make_timeline()
    assert timeline.passages() == [(0, 2), (2, 4), (4, 5), (5, 6), (6, 8)]
    assert [row.nonzero()[0].tolist() for row in timeline.active] == [[0], [0], [1], [1], [], [2], [0], [0]]
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
    prediction = Prediction.average(("a", "b"), probabilities, np.array([True, True, False]), TASK)
    assert prediction.labels == ("b", "a") and prediction.unfamiliar
    np.testing.assert_allclose(prediction.vector, [0.25, 0.75])
    np.testing.assert_allclose(prediction.probabilities, [0.75, 0.25])
    assert not Prediction.average(("a", "b"), probabilities[:2], np.array([True, False]), TASK).unfamiliar


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


def test_passages_of_a_multi_label_model_have_the_same_classes():
    scene = make_scene()
    assert scene.passages() == [(0, 2), (2, 4), (4, 5), (5, 6), (6, 8)]  # nothing and silence are different passages
    assert scene.active[3].tolist() == [True, False, True] and not scene.active[4:6].any()
    by_default = make_scene(thresholds=None)  # ½
    assert by_default.passages() == [(0, 4), (4, 5), (5, 6), (6, 8)] and not by_default.active[-1].any()
    # Three windows each; the silent one does not count. The mean of the last window is over the last two.
    smooth = scene.smoothed(4.0)
    np.testing.assert_allclose(smooth.probabilities[3, 0], (0.8 + 0.8 + 0.05) / 3, atol=1e-6)
    assert smooth.active[:, 0].tolist() == [True, True, True, False, False, False, False, False]


def test_the_detected_classes_of_a_mean():
    scene = make_scene()
    prediction = scene.mean(2, 4)
    assert prediction.detected == ("rain", "dog") and prediction.nearest is None
    nothing = scene.mean(4, 6)
    # The log-odds of 5 % are closest to those of 20 %.
    assert nothing.detected == () and nothing.nearest == ("dog", pytest.approx(0.05), 0.2)
    assert make_timeline().mean(5, 7).detected == ("rain",)  # exactly one class
    # On average, the probability of the dog is below 20 %. In the recording, it is detected.
    assert scene.mean().detected == () and scene.whole().detected == ("rain", "dog")
    np.testing.assert_allclose(scene.whole().vector, [0.8, 0.05, 0.3], atol=1e-6)
    np.testing.assert_array_equal(make_timeline().whole().vector, make_timeline().mean().vector)
    assert make_scene(silent=np.ones(8, bool)).whole() is None
    default = Prediction.average(("a", "b"), np.array([[0.3, 0.4]]), np.array([False]), tasks.get("multi_label"))
    assert default.nearest == ("b", 0.4, 0.5)
