"""Reports on multi-label runs, on runs that were not tested, and on data whose recordings are not known."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from esc_jax.data.rows import Grouping
from esc_jax.evaluation import confidence
from esc_jax.report import compare, tables, write
from esc_jax.report import runs as finished
from esc_jax.tasks import registry as tasks
from tests.report.factories import CLIPS_PER_FOLD, write_run

TASK = tasks.get("multi_label")
THRESHOLDS = np.array([0.45, 0.5, 0.5, 0.55])


@pytest.fixture(scope="module")
def scenes(clips):
    """The same clips with any number of classes."""
    labels = np.random.default_rng(0).random((len(clips), 4)) < 0.35
    labels[0] = False
    return dataclasses.replace(clips, labels=labels, task="multi_label")


def rows_of(scenes, fold):
    return np.flatnonzero(np.array(scenes.folds) == fold)


def views_of(scenes, fold, noise, seed=0):
    """(1, n, classes) probabilities: right without noise."""
    labels = scenes.labels[rows_of(scenes, fold)]
    shares = (1 - noise) * labels + noise * np.random.default_rng(seed).random(labels.shape)
    return np.clip(shares, 0.001, 0.999)[None]


@pytest.fixture(scope="module")
def report(scenes, data_dir, tmp_path_factory):
    """A cross-validation and a poorer run on fold 1."""
    root = tmp_path_factory.mktemp("scenes")
    both = [(fold, 0, views_of(scenes, fold, 0.6)) for fold in (1, 2)]
    options = {"task": "multi_label", "thresholds": THRESHOLDS}
    temperatures = {"temperature": {"1": 0.5, "2": 0.6}, "fitted_on": "the other fold"}
    write_run(root / "runs/cv", scenes, data_dir, both, calibration=temperatures, **options)
    write_run(root / "runs/poor", scenes, data_dir, [(1, 0, views_of(scenes, 1, 0.9, seed=1))], **options)
    return write.write_report(root / "runs", root / "report"), root / "report"


def test_the_leaderboard_has_all_metrics(report, scenes):
    findings, out = report
    cv, poor = findings.runs
    expected = [TASK.score(scenes.labels[rows_of(scenes, fold)], views_of(scenes, fold, 0.6)[0]) for fold in (1, 2)]
    assert cv.score.value == pytest.approx(np.mean(expected), abs=1e-6)
    table = tables.leaderboard(findings.runs)
    assert table.columns[3:9] == ("mAP, %", "with TTA, %", "micro mAP, %", "lwlrap, %", "macro AUC, %", "macro F1, %")
    cells = dict(zip(table.columns, table.rows[0], strict=True))
    f1 = [fold["f1_macro"] for fold in json.loads((cv.folder / "results.json").read_text())["folds"]]
    assert cells["macro F1, %"].number == pytest.approx(np.mean(f1))
    labels = scenes.labels[rows_of(scenes, 1)]
    assert f1[0] == pytest.approx(TASK.fold_metrics(labels, views_of(scenes, 1, 0.6)[0], None, THRESHOLDS)["f1_macro"])
    for name in ("report.md", "report.html"):
        text = (out / name).read_text()
        assert "macro AUC, %" in text and "accuracy" not in text and "Metrics without brackets" in text
    assert write.summary(findings).startswith("esc50, 48 clips: 2 runs, best on 2 folds: cv, mAP ")


def test_runs_are_compared_by_a_paired_bootstrap_of_their_metric(report, scenes):
    findings, _ = report
    (comparison,) = findings.comparisons
    rows = rows_of(scenes, 1)
    pair = [[(scenes.labels[rows], views[0])] for views in (views_of(scenes, 1, 0.6), views_of(scenes, 1, 0.9, seed=1))]
    expected = confidence.score_difference_interval(TASK, *pair, [[scenes.sources[row] for row in rows]])
    difference = comparison.difference
    assert comparison.better == "cv" and comparison.p is None and comparison.clips == CLIPS_PER_FOLD
    assert (difference.value, difference.low, difference.high) == pytest.approx(
        (expected.value, expected.low, expected.high), abs=1e-5
    )
    assert comparison.basis == "24 clips of 12 recordings"
    assert "points of mAP" in comparison.sentence and "McNemar" not in comparison.sentence
    cv, poor = findings.runs
    swapped = compare.compare(poor, cv)
    bounds = (swapped.difference.value, swapped.difference.low, swapped.difference.high)
    assert bounds == pytest.approx((difference.value, difference.low, difference.high), abs=1e-12)  # float64 rounding
    assert dataclasses.replace(swapped, difference=difference) == comparison


def test_predictions_of_another_run_are_noticed(report, tmp_path):
    findings, _ = report
    for number, run in enumerate(findings.runs):
        shutil.copytree(run.folder, tmp_path / str(number))
    shutil.copy(tmp_path / "1/predictions.csv", tmp_path / "0/predictions.csv")
    run = finished.read(tmp_path / "0")
    assert run.predictions is None and "does not belong to results.json: for fold 1 it has mAP" in run.notes[0]


def test_seeds_are_averaged(scenes, data_dir, tmp_path):
    noise = {("a", 0): 0.5, ("a", 1): 0.8, ("b", 0): 0.6, ("b", 1): 0.7, ("b", 2): 0.9}
    for name in "ab":
        tests = [(1, seed, views_of(scenes, 1, noise[of], seed)) for of in noise for seed in [of[1]] if of[0] == name]
        write_run(tmp_path / name, scenes, data_dir, tests, task="multi_label", thresholds=THRESHOLDS)
    a, b = (finished.read(tmp_path / name) for name in "ab")
    comparison = compare.compare(a, b)
    assert comparison.difference.value == pytest.approx(abs(a.score.value - b.score.value), abs=1e-5)
    assert comparison.better == max((a, b), key=lambda run: run.score.value).name
    assert comparison.difference.low <= comparison.difference.value <= comparison.difference.high


def test_mistakes_are_misses_and_false_alarms(report, scenes):
    findings, out = report
    ((run, groups),) = findings.mistakes
    labels = scenes.labels[np.concatenate([rows_of(scenes, fold) for fold in (1, 2)])]
    decided = np.concatenate([views_of(scenes, fold, 0.6)[0] for fold in (1, 2)]) >= THRESHOLDS
    assert sum(len(group.mistakes) for group in groups) == (labels != decided).sum()
    text = (out / "report.html").read_text()
    assert "clips without it" in text
    clips = np.array(scenes.filenames)[np.concatenate([rows_of(scenes, fold) for fold in (1, 2)])]
    empty = set(clips[~labels.any(axis=1) & decided.any(axis=1)])
    assert empty == {one.clip for group in groups for one in group.mistakes if one.true == "no class"} != set()
    mistake = next(one for group in groups for one in group.mistakes if ", " in one.true)
    row = scenes.filenames.index(mistake.clip)
    assert mistake.true == ", ".join(np.array(scenes.classes)[scenes.labels[row]])


def test_calibration_counts_classes_of_clips(report, scenes):
    findings, _ = report
    one = next(one for one in findings.calibrations if one.run.name == "cv")
    assert one.before.count.sum() == 2 * CLIPS_PER_FOLD * 4
    parts = [(scenes.labels[rows_of(scenes, fold)], views_of(scenes, fold, 0.6)[0]) for fold in (1, 2)]
    expected = np.mean([TASK.nll(TASK.logits(scores), labels) for labels, scores in parts])
    assert one.nll_before == pytest.approx(expected, abs=1e-4)
    tempered = [TASK.nll(TASK.logits(scores), labels, t) for (labels, scores), t in zip(parts, (0.5, 0.6), strict=True)]
    assert one.nll_after == pytest.approx(np.mean(tempered), abs=1e-4)


def test_a_run_that_was_not_tested_is_listed(clips, data_dir, runs_dir, tmp_path):
    quote = {"workdir": "cv", "accuracy": {"mean": 0.9, "std": None, "ci95": [0.85, 0.94]}}
    write_run(tmp_path / "runs/deployed", clips, data_dir, [], protocol="all", seconds=0, crossval=quote)
    write_run(tmp_path / "runs/other", clips, data_dir, [], protocol="all")
    findings = write.write_report(tmp_path / "runs", tmp_path / "alone")
    assert not findings.tested and not (tmp_path / "alone/scores.png").exists()
    assert findings.notes == [
        "deployed: trained on every clip, not tested; quotes accuracy 90.00 (85.0–94.0) % of the cross-validation cv",
        "other: trained on every clip, not tested; quotes no cross-validation",
    ]
    assert "scores.png" not in (tmp_path / "alone/report.md").read_text()
    assert "<b>not tested</b>" in (tmp_path / "alone/report.html").read_text()
    (tmp_path / "runs/good").symlink_to(runs_dir / "good")
    both = [finished.read(tmp_path / "runs" / name) for name in ("deployed", "good")]
    assert finished.best(both).name == "good"
    row = dict(zip((table := tables.leaderboard(both)).columns, table.rows[0], strict=True))
    assert row["accuracy, %"].empty and row["folds"].empty and row["protocol"].text == "all"
    with pytest.raises(compare.ReportError, match="deployed: trained on every clip, not tested"):
        compare.compare(*both)


def test_data_without_recordings_are_noted_once(clips, data_dir, tmp_path):
    unknown = dataclasses.replace(clips, grouping=Grouping("none", "the csv has no column of recordings"))
    views = np.full((1, CLIPS_PER_FOLD, 4), 0.25)
    for name in "ab":
        write_run(tmp_path / "runs" / name, unknown, data_dir, [(1, 0, views)])
    findings = write.write_report(tmp_path / "runs", tmp_path / "report")
    sentence = (
        "esc50: clips of one recording may be on both sides of a split, since the csv has no column of recordings"
    )
    assert findings.notes == [sentence] and sentence in (tmp_path / "report/report.html").read_text()
