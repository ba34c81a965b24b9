"""The picture of a classified recording."""

import dataclasses

from matplotlib.backends.backend_agg import FigureCanvasAgg
import numpy as np
import pytest

from esc_jax.frontends.log_mel import mel_bank
from esc_jax.inference.timeline import Timeline
from esc_jax.report import timeline_plot
from esc_jax.tasks import registry as tasks
from tests.inference.factories import make_scene

RATE = 16_000


def sound(seconds):
    """(time, 1) noise, with a low hum in its second half."""
    time = np.arange(round(seconds * RATE)) / RATE
    noise = 0.2 * np.random.default_rng(0).uniform(-1, 1, (len(time), 1))
    hum = 0.3 * np.sin(2 * np.pi * 200 * time)
    return np.where(time[:, None] < seconds / 2, noise, hum[:, None] + 0.01 * noise).astype(np.float32)


def strange_end():
    """Eight windows of 4 s: rain, waves, silence, rain unlike any class."""
    starts = np.array([0.0, 2, 4, 6, 8, 10, 12, 13])
    probabilities = np.full((8, 3), 0.1, np.float32)
    probabilities[np.arange(8), [0, 0, 1, 1, 1, 0, 0, 0]] = 0.8
    return Timeline(
        classes=("rain", "sea_waves", "dog"), starts=starts, ends=starts + 4, probabilities=probabilities,
        level_db=np.zeros(8), silent=np.arange(8) == 4, unfamiliar=np.arange(8) > 4, duration_s=3617.0,
        task=tasks.get("single_label"),
    )  # fmt: skip


def test_an_overview_is_the_mean_of_its_frames():
    signal = sound(20.0)[:, 0]
    overview = timeline_plot.Overview(RATE, columns=50)
    for block in np.split(signal, [3, 900, 17_000, 17_001, 200_000]):
        overview.add(block)
    size, hop = 1024, 512
    frames = np.stack([signal[k : k + size] for k in range(0, len(signal) - size + 1, hop)]) * np.hanning(size)
    power = np.abs(np.fft.rfft(frames)) ** 2 @ mel_bank(RATE, size, 64, 0.0, 8000.0, False)
    per = 8  # 624 frames, in more than 50 and less than 100 columns
    expected = np.array([power[k : k + per].mean(axis=0) for k in range(0, len(power), per)]).T
    image = overview.image()
    assert image.shape == expected.shape == (64, 78)
    # dB of float32 powers
    np.testing.assert_allclose(image, np.maximum(10 * np.log10(expected / expected.max() + 1e-12), -80), atol=0.01)


@pytest.mark.parametrize("signal", [sound(0.01)[:, 0], np.zeros(5 * RATE, np.float32)])
def test_an_overview_of_a_very_short_or_silent_signal(signal):
    overview = timeline_plot.Overview(RATE)
    overview.add(signal)
    image = overview.image()
    assert image.shape[0] == 64 and image.shape[1] >= 1 and np.isfinite(image).all() and image.max() <= 0


def draw(timeline):
    """The axes of the picture of a timeline."""
    overview = timeline_plot.Overview(RATE)
    overview.add(sound(5.0)[:, 0])
    return timeline_plot.recording(timeline, overview, "title").axes


def test_a_picture_shows_leaders_silence_and_time(tmp_path):
    timeline = strange_end()
    overview = timeline_plot.Overview(RATE)
    overview.add(sound(5.0)[:, 0])
    spectrogram, classes, ribbon = timeline_plot.recording(timeline, overview, "title", tmp_path / "o.png").axes
    assert (tmp_path / "o.png").read_bytes()[:4] == b"\x89PNG"
    assert spectrogram.get_title() == "title"
    assert [t.get_text() for t in classes.get_yticklabels()] == ["rain", "sea waves", "dog"]  # by windows led
    cells = classes.collections[0].get_array().reshape(3, 8, 3)
    strip = ribbon.collections[0].get_array().reshape(8, 3)
    grey = 200 / 255
    np.testing.assert_allclose(cells[:, 4], grey)
    np.testing.assert_allclose(strip[4], grey)
    blue, orange = (np.array([31, 119, 180]) / 255, np.array([255, 127, 14]) / 255)
    np.testing.assert_allclose(strip[[0, 1, 5, 6, 7]], np.tile(blue, (5, 1)))
    np.testing.assert_allclose(strip[[2, 3]], np.tile(orange, (2, 1)))
    np.testing.assert_allclose(cells[0, 0], 0.2 + 0.8 * blue, atol=1e-6)
    np.testing.assert_allclose(cells[0, 2], 0.9 + 0.1 * blue, atol=1e-6)
    assert [t.get_text() for t in ribbon.texts] == ["rain?"]  # the one passage wide enough for its name
    assert len(ribbon.patches) == 3 and all(patch.get_hatch() for patch in ribbon.patches)
    assert "hatched: unlike" in ribbon.get_xlabel()
    assert ribbon.get_xlim() == (0, 3617)
    assert ribbon.xaxis.get_major_formatter()(600, 0) == "10:00"


