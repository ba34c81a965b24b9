"""A data set, runs of it and the report on them."""

import csv
import pathlib

import numpy as np
import pytest
import soundfile

from esc_jax.data.clips import Clips
from esc_jax.data.layouts.esc50 import COLUMNS, Esc50Layout
from esc_jax.report import write
from tests.report.made import CLASSES, GOOD, PER_FOLD, POOR, RATE, labels_of, leave, views_of


@pytest.fixture(scope="session")
def tree(tmp_path_factory) -> pathlib.Path:
    """A data set in the official layout: 48 clips of a second, whose pitch is 300 Hz and 20 more for every clip."""
    root = tmp_path_factory.mktemp("data") / "tree"
    (root / "meta").mkdir(parents=True)
    (root / "audio").mkdir()
    with open(root / "meta/esc50.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for i in range(2 * PER_FOLD):
            name = f"{1 + i // PER_FOLD}-{i // 2}-{i}.wav"
            wave = 0.5 * np.sin(2 * np.pi * (300 + 20 * i) * np.arange(RATE) / RATE)
            soundfile.write(root / "audio" / name, wave, RATE)
            writer.writerow([name, 1 + i // PER_FOLD, i % 4, CLASSES[i % 4], "False", f"r{i // 2}", "A"])
    return root


@pytest.fixture(scope="session")
def clips(tree) -> Clips:
    """The same, as training sees it."""
    source = Esc50Layout(tree)
    return Clips(
        labels=np.array([row.target for row in source.rows], np.int32),
        folds=tuple(row.fold for row in source.rows),
        sources=tuple(row.src_file for row in source.rows),
        filenames=tuple(row.filename for row in source.rows),
        classes=source.categories,
        sample_rate=RATE,
        samples=np.full(len(source.rows), RATE),
        length=RATE,
        fingerprint=source.fingerprint,
        bad={},
        fetch=lambda index: np.zeros(RATE, np.int16),
    )


@pytest.fixture(scope="session")
def runs_dir(clips, tree, tmp_path_factory) -> pathlib.Path:
    """Runs: good and poor on fold 1, one selected on its test, a cross-validation with its folds, one half-written."""
    root = tmp_path_factory.mktemp("all") / "runs"
    labels = {fold: labels_of(clips, fold) for fold in (1, 2)}
    leave(root / "good", clips, tree, [(1, 0, views_of(labels[1], GOOD, 0.9, {0: 1}))], name="resnet")
    leave(root / "deep/poor", clips, tree, [(1, 0, views_of(labels[1], POOR, 0.7))], name="resnet", seconds=30.0)
    leave(
        root / "lucky", clips, tree, [(1, 0, views_of(labels[1], {}, 0.8))], protocol="oracle", calibration={
            "temperature": 0.5, "fitted_on": "a fifth of the training folds"
        },
    )  # fmt: skip
    both = [(fold, 0, views_of(labels[fold], {3: 0}, 0.9)) for fold in (1, 2)]
    leave(root / "cv", clips, tree, both, failed={"fold3": "out of memory"})
    for fold, test in zip((1, 2), both, strict=True):
        leave(root / f"cv/fold{fold}", clips, tree, [test])
    (root / "half").mkdir()
    text = (root / "good/results.json").read_text()
    (root / "half/results.json").write_text(text[: len(text) // 2])
    return root


@pytest.fixture(scope="session")
def written(runs_dir, tmp_path_factory):
    """(findings, folder) of the report on them."""
    out = tmp_path_factory.mktemp("report")
    return write.write(runs_dir, out), out
