"""Finding and reading runs: what is whole, what is not and says so."""

import csv
import io
import json
import re
import shutil

import pytest

from esc_jax.report import compare as report_compare
from esc_jax.report import runs as report_runs
from esc_jax.report import tables as report_tables
from tests.report.made import GOOD, POOR, labels_of, leave, views_of


def test_what_was_skipped_is_named(written):
    findings, out = written
    skipped, failed = findings.notes
    assert re.fullmatch(r"skipped: .*half/results\.json is not whole: its JSON breaks off .* line \d+", skipped)
    assert failed == "cv is not complete: fold3 failed"
    assert "is not whole" in (out / "report.md").read_text() and "is not whole" in (out / "report.html").read_text()


def test_unfinished_runs_and_old_predictions_are_told(runs_dir, clips, tree, tmp_path):
    for name in ("cv/fold1", "good"):
        shutil.copytree(runs_dir / name, tmp_path / name)
    shutil.copy(runs_dir / "cv/config.json", tmp_path / "cv")
    (tmp_path / "young").mkdir()
    (tmp_path / "young/config.json").write_text("{}")
    (tmp_path / "young/metrics.jsonl").write_text("")
    path = tmp_path / "good/predictions.csv"
    rows = [row[:2] + row[3:] for row in csv.reader(io.StringIO(path.read_text()))]
    path.write_text("".join(",".join(row) + "\n" for row in rows))
    runs, notes = report_runs.find(tmp_path)
    assert [run.name for run in runs] == ["good"] and runs[0].predictions is None
    assert notes[0] == "skipped: cv is not finished, 1 of its folds is"
    assert notes[1] == "skipped: young has no results yet"
    assert "has no column source; --mode=evaluate writes it anew" in notes[2]
    # The interval as it stands in results.json, marked as such.
    stored = json.loads((tmp_path / "good/results.json").read_text())["accuracy"]["ci95"]
    assert [runs[0].accuracy.low, runs[0].accuracy.high] == pytest.approx(stored) and stored[0] < stored[1]
    assert report_tables.leaderboard(runs).rows[0][3].text.endswith("‡")


def test_a_broken_config_takes_nothing_from_good_results(runs_dir, tmp_path):
    shutil.copytree(runs_dir / "good", tmp_path / "good")
    (tmp_path / "good/config.json").write_text("{")
    (run,), (note,) = report_runs.find(tmp_path)
    assert run.predictions and run.config == {} and "good/config.json is not whole" in note


def test_seeds_are_rows_of_the_same_recordings(clips, tree, tmp_path):
    labels = labels_of(clips, 1)
    tests = [(1, seed, views_of(labels, wrong, 0.9)) for seed, wrong in enumerate((GOOD, POOR))]
    leave(tmp_path / "two", clips, tree, tests)
    leave(tmp_path / "one", clips, tree, tests[:1])
    (two, one) = (report_runs.read(tmp_path / name) for name in ("two", "one"))
    assert (two.seeds, two.folds, two.tested) == (2, (1,), 48)
    assert two.accuracy.value == pytest.approx((21 + 16) / 48) and two.accuracy.clusters == 12
    assert report_tables.leaderboard([two]).rows[0][6].text == "1 × 2 seeds"
    found = report_compare.compare(one, two)
    assert found.difference.value == pytest.approx((21 - 16) / 48) and found.p is None
    assert found.basis.startswith("24 clips of 12 recordings; no McNemar test")
    # Place 0 is wrong with both seeds, and the clip is listed once.
    listed = [mistake.clip for pair in report_tables.confusions(two) for mistake in pair.mistakes]
    assert len(listed) == len(set(listed)) == len(GOOD | POOR)