def test_a_picture_of_too_many_classes_and_of_silence():
    starts, none = np.arange(20.0), np.zeros(20, bool)
    many = Timeline(
        classes=tuple(f"c{i}" for i in range(20)), starts=starts, ends=starts + 1,
        probabilities=np.eye(20, dtype=np.float32), level_db=np.zeros(20), silent=none, unfamiliar=none,
        duration_s=20.0, task=tasks.get("single_label"),
    )  # fmt: skip
    _, classes, ribbon = draw(many)
    assert len(classes.get_yticklabels()) == 12
    assert "8 other classes" in ribbon.get_xlabel() and "silence" not in ribbon.get_xlabel()
    _, classes, ribbon = draw(dataclasses.replace(many, silent=~none))
    assert classes.get_yticklabels() == [] and [t.get_text() for t in ribbon.texts] == ["silence"]


def test_a_picture_of_ten_hours_shows_short_events():
    count, first = 36_000, [100, 3000, 5000, 20_000, 32_390, 35_970]
    probabilities = np.tile(np.array([0.6, 0.1, 0.1], np.float32), (count, 1))
    for window in first:
        probabilities[window : window + 5] = [0.0, 1.0, 0.0]
    timeline = Timeline(
        classes=("rain", "dog", "wind"), starts=np.arange(count) * 1.0, ends=np.arange(count) + 5.0,
        probabilities=probabilities, level_db=np.zeros(count), silent=np.arange(count) >= 35_975,
        unfamiliar=np.arange(count) % 10 < 9, duration_s=count + 4.0, task=tasks.get("single_label"),
    )  # fmt: skip
    overview = timeline_plot.Overview(RATE)
    overview.add(sound(5.0)[:, 0])
    figure = timeline_plot.recording(timeline, overview, "title")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    _, classes, ribbon = figure.axes
    left, right = (round(x) for x in classes.transData.transform([(0, 0), (count + 4, 0)])[:, 0])
    row = round(figure.bbox.height - classes.transData.transform((0, 1.5))[1])
    pixels = np.asarray(canvas.buffer_rgba())[row, left:right, :3] / 255
    orange = np.flatnonzero(np.abs(pixels - np.array([255, 127, 14]) / 255).max(axis=1) < 0.1)
    found = orange[np.diff(orange, prepend=-9) > 1] / (right - left) * (count + 4)
    np.testing.assert_allclose(found, first, atol=60)  # a pixel is 40 s wide
    assert len(ribbon.patches) <= 1000  # hatches of unfamiliar windows, which are slow to draw
    assert "maximum of 36 windows" in ribbon.get_xlabel() and "hatched" in ribbon.get_xlabel()


def test_a_picture_shows_classes_that_are_active_at_the_same_time():
    _, classes, ribbon = draw(make_scene(unfamiliar=np.arange(8) == 4))
    assert [t.get_text() for t in classes.get_yticklabels()] == ["rain", "dog", "sea waves"]  # by windows
    rain, dog, waves = classes.collections[2:5]  # black bars along the lower edge of the rows
    spans = [[path.get_extents().bounds for path in bars.get_paths()] for bars in (rain, dog, waves)]
    height = pytest.approx(0.2)
    assert spans == [[(0, 0.8, 9, height)], [(5, 1.8, 4, height), (13, 1.8, 5, height)], []]
    assert [label.get_text() for label in ribbon.get_yticklabels()] == ["detected"]
    band = ribbon.collections[0].get_array().reshape(12, 8, 3)  # from bottom to top
    blue, orange = (np.array([31, 119, 180]) / 255, np.array([255, 127, 14]) / 255)
    np.testing.assert_allclose(band[:, 0], np.tile(blue, (12, 1)))
    np.testing.assert_allclose(band[:6, 2], np.tile(orange, (6, 1)))  # the dog below the rain, as in the rows above
    np.testing.assert_allclose(band[6:, 2], np.tile(blue, (6, 1)))
    np.testing.assert_allclose(band[:, 4], 1.0)
    np.testing.assert_allclose(band[:, 5], 200 / 255)
    assert [t.get_text() for t in ribbon.texts] == ["rain", "rain + dog", "none?", "silence", "dog"]
    assert "black bar: above the threshold of the class; grey: silence" in ribbon.get_xlabel()
