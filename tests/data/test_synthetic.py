"""The synthetic set: layout, determinism, and that loudness gives nothing away."""

import collections
import csv

import numpy as np
import soundfile

from esc_jax.data import scenes, synthetic
from esc_jax.data.layouts.csv_file import CsvLayout
from esc_jax.data.layouts.esc50 import Esc50Layout
from esc_jax.data.layouts.options import Options


def test_layout_and_determinism(tmp_path):
    one = Esc50Layout(synthetic.generate(tmp_path / "one", clips_per_fold=1, seed=3))
    other = Esc50Layout(synthetic.generate(tmp_path / "other", clips_per_fold=1, seed=3))
    assert len(one.rows) == 5 * len(synthetic.CLASSES) and len(synthetic.CLASSES) >= 10
    assert {r.fold for r in one.rows} == {1, 2, 3, 4, 5}
    assert len({r.src_file for r in one.rows}) == len(one.rows)
    assert one.categories == tuple(synthetic.CLASSES)
    assert all(one.read(r) == other.read(r) for r in one.rows)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "other"]  # nothing half-made is left


def test_loudness_does_not_tell_the_classes_apart():
    names = list(synthetic.CLASSES)
    levels, labels = [], []
    for label, name in enumerate(names):
        for seed in range(12):
            waveform = synthetic.clip(name, np.random.default_rng((label, seed)))
            assert waveform.shape == (80_000,) and np.abs(waveform).max() <= 1.0
            levels.append((10 * np.log10(np.mean(waveform**2)), 20 * np.log10(np.abs(waveform).max())))
            labels.append(label)
    levels, labels = np.array(levels), np.array(labels)
    # Nearest class mean in (RMS, peak), fitted and tested on the same clips: optimistic, and still near chance (8 %).
    scaled = levels / levels.std(axis=0)
    means = np.stack([scaled[labels == c].mean(axis=0) for c in range(len(names))])
    guess = np.linalg.norm(scaled[:, None] - means, axis=-1).argmin(axis=1)
    assert (guess == labels).mean() < 0.4


def test_scenes_are_mixtures_of_one_to_three_sounds(tmp_path):
    """Every scene has the labels of its events, and is louder where they sound."""
    root = synthetic.generate_scenes(tmp_path / "scenes", clips_per_fold=1, seed=4)
    layout = CsvLayout(root / scenes.TABLE, Options())
    assert layout.task == "multi_label" and len(layout.rows) == 60 and len(layout.categories) == 12
    assert {len(row.targets) for row in layout.rows} == {1, 2, 3} and {row.fold for row in layout.rows} == {
        1,
        2,
        3,
        4,
        5,
    }
    events = collections.defaultdict(list)
    with open(root / scenes.EVENTS, newline="") as file:
        for line in csv.DictReader(file):
            events[line["filename"]].append(line)
    for row in layout.rows:
        lines = events[row.filename]
        assert sorted(line["label"] for line in lines) == sorted(layout.categories[t] for t in row.targets)
        samples, rate = soundfile.read(root / row.filename)
        sounding = np.zeros(len(samples), bool)
        for line in lines:
            sounding[int(float(line["onset_s"]) * rate) : int(float(line["offset_s"]) * rate)] = True
        assert len(samples) == 5 * rate and sounding.any()
        if not sounding.all():
            assert np.square(samples[sounding]).mean() > 3 * np.square(samples[~sounding]).mean()


def test_a_mixture_is_the_sum_of_scaled_sounds():
    tone, noise = np.sin(np.arange(600) / 5), np.random.default_rng(0).standard_normal(400)
    mixed = scenes.mix([scenes.Event("a", tone, 100, -6.0), scenes.Event("b", noise, 800, 0.0)], 1000)
    expected = np.zeros(1000)
    expected[100:700] = tone / np.sqrt(np.mean(tone**2)) * 10 ** (-6 / 20)
    expected[800:] += noise[:200] / np.sqrt(np.mean(noise**2))
    np.testing.assert_allclose(mixed, expected * 0.9 / np.abs(expected).max(), atol=1e-6)
