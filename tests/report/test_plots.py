"""Pictures show the numbers that they are given."""

import jax
import numpy as np
import pytest

from esc_jax.augment import compose
from esc_jax.evaluation import calibration
from esc_jax.frontends.log_mel import LogMel
from esc_jax.report import plots
from esc_jax.tasks import registry as tasks


def test_confusion_matrix_shows_every_count(tmp_path):
    table = np.array([[3, 1, 0], [0, 4, 0], [2, 0, 0]])
    figure = plots.confusion_matrix(table, ("a", "b_b", "c"), "title", tmp_path / "c.png")
    axes = figure.axes[0]
    drawn = {(t.get_position()[1], t.get_position()[0]): int(t.get_text()) for t in axes.texts}
    assert drawn == {(0, 0): 3, (0, 1): 1, (1, 1): 4, (2, 0): 2}
    assert [t.get_text() for t in axes.get_yticklabels()] == ["a", "b b", "c"]
    np.testing.assert_allclose(axes.images[0].get_array()[2], [1, 0, 0])
    assert (tmp_path / "c.png").stat().st_size > 1000


def test_cooccurrence_is_coloured_by_the_clips_of_the_true_class(tmp_path):
    table = np.array([[3, 1, 2], [0, 4, 0], [0, 0, 0]])
    figure = plots.cooccurrence(table, np.array([4, 4, 2]), ("a", "b_b", "c"), "title", tmp_path / "c.png")
    axes = figure.axes[0]
    drawn = {(t.get_position()[1], t.get_position()[0]): int(t.get_text()) for t in axes.texts}
    assert drawn == {(0, 0): 3, (0, 1): 1, (0, 2): 2, (1, 1): 4}
    np.testing.assert_allclose(axes.images[0].get_array(), [[0.75, 0.25, 0.5], [0, 1, 0], [0, 0, 0]])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("detected", "true")
    many = plots.cooccurrence(np.ones((101, 101), int), np.ones(101, int), [str(i) for i in range(101)], "many")
    assert not many.axes[0].texts and len(many.axes[0].get_yticklabels()) == 101


def test_curves_name_the_metric_of_steps():
    history = [{"epoch": 1, "loss": 1.0, "lrap": 0.4, "val_mAP": 0.3, "lr": 1e-3}]
    score = plots.curves(history, tasks.get("multi_label"), "title").axes[1]
    assert score.get_title() == "lrap and mAP"
    assert [line.get_label() for line in score.lines] == ["training (augmented), lrap", "held out, mAP"]


def test_curves_show_the_history():
    history = [{"epoch": e, "loss": 1 / e, "accuracy": 0.1 * e, "lr": 1e-3} for e in (1, 2, 3)]
    history[1]["val_accuracy"], history[1]["val_loss"] = 0.5, 0.7
    task = tasks.get("single_label")
    panels = plots.curves(history, task, "title").axes
    np.testing.assert_allclose(panels[0].lines[0].get_ydata(), [1, 1 / 2, 1 / 3])
    assert list(panels[1].lines[1].get_xdata()) == [2] and list(panels[1].lines[1].get_ydata()) == [0.5]
    assert panels[1].get_title() == "accuracy"


def test_curves_of_pretraining_are_above_those_of_training():
    history = [{"epoch": 1, "loss": 1.0, "accuracy": 0.1, "lr": 1e-3}]
    pretraining = [{"epoch": e, "loss": 2.0, "pretext_accuracy": 0.2 * e, "lr": 1e-3} for e in (1, 2)]
    pretraining[1]["knn_accuracy"] = 0.7
    panels = plots.curves(history, tasks.get("single_label"), "title", pretrain_history=pretraining).axes
    assert len(panels) == 6
    assert [line.get_label() for line in panels[1].lines] == ["pretext accuracy", "accuracy of 5 nearest neighbours"]
    np.testing.assert_allclose(panels[1].lines[0].get_ydata(), [0.2, 0.4])
    assert list(panels[1].lines[1].get_xdata()) == [2]
    byol = [{"epoch": 1, "loss": 2.0, "lr": 1e-3}]  # an objective without a pretext metric
    assert not plots.curves(history, tasks.get("single_label"), "title", pretrain_history=byol).axes[1].lines


@pytest.mark.extended
def test_every_augmentation_has_its_panel(tmp_path):
    rng = np.random.default_rng(0)
    clip, other = rng.uniform(-1, 1, (2, 16_000)).astype(np.float32)
    frontend = LogMel(sample_rate=16_000, n_fft=512, hop=256, mels=32)
    views = compose.augmentation_examples(clip, other, 16_000, frontend, jax.random.key(0))
    for name, view in views.items():
        if name != "clip":
            assert view.shape[-1] != clip.shape[-1] or not np.array_equal(view, clip), name
    figure = plots.augmentations(views, 16_000, frontend, tmp_path / "a.png")
    assert {axes.get_title() for axes in figure.axes} - {""} == set(views)


def test_scores_and_reliability_show_their_numbers():
    rows = [("a", 0.9, 0.85, 0.93), ("b", 0.5, 0.6, 0.7)]
    panels = [plots.ScorePanel("data", "mAP", rows, [("c", 0.8)]), plots.ScorePanel("more", "accuracy", rows)]
    figure = plots.scores(panels)
    assert [axes.get_xlabel() for axes in figure.axes] == ["mAP, %", "accuracy, %"]
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]
    points, low, high = (axes.containers[0][0], *axes.containers[0][1][:2])
    np.testing.assert_allclose(points.get_xdata(), [90, 50])
    np.testing.assert_allclose(low.get_xdata(), [85, 50])  # the interval does not contain its value
    np.testing.assert_allclose(high.get_xdata(), [93, 70])
    diagram = calibration.reliability([0.9, 0.9, 0.3], [1, 0, 1], bins=2)
    panel = plots.reliability([("one", diagram, None), ("two", diagram, diagram)]).axes
    np.testing.assert_allclose(panel[0].lines[1].get_xydata(), [[0.3, 1.0], [0.9, 0.5]])
    assert len(panel[0].lines) == 2 and len(panel[1].lines) == 3


def test_spectrogram_shows_the_frequency():
    wave = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000).astype(np.float32)
    axes = plots.spectrogram(wave, 16_000).axes[0]
    image = axes.images[0]
    shown, (left, right, low, high) = image.get_array(), image.get_extent()
    peak = low + (shown[:, 50].argmax() + 0.5) / len(shown) * (high - low)
    assert abs(peak - 15.0) <= (high - low) / len(shown)  # 1 kHz is 15 mel on Slaney's scale, within a band
    assert (left, right) == pytest.approx((0, 1), abs=0.02)
    assert np.isfinite(plots.spectrogram(np.zeros(16_000), 16_000).axes[0].images[0].get_array()).all()
