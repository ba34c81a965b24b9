"""Leaderboard, confusions and calibration, against counts and closed forms."""

import numpy as np
import pytest

from esc_jax.evaluation import confidence
from esc_jax.report import runs as report_runs
from esc_jax.report import tables as report_tables
from tests.report.made import GOOD, PER_FOLD, labels_of, leave, views_of


def test_leaderboard_has_every_run_once(written):
    findings, out = written
    assert [run.name for run in findings.runs] == ["lucky", "cv", "good", "deep/poor"]
    table = report_tables.leaderboard(findings.runs)
    rows = {row[0].text: dict(zip(table.columns, (cell.text for cell in row), strict=True)) for row in table.rows}
    assert rows["lucky †"]["protocol"] == "oracle †" and rows["lucky †"]["method"] == "method"
    right = [place not in GOOD for place in range(PER_FOLD)]
    expected = confidence.accuracy_interval(right, [place // 2 for place in range(PER_FOLD)])
    assert expected.low < 0.85 < expected.value == 21 / 24
    shown = f"87.50 ({100 * expected.low:.1f}–{100 * expected.high:.1f})"
    assert rows["good"]["accuracy, %"] == shown and rows["good"]["with TTA, %"].startswith("95.83 (")
    assert rows["good"]["with TTA, %"].endswith(" ×2") and rows["deep/poor"]["with TTA, %"] == "–"
    assert rows["cv"]["accuracy, %"].startswith("95.83 ± 0.00 (") and rows["cv"]["folds"] == "1, 2"
    assert [rows[name]["minutes"] for name in ("good", "cv", "deep/poor")] == ["1.5", "3.0", "0.5"]
    assert rows["good"]["parameters"] == "1.2 M" and rows["good"]["data"] == "esc50, 48 clips"
    text = (out / "report.md").read_text()
    assert f"| good | resnet | esc50, 48 clips | {shown} |" in text
    assert all(f"| {value:.2f} |" in text for _, value in report_tables.WRITE_UPS) and "not measured here" in text


def test_confusions_are_counted_by_hand(runs_dir):
    worst, second = report_tables.confusions(report_runs.read(runs_dir / "deep/poor"))
    assert (set(worst.classes), sum(worst.counts), worst.totals) == ({"dog", "cat"}, 6, (6, 6))
    assert (second.classes, second.counts) == (("rain", "sea_waves"), (1, 1))
    assert {one.clip for one in second.mistakes} == {"1-0-0.wav", "1-0-1.wav"}
    only = report_tables.confusions(report_runs.read(runs_dir / "good"))[0]
    assert only.sentence == "2 of 6 “rain” taken for “sea waves”, 1 of 6 the other way"
    mistake = next(one for one in only.mistakes if one.clip == "1-2-5.wav")
    assert (mistake.true, mistake.predicted, mistake.recording, mistake.fold) == ("sea_waves", "rain", "r2", 1)
    assert (mistake.confidence, mistake.share) == pytest.approx((0.9, 0.1 / 3), abs=1e-5)  # six digits in the file


def test_calibration_before_and_after_its_temperature(written):
    findings, out = written
    found = {one.run.name: one for one in findings.calibrations}
    # Every clip is right with 0.8; T = 1/2 squares the odds: 0.64 / (0.64 + 3 · (0.2 / 3)²) = 0.97959.
    lucky, after = found["lucky"], 0.64 / (0.64 + 0.04 / 3)
    assert (lucky.before.ece, lucky.after.ece) == pytest.approx((0.2, 1 - after), abs=1e-5)
    assert (lucky.nll_before, lucky.nll_after) == pytest.approx((-np.log(0.8), -np.log(after)), abs=1e-5)
    assert found["good"].before.ece == pytest.approx(0.9 - 21 / 24, abs=1e-6) and found["good"].after is None
    row = next(row for row in report_tables.calibration_table(findings.calibrations).rows if row[0].text == "lucky †")
    assert [cell.text for cell in row[3:]] == ["0.50", "2.0", "0.021", "a fifth of the training folds"]
    assert "a fifth of the training folds" in (out / "report.md").read_text()


def test_temperatures_of_folds(clips, tree, tmp_path):
    both = [(fold, 0, views_of(labels_of(clips, fold), {}, 0.8)) for fold in (1, 2)]
    leave(tmp_path / "cv", clips, tree, both, calibration={"temperature": {"1": 0.5, "2": 1.0}})
    found = report_tables.calibration(report_runs.read(tmp_path / "cv"))
    after = 0.64 / (0.64 + 0.04 / 3)
    assert found.nll_after == pytest.approx(-(np.log(after) + np.log(0.8)) / 2, abs=1e-5)
    assert report_tables.calibration_table([found]).rows[0][3].text == "0.50–1.00"
