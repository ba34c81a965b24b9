"""A data set, runs on it, and a report on these runs."""

import csv
import pathlib

import numpy as np
import pytest
import soundfile

from esc_jax.data.clips import Clips
from esc_jax.data.layouts.esc50 import COLUMNS
from esc_jax.data.layouts.registry import open_source
from esc_jax.report import write
from esc_jax.report.findings import Findings
from tests.report.factories import CLASSES, CLIPS_PER_FOLD, GOOD, POOR, RATE, fold_labels, fold_scores, write_run


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> pathlib.Path:
    """A data set in ESC-50's layout: 48 clips of one second. Clip i is a sine of 300 + 20 i Hz."""
    root = tmp_path_factory.mktemp("data") / "data"
    (root / "meta").mkdir(parents=True)
    (root / "audio").mkdir()
    with open(root / "meta/esc50.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for i in range(2 * CLIPS_PER_FOLD):
            fold = 1 + i // CLIPS_PER_FOLD
            name = f"{fold}-{i // 2}-{i}.wav"
            wave = 0.5 * np.sin(2 * np.pi * (300 + 20 * i) * np.arange(RATE) / RATE)
            soundfile.write(root / "audio" / name, wave, RATE)
            writer.writerow([name, fold, i % 4, CLASSES[i % 4], "False", f"r{i // 2}", "A"])
    return root


@pytest.fixture(scope="session")
def clips(data_dir) -> Clips:
    """The data set as training reads it."""
    source = open_source(data_dir)
    return Clips(
        labels=np.array([row.targets[0] for row in source.rows], np.int32),
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
def runs_dir(clips, data_dir, tmp_path_factory) -> pathlib.Path:
    """Runs: good and poor on fold 1, one selected on its test fold, a cross-validation, and a damaged one."""
    root = tmp_path_factory.mktemp("all") / "runs"
    labels = {fold: fold_labels(clips, fold) for fold in (1, 2)}
    tta = [(1, 0, fold_scores(labels[1], GOOD, 0.9, {0: 1}))]
    write_run(root / "good", clips, data_dir, tta, name="resnet")
    poor = [(1, 0, fold_scores(labels[1], POOR, 0.7))]
    write_run(root / "deep/poor", clips, data_dir, poor, name="resnet", seconds=30.0)
    calibration = {"temperature": 0.5, "fitted_on": "a fifth of the training folds"}
    perfect = [(1, 0, fold_scores(labels[1], {}, 0.8))]
    write_run(root / "oracle", clips, data_dir, perfect, protocol="oracle", calibration=calibration)
    both = [(fold, 0, fold_scores(labels[fold], {3: 0}, 0.9)) for fold in (1, 2)]
    write_run(root / "cv", clips, data_dir, both, failed={"fold3": "out of memory"})
    for fold, test in zip((1, 2), both, strict=True):
        write_run(root / f"cv/fold{fold}", clips, data_dir, [test])
    (root / "damaged").mkdir()
    text = (root / "good/results.json").read_text()
    (root / "damaged/results.json").write_text(text[: len(text) // 2])
    return root


@pytest.fixture(scope="session")
def written_report(runs_dir, tmp_path_factory) -> tuple[Findings, pathlib.Path]:
    """Content and folder of the report on the runs."""
    out = tmp_path_factory.mktemp("report")
    return write.write_report(runs_dir, out), out
