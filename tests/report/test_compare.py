"""Paired comparisons: on the same clips, in words, and refused where there are none."""

import csv
import io
import json
import re
import shutil

import pytest

from esc_jax.cli import report
from esc_jax.evaluation import confidence
from esc_jax.report import compare as report_compare
from esc_jax.report import runs as report_runs
from tests.report.made import GOOD, PER_FOLD, POOR, labels_of, leave, views_of


def test_comparison_is_paired_and_in_words(runs_dir):
    good, poor = (report_runs.read(runs_dir / name) for name in ("good", "deep/poor"))
    found = report_compare.compare(poor, good)
    only_good, only_poor = len(POOR.keys() - GOOD.keys()), len(GOOD.keys() - POOR.keys())
    assert (found.ahead, found.only_ahead, found.only_behind) == ("good", only_good, only_poor) == ("good", 7, 2)
    assert found.p == confidence.mcnemar(7, 2)
    difference = [(p in POOR) - (p in GOOD) for p in range(PER_FOLD)]
    expected = confidence.difference_interval(difference, [0] * PER_FOLD, [p // 2 for p in range(PER_FOLD)])
    assert found.difference.value == expected.value == 5 / 24
    # The recordings come in another order here: the same draws up to Monte Carlo error.
    assert (found.difference.low, found.difference.high) == pytest.approx((expected.low, expected.high), abs=0.02)
    assert re.fullmatch(
        r"good (beats poor by 20\.8 points|is 20\.8 points ahead of poor), 95 % interval −?\d+\.\d to \d+\.\d"
        r"(: too close to call)?, McNemar p=0\.18",
        found.sentence,
    )
    same = report_compare.compare(good, good)
    # 1 − 0.025^(1/12): of twelve recordings that do not differ, no more can be said of all.
    assert same.sentence == "good and good are right equally often, 95 % interval −26.5 to 26.5, McNemar p=1.00"


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.002, 0.024, "a beats b by 1.3 points, 95 % interval 0.2 to 2.4, McNemar p=0.021"),
        (-0.0001, 0.024, "a is 1.3 points ahead of b, 95 % interval 0.0 to 2.4: too close to call, McNemar p=0.021"),
        (-0.004, 0.024, "a is 1.3 points ahead of b, 95 % interval −0.4 to 2.4: too close to call, McNemar p=0.021"),
    ],
)
def test_beats_is_said_where_the_interval_is_above_zero(low, high, words):
    interval = confidence.ConfidenceInterval(0.013, low, high, 300)
    assert report_compare.Comparison("a", "b", interval, 400, 8, 3, 0.0214).sentence == words


def test_a_run_is_compared_on_the_clips_that_both_have(written):
    findings, _ = written
    told = {one.behind: one for one in findings.comparisons}
    assert set(told) == {"cv", "good", "deep/poor"} and all(one.ahead == "lucky †" for one in told.values())
    assert told["cv"].clips == PER_FOLD and told["cv"].difference.value == 1 / 24  # of 48: those of fold 1


def results_of(run):
    return json.loads((run / "results.json").read_text())


def write_results(run, found):
    (run / "results.json").write_text(json.dumps(found))


def half(run):
    path = run / "results.json"
    path.write_text(path.read_text()[:200])


def an_array(run):
    write_results(run, [1, 2])


def without_folds(run):
    write_results(run, {k: v for k, v in results_of(run).items() if k != "folds"})


def no_fold_in_it(run):
    write_results(run, results_of(run) | {"folds": []})


def accuracy_not_a_number(run):
    found = results_of(run)
    write_results(run, found | {"accuracy": found["accuracy"] | {"mean": float("nan")}})


def accuracy_a_number(run):
    write_results(run, results_of(run) | {"accuracy": 0.9})


def line_cut(run):
    path = run / "predictions.csv"
    path.write_text(path.read_text()[:-40])


def lines_missing(run):
    path = run / "predictions.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-2]))


def no_predictions(run):
    (run / "predictions.csv").unlink()


def a_word_for_a_probability(run):
    path = run / "predictions.csv"
    path.write_text(path.read_text().replace("0.0333333", "a lot", 1))


def other_data(run):
    found = results_of(run)
    write_results(run, found | {"data": found["data"] | {"fingerprint": "another"}})


def classes_in_another_order(run):
    found = results_of(run)
    turned = [found["data"]["classes"][i] for i in (1, 0, 2, 3)]
    write_results(run, found | {"data": found["data"] | {"classes": turned}})
    rows = list(csv.reader(io.StringIO((run / "predictions.csv").read_text())))
    rows[0][7:11] = turned
    (run / "predictions.csv").write_text("".join(",".join(row) + "\n" for row in rows))


def nothing_in_it(run):
    shutil.rmtree(run)
    run.mkdir()


@pytest.mark.parametrize(
    ("damage", "status", "words"),
    [
        (half, 1, r"b/results\.json is not whole: its JSON breaks off or goes wrong in line \d+"),
        (an_array, 1, r"b/results\.json is not the object that a run writes"),
        (without_folds, 1, r"b/results\.json is not whole: it has no 'folds'"),
        (no_fold_in_it, 1, r"b/results\.json names no fold that was tested"),
        (accuracy_not_a_number, 1, r"b/results\.json holds an accuracy that is not a number"),
        (accuracy_a_number, 1, r"b/results\.json is not the results of a run: a value is of another type"),
        (line_cut, 1, r"b/predictions\.csv is not whole: line 25 is cut short"),
        (lines_missing, 1, r"predictions\.csv has \d+ of 22 clips right and results\.json 21 of 24"),
        (no_predictions, 1, r"b/predictions\.csv cannot be read: No such file"),
        (a_word_for_a_probability, 1, r"b/predictions\.csv holds a fold or a probability that is not a number"),
        (other_data, 2, r"a and b cannot be compared: they are of different data"),
        (classes_in_another_order, 2, r"cannot be compared: .* different order \(class 0 is rain; sea_waves\)"),
        (nothing_in_it, 2, r"b is not a finished run: it holds no results\.json"),
        (shutil.rmtree, 2, r"b does not exist"),
    ],
)
def test_a_damaged_run_is_not_compared(damage, status, words, clips, tree, tmp_path, capsys):
    right = views_of(labels_of(clips, 1), GOOD, 0.9)
    pair = [leave(tmp_path / name, clips, tree, [(1, 0, right)]) for name in ("a", "b")]
    damage(pair[1])
    assert report.main(["--compare", *map(str, pair)]) == status
    one_sentence(capsys.readouterr(), words)


def test_runs_of_different_test_clips_are_not_compared(clips, tree, tmp_path, capsys):
    pair = [
        leave(tmp_path / name, clips, tree, [(fold, 0, views_of(labels_of(clips, fold), GOOD, 0.9))])
        for name, fold in (("a", 1), ("b", 2))
    ]
    assert report.main(["--compare", *map(str, pair)]) == 2
    words = r"cannot be compared: they were tested on different clips \(fold 1; fold 2\)"
    one_sentence(capsys.readouterr(), words)


def one_sentence(said, words):
    """A command said this on standard error, and nothing else anywhere."""
    assert said.out == "" and re.fullmatch(rf"esc_jax: .*{words}.*\n", said.err), said.err
    assert said.err.count("\n") == 1
