"""Finding and reading runs, and notes on incomplete ones."""

import csv
import io
import json
import re
import shutil

import pytest

from esc_jax.evaluation import results
from esc_jax.report import compare, mistakes, tables
from esc_jax.report import runs as finished
from esc_jax.report.errors import RunError
from tests.report.factories import GOOD, POOR, fold_labels, fold_scores, write_run


def test_skipped_runs_are_listed(written_report):
    findings, out = written_report
    skipped, failed = findings.notes
    assert re.fullmatch(r"skipped: .*damaged/results\.json is incomplete or damaged: invalid JSON in line \d+", skipped)
    assert failed == "cv is incomplete: fold3 failed"
    assert all("invalid JSON in line" in (out / name).read_text() for name in ("report.md", "report.html"))


def test_unfinished_runs_and_old_predictions(runs_dir, tmp_path):
    for name in ("cv/fold1", "good"):
        shutil.copytree(runs_dir / name, tmp_path / name)
    shutil.copy(runs_dir / "cv/config.json", tmp_path / "cv")
    (tmp_path / "young").mkdir()
    (tmp_path / "young/config.json").write_text("{}")
    (tmp_path / "young/metrics.jsonl").write_text("")
    path = tmp_path / "good/predictions.csv"
    rows = [row[:2] + row[3:] for row in csv.reader(io.StringIO(path.read_text()))]
    path.write_text("".join(",".join(row) + "\n" for row in rows))
    runs, notes = finished.find(tmp_path)
    assert [run.name for run in runs] == ["good"] and runs[0].predictions is None
    assert notes[0] == "skipped: cv is not finished (1 fold done)"
    assert notes[1] == "skipped: young has no results yet"
    assert "has no column source: write it again with --mode=evaluate" in notes[2]
    stored = json.loads((tmp_path / "good/results.json").read_text())["accuracy"]["ci95"]
    assert [runs[0].score.low, runs[0].score.high] == pytest.approx(stored) and stored[0] < stored[1]


def test_a_damaged_config_does_not_affect_the_results(runs_dir, tmp_path):
    shutil.copytree(runs_dir / "good", tmp_path / "good")
    (tmp_path / "good/config.json").write_text("{")
    (run,), (note,) = finished.find(tmp_path)
    assert run.predictions and run.config == {} and "good/config.json is incomplete or damaged" in note


def test_several_seeds_have_the_same_recordings(clips, data_dir, tmp_path):
    labels = fold_labels(clips, 1)
    tests = [(1, seed, fold_scores(labels, wrong, 0.9)) for seed, wrong in enumerate((GOOD, POOR))]
    write_run(tmp_path / "two", clips, data_dir, tests)
    write_run(tmp_path / "one", clips, data_dir, tests[:1])
    (two, one) = (finished.read(tmp_path / name) for name in ("two", "one"))
    assert (two.seeds, two.folds, two.tested) == (2, (1,), 48)
    assert two.score.value == pytest.approx((21 + 16) / 48) and two.score.clusters == 12
    assert tables.leaderboard([two]).rows[0][6].text == "1 × 2 seeds"
    comparison = compare.compare(one, two)
    assert comparison.difference.value == pytest.approx((21 - 16) / 48) and comparison.p is None
    assert comparison.basis.startswith("24 clips of 12 recordings; no McNemar test")
    # Both seeds are wrong on clip 0, which is listed once.
    names = [mistake.clip for group in mistakes.mistake_groups(two, two.predictions) for mistake in group.mistakes]
    assert len(names) == len(set(names)) == len(GOOD | POOR)


def test_changed_results_are_refused(runs_dir, tmp_path):
    shutil.copytree(runs_dir / "good", tmp_path / "good")
    path = tmp_path / "good" / "results.json"
    outcome = json.loads(path.read_text())
    results.write_results(path, outcome)
    assert finished.read(tmp_path / "good").score.value == outcome["accuracy"]["mean"]
    path.write_text(path.read_text().replace('"parameters": ', '"parameters": 1'))
    with pytest.raises(RunError, match="results.json is damaged: its checksum does not match"):
        finished.read(tmp_path / "good")
