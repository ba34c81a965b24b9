"""Leaderboard, mistakes and calibration, against counts and closed forms."""

import dataclasses

import numpy as np
import pytest

from esc_jax.evaluation import confidence
from esc_jax.report import calibration, mistakes, tables, write_ups
from esc_jax.report import runs as finished
from tests.report.factories import CLIPS_PER_FOLD, GOOD, fold_labels, fold_scores, write_run


def test_leaderboard_has_every_run_once(written_report):
    findings, out = written_report
    assert [run.name for run in findings.runs] == ["cv", "oracle", "good", "deep/poor"]
    table = tables.leaderboard(findings.runs)
    rows = {row[0].text: dict(zip(table.columns, (cell.text for cell in row), strict=True)) for row in table.rows}
    assert rows["oracle †"]["protocol"] == "oracle †" and rows["oracle †"]["method"] == "method"
    correct = [i not in GOOD for i in range(CLIPS_PER_FOLD)]
    expected = confidence.mean_interval(correct, [i // 2 for i in range(CLIPS_PER_FOLD)])
    assert expected.low < 0.85 < expected.value == 21 / 24
    shown = f"87.50 ({100 * expected.low:.1f}–{100 * expected.high:.1f})"
    assert rows["good"]["accuracy, %"] == shown and rows["good"]["with TTA, %"].startswith("95.83 (")
    assert rows["good"]["with TTA, %"].endswith(" ×2") and rows["deep/poor"]["with TTA, %"] == "–"
    assert rows["cv"]["accuracy, %"].startswith("95.83 ± 0.00 (") and rows["cv"]["folds"] == "1, 2"
    assert [rows[name]["minutes"] for name in ("good", "cv", "deep/poor")] == ["1.5", "3.0", "0.5"]
    assert rows["good"]["parameters"] == "1.2 M" and rows["good"]["data"] == "esc50, 48 clips"
    text = (out / "report.md").read_text()
    assert f"| good | resnet | esc50, 48 clips | {shown} |" in text
    assert all(f"| {value:.2f} |" in text for _, value in write_ups.RESULTS)
    assert "not measured here" in text and "[Fine Tuning Audio Classifiers](https://github.com/" in text


def groups_of(run):
    return mistakes.mistake_groups(run, run.predictions)


def test_mistakes_are_counted_by_hand(runs_dir):
    worst, second = groups_of(finished.read(runs_dir / "deep/poor"))
    assert worst.description == "3 of 6 “dog” classified as “cat”, 3 of 6 the other way round"
    assert second.description == "1 of 6 “rain” classified as “sea waves”, 1 of 6 the other way round"
    assert {one.clip for one in second.mistakes} == {"1-0-0.wav", "1-0-1.wav"}
    only = groups_of(finished.read(runs_dir / "good"))[0]
    assert only.description == "2 of 6 “rain” classified as “sea waves”, 1 of 6 the other way round"
    mistake = next(one for one in only.mistakes if one.clip == "1-2-5.wav")
    assert (mistake.true, mistake.predicted, mistake.recording, mistake.fold) == ("sea_waves", "rain", "r2", 1)
    assert (mistake.confidence, mistake.likelihood) == pytest.approx((0.9, 0.1 / 3), abs=1e-5)  # six digits in the file


def test_calibration_before_and_after_its_temperature(written_report):
    findings, out = written_report
    calibrations = {one.run.name: one for one in findings.calibrations}
    # All predictions are correct, with probability 0.8. T = 1/2 squares odds: 0.64 / (0.64 + 3 (0.2 / 3)²) = 0.97959.
    oracle, after = calibrations["oracle"], 0.64 / (0.64 + 0.04 / 3)
    assert (oracle.before.ece, oracle.after.ece) == pytest.approx((0.2, 1 - after), abs=1e-5)
    assert (oracle.nll_before, oracle.nll_after) == pytest.approx((-np.log(0.8), -np.log(after)), abs=1e-5)
    good = calibrations["good"]
    assert good.before.ece == pytest.approx(0.9 - 21 / 24, abs=1e-6) and good.after is None
    row = next(row for row in tables.calibration_table(findings.calibrations).rows if row[0].text == "oracle †")
    assert [cell.text for cell in row[3:]] == ["0.50", "2.0", "0.021", "a fifth of the training folds"]
    assert "a fifth of the training folds" in (out / "report.md").read_text()


def test_temperatures_of_folds(clips, data_dir, tmp_path):
    both = [(fold, 0, fold_scores(fold_labels(clips, fold), {}, 0.8)) for fold in (1, 2)]
    write_run(tmp_path / "cv", clips, data_dir, both, calibration={"temperature": {"1": 0.5, "2": 1.0}})
    run = finished.read(tmp_path / "cv")
    result = calibration.run_calibration(run, run.predictions)
    after = 0.64 / (0.64 + 0.04 / 3)
    assert result.nll_after == pytest.approx(-(np.log(after) + np.log(0.8)) / 2, abs=1e-5)
    assert tables.calibration_table([result]).rows[0][3].text == "0.50–1.00"


def test_background_clips_are_in_the_leaderboard(runs_dir):
    run = dataclasses.replace(finished.read(runs_dir / "good"), background=1200)
    (row,) = tables.leaderboard([run]).rows
    assert row[2].text == "esc50, 48 clips + 1,200 background"
