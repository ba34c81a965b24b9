"""Names of classes and files with mathematics, markup and formulas, in everything that a run and a report write."""

import csv
import dataclasses

import numpy as np
import pytest

from esc_jax import config as configs
from esc_jax.evaluation import results
from esc_jax.experiments import artifacts
from esc_jax.report import plots, timeline_plot, write
from esc_jax.report.predictions import read_predictions
from esc_jax.tasks import registry as tasks
from tests.inference.factories import make_timeline
from tests.inference.sounds import sound
from tests.report.factories import GOOD, fold_labels, fold_scores, write_run

NAMES = ("=1+$x_{$", "a|b$", "<script>alert(1)</script>", "-$\\frac$ *c*")


@pytest.fixture
def hostile(clips):
    """The data set with such names of its classes, files and recordings."""
    return dataclasses.replace(
        clips,
        classes=NAMES,
        filenames=tuple(f"{'@=-+'[i % 4]}{name}" for i, name in enumerate(clips.filenames)),
        sources=tuple(f"={source}" for source in clips.sources),
    )


def test_predictions_are_harmless_in_a_spreadsheet_and_read_back(hostile, data_dir, tmp_path):
    folder = write_run(tmp_path / "a", hostile, data_dir, [(1, 0, fold_scores(fold_labels(hostile, 1), GOOD, 0.9))])
    with open(folder / "predictions.csv", newline="", encoding="utf-8") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]
    predictions = read_predictions(folder / "predictions.csv", tasks.get("single_label"), NAMES)
    indices = [index for index, fold in enumerate(hostile.folds) if fold == 1]
    assert predictions.clips == tuple(hostile.filenames[index] for index in indices)
    assert predictions.recordings == tuple(hostile.sources[index] for index in indices)
    np.testing.assert_array_equal(predictions.labels, hostile.labels[indices])
    (folder / "results.json").unlink()
    results.write_results(folder / "results.json", {"folds": [{"fold": 1, "seed": 0, "epochs": 3, "seconds": 1.0}]})
    parts = results.read_predictions(folder / "predictions.csv", hostile)
    assert parts.indices.tolist() == indices


def test_artifacts_and_reports(hostile, data_dir, tmp_path):
    config = configs.defaults(model="resnet")
    config.experiment, config.task, config.eval.tta = NAMES[2], "single_label", 2
    part = results.fold_predictions(
        1,
        0,
        [i for i, f in enumerate(hostile.folds) if f == 1],
        fold_scores(fold_labels(hostile, 1), GOOD, 0.9),
        3,
        1.0,
    )
    entries = results.results(config, tasks.get("single_label"), hostile, [part], "split", parameters=1)
    text = artifacts.markdown(entries)
    assert "<script" not in text.replace(r"\<script", "") and r"a\|b$" in text
    table = [line for line in text.splitlines() if line.startswith("| ") and "alert" in line]
    assert [line.replace(r"\|", "").count("|") for line in table] == [4]
    write_run(tmp_path / "runs/$a_{$", hostile, data_dir, [(1, 0, fold_scores(fold_labels(hostile, 1), GOOD, 0.9))])
    write.write_report(tmp_path / "runs", tmp_path / "report")
    report = (tmp_path / "report/report.md").read_text()
    assert "<script" not in report.replace(r"\<script", "")
    assert "<script>alert" not in (tmp_path / "report/report.html").read_text()
    assert (tmp_path / "report/scores.png").stat().st_size > 1000


def test_dollar_signs_are_no_mathematics_in_pictures(tmp_path):
    table = np.array([[3, 1, 0, 0], [0, 4, 0, 0], [2, 0, 0, 1], [0, 0, 0, 1]])
    title = "$\\frac{$ of $x^$"
    figures = [
        plots.confusion_matrix(table, NAMES, title, tmp_path / "a.png"),
        plots.cooccurrence(table, np.full(4, 4), NAMES, title, tmp_path / "b.png"),
        plots.curves([{"epoch": 1, "loss": 1.0, "lr": 0.1}], tasks.get("single_label"), title, tmp_path / "c.png"),
        plots.scores(
            [plots.ScorePanel(title, "accuracy", [(title, 0.5, 0.4, 0.6)], [(title, 0.5)])], tmp_path / "d.png"
        ),
        plots.tokens(np.zeros((1, 4, 4)), np.zeros((1, 2, 2), int), [title], 2, tmp_path / "e.png"),
    ]
    overview = timeline_plot.Overview(16_000)
    overview.add(sound(5.0, 16_000)[:, 0])
    timeline = dataclasses.replace(make_timeline(), classes=NAMES[:3])
    figures.append(timeline_plot.recording(timeline, overview, title, tmp_path / "f.png"))
    assert [path.stat().st_size > 1000 for path in sorted(tmp_path.glob("*.png"))] == [True] * len(figures)
    labels = [label.get_text() for label in figures[0].axes[0].get_yticklabels()]
    assert labels == [name.replace("_", " ").replace("$", r"\$") for name in NAMES]  # matplotlib draws \$ as $
