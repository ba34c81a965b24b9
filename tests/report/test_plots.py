"""Pictures: that they are drawn from what they are given."""

import jax
import numpy as np
import pytest

from esc_jax.augment import compose
from esc_jax.evaluation import calibration
from esc_jax.frontends.log_mel import LogMel
from esc_jax.report import plots


def test_confusion_matrix_shows_every_count(tmp_path):
    table = np.array([[3, 1, 0], [0, 4, 0], [2, 0, 0]])
    figure = plots.confusion_matrix(table, ("a", "b_b", "c"), "title", tmp_path / "c.png")
    axes = figure.axes[0]
    drawn = {(t.get_position()[1], t.get_position()[0]): int(t.get_text()) for t in axes.texts}
    assert drawn == {(0, 0): 3, (0, 1): 1, (1, 1): 4, (2, 0): 2}
    assert [t.get_text() for t in axes.get_yticklabels()] == ["a", "b b", "c"]
    np.testing.assert_allclose(axes.images[0].get_array()[2], [1, 0, 0])
    assert (tmp_path / "c.png").stat().st_size > 1000


def test_curves_hold_the_history():
    history = [{"epoch": e, "loss": 1 / e, "accuracy": 0.1 * e, "lr": 1e-3} for e in (1, 2, 3)]
    history[1]["val_accuracy"], history[1]["val_loss"] = 0.5, 0.7
    panels = plots.curves(history, "title").axes
    np.testing.assert_allclose(panels[0].lines[0].get_ydata(), [1, 1 / 2, 1 / 3])
    assert list(panels[1].lines[1].get_xdata()) == [2] and list(panels[1].lines[1].get_ydata()) == [0.5]


def test_every_augmentation_has_its_panel(tmp_path):
    rng = np.random.default_rng(0)
    clip, other = rng.uniform(-1, 1, (2, 16_000)).astype(np.float32)
    frontend = LogMel(sample_rate=16_000, n_fft=512, hop=256, mels=32)
    views = compose.gallery(clip, other, 16_000, frontend, jax.random.key(0))
    for name, view in views.items():
        if name != "clip":
            assert view.shape[-1] != clip.shape[-1] or not np.array_equal(view, clip), name
    figure = plots.augmentations(views, 16_000, frontend, tmp_path / "a.png")
    assert {axes.get_title() for axes in figure.axes} - {""} == set(views)


def test_pictures_are_drawn_from_their_numbers():
    figure = plots.accuracies({"data": [("a", 0.9, 0.85, 0.93), ("b", 0.5, 0.6, 0.7)]}, {"data": [("c", 0.8)]})
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]
    points, low, high = (axes.containers[0][0], *axes.containers[0][1][:2])
    np.testing.assert_allclose(points.get_xdata(), [90, 50])
    np.testing.assert_allclose(low.get_xdata(), [85, 50])  # an interval that misses its value is drawn from it
    np.testing.assert_allclose(high.get_xdata(), [93, 70])
    found = calibration.reliability([0.9, 0.9, 0.3], [1, 0, 1], bins=2)
    panel = plots.reliability([("one", found, None), ("two", found, found)]).axes
    np.testing.assert_allclose(panel[0].lines[1].get_xydata(), [[0.3, 1.0], [0.9, 0.5]])
    assert len(panel[0].lines) == 2 and len(panel[1].lines) == 3


def test_spectrogram_shows_the_pitch_where_it_is():
    wave = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000).astype(np.float32)
    axes = plots.spectrogram(wave, 16_000).axes[0]
    image = axes.images[0]
    shown, (left, right, low, high) = image.get_array(), image.get_extent()
    peak = low + (shown[:, 50].argmax() + 0.5) / len(shown) * (high - low)
    assert abs(peak - 15.0) <= (high - low) / len(shown)  # 1 kHz is 15 mel on Slaney's scale, within a band
    assert (left, right) == pytest.approx((0, 1), abs=0.02)
    assert np.isfinite(plots.spectrogram(np.zeros(16_000), 16_000).axes[0].images[0].get_array()).all()
