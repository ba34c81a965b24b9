"""The synthetic set: layout, determinism, and that loudness gives nothing away."""

import numpy as np

from esc_jax.data import synthetic
from esc_jax.data.layouts.esc50 import Esc50Layout


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
