"""Paired comparisons."""

import csv
import dataclasses
import io
import json
import re
import shutil

import pytest

from esc_jax.cli import report
from esc_jax.evaluation import confidence
from esc_jax.report import compare
from esc_jax.report import runs as finished
from esc_jax.report.errors import ReportError
from tests.report.factories import CLIPS_PER_FOLD, GOOD, POOR, fold_labels, fold_scores, write_run


def test_comparison_is_paired(runs_dir):
    good, poor = (finished.read(runs_dir / name) for name in ("good", "deep/poor"))
    comparison = compare.compare(poor, good)
    only_good, only_poor = len(POOR.keys() - GOOD.keys()), len(GOOD.keys() - POOR.keys())
    assert (comparison.better, comparison.only_better, comparison.only_worse) == ("good", only_good, only_poor)
    assert (only_good, only_poor) == (7, 2) and comparison.p == confidence.mcnemar(7, 2)
    difference = [(i in POOR) - (i in GOOD) for i in range(CLIPS_PER_FOLD)]
    recordings = [i // 2 for i in range(CLIPS_PER_FOLD)]
    expected = confidence.difference_interval(difference, [0] * CLIPS_PER_FOLD, recordings)
    assert comparison.difference.value == expected.value == 5 / 24
    # The recordings are in another order here, so the draws are equal up to Monte Carlo error.
    bounds = (comparison.difference.low, comparison.difference.high)
    assert bounds == pytest.approx((expected.low, expected.high), abs=0.02)
    assert re.fullmatch(
        r"good (outperforms poor by 20\.8 points of accuracy|is 20\.8 points of accuracy above poor)"
        r" \(95 % CI −?\d+\.\d to \d+\.\d(: not significant)?\), McNemar p=0\.18",
        comparison.sentence,
    )
    same = compare.compare(good, good)
    # 1 − 0.025^(1/12): the bound for 12 recordings that do not differ.
    assert same.sentence == "good and good have the same accuracy (95 % CI −26.5 to 26.5), McNemar p=1.00"


@pytest.mark.parametrize(
    ("low", "high", "sentence"),
    [
        (0.002, 0.024, "a outperforms b by 1.3 points of mAP (95 % CI 0.2 to 2.4), McNemar p=0.021"),
        (-0.0001, 0.024, "a is 1.3 points of mAP above b (95 % CI 0.0 to 2.4: not significant), McNemar p=0.021"),
        (-0.004, 0.024, "a is 1.3 points of mAP above b (95 % CI −0.4 to 2.4: not significant), McNemar p=0.021"),
    ],
)
def test_a_difference_is_significant_where_the_interval_is_above_zero(low, high, sentence):
    interval = confidence.ConfidenceInterval(0.013, low, high, 300)
    assert compare.Comparison("a", "b", "mAP", interval, 400, 8, 3, 0.0214).sentence == sentence


def test_a_run_is_compared_on_the_clips_that_both_have(written_report):
    findings, _ = written_report
    comparisons = {(one.better, one.worse): one for one in findings.comparisons}
    # The reference is the run on the most folds.
    assert set(comparisons) == {("oracle †", "cv"), ("cv", "good"), ("cv", "deep/poor")}
    assert comparisons["oracle †", "cv"].clips == CLIPS_PER_FOLD  # of 48: those of fold 1
    assert comparisons["oracle †", "cv"].difference.value == 1 / 24


def test_runs_of_different_tasks_are_not_compared(runs_dir):
    class OtherTask(type(finished.read(runs_dir / "good").task)):
        name = "other"

    good = finished.read(runs_dir / "good")
    other = dataclasses.replace(good, name="b", task=OtherTask())
    with pytest.raises(ReportError, match=r"good and b cannot be compared: .* different tasks \(single_label; other\)"):
        compare.compare(good, other)
    assert finished.group_by_data([good, other]) == [[good], [other]]


def results_of(run):
    return json.loads((run / "results.json").read_text())


def write_results(run, content):
    (run / "results.json").write_text(json.dumps(content))


def truncated(run):
    path = run / "results.json"
    path.write_text(path.read_text()[:200])


def an_array(run):
    write_results(run, [1, 2])


def without_folds(run):
    write_results(run, {key: value for key, value in results_of(run).items() if key != "folds"})


def no_folds(run):
    write_results(run, results_of(run) | {"folds": []})


def score_is_nan(run):
    content = results_of(run)
    write_results(run, content | {"accuracy": content["accuracy"] | {"mean": float("nan")}})


def score_has_another_type(run):
    write_results(run, results_of(run) | {"accuracy": 0.9})


def unknown_task(run):
    write_results(run, results_of(run) | {"task": "regression"})


def truncated_line(run):
    path = run / "predictions.csv"
    path.write_text(path.read_text()[:-40])


def missing_lines(run):
    path = run / "predictions.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-2]))


def predictions_of_another_run(run):
    path = run / "predictions.csv"
    lines = path.read_text().splitlines(keepends=True)
    for number in (3, 7):
        cells = lines[number].rstrip("\n").split(",")
        cells[4] = "cat"
        lines[number] = ",".join(cells) + "\n"
    path.write_text("".join(lines))


def no_predictions(run):
    (run / "predictions.csv").unlink()


def text_instead_of_a_probability(run):
    path = run / "predictions.csv"
    path.write_text(path.read_text().replace("0.0333333", "a lot", 1))


def unknown_label(run):
    path = run / "predictions.csv"
    path.write_text(re.sub(r"(1-1-3.wav,1,r1,0,)cat", r"\1tiger", path.read_text()))


def other_data(run):
    content = results_of(run)
    write_results(run, content | {"data": content["data"] | {"fingerprint": "another"}})


def classes_in_another_order(run):
    content = results_of(run)
    order = [content["data"]["classes"][i] for i in (1, 0, 2, 3)]
    write_results(run, content | {"data": content["data"] | {"classes": order}})
    rows = list(csv.reader(io.StringIO((run / "predictions.csv").read_text())))
    rows[0][7:11] = order
    for row in rows[1:]:
        row[7], row[8] = row[8], row[7]
    (run / "predictions.csv").write_text("".join(",".join(row) + "\n" for row in rows))


def empty_folder(run):
    shutil.rmtree(run)
    run.mkdir()


@pytest.mark.parametrize(
    ("damage", "status", "message"),
    [
        (truncated, 1, r"b/results\.json is incomplete or damaged: invalid JSON in line \d+"),
        (an_array, 1, r"b/results\.json is not a JSON object"),
        (without_folds, 1, r"b/results\.json is incomplete: it has no 'folds'"),
        (no_folds, 1, r"b/results\.json has no folds"),
        (score_is_nan, 1, r"b/results\.json: the accuracy is not a number"),
        (score_has_another_type, 1, r"b/results\.json is not written by a run: a value has the wrong type"),
        (unknown_task, 1, r"b/results\.json: task=regression: the tasks are single_label"),
        (truncated_line, 1, r"b/predictions\.csv is incomplete: line 25 has \d+ of 11 columns"),
        (missing_lines, 1, r"for fold 1 it has accuracy 86\.36 % on 22 clips, and results\.json 87\.50 % on 24"),
        (predictions_of_another_run, 1, r"b/predictions\.csv does not belong to results\.json: for fold 1 it has"),
        (no_predictions, 1, r"b/predictions\.csv cannot be read: No such file"),
        (text_instead_of_a_probability, 1, r"b/predictions\.csv has a fold, a seed or a probability that is not a num"),
        (unknown_label, 1, r"has a label that results\.json does not have: 'tiger' is not a class"),
        (other_data, 2, r"a and b cannot be compared: they are of different data"),
        (classes_in_another_order, 2, r"cannot be compared: .* number or order \(class 0 is rain; sea_waves\)"),
        (empty_folder, 2, r"b is not a finished run: it has no results\.json"),
        (shutil.rmtree, 2, r"b does not exist"),
    ],
)
def test_a_damaged_run_is_not_compared(damage, status, message, clips, data_dir, tmp_path, capsys):
    views = fold_scores(fold_labels(clips, 1), GOOD, 0.9)
    pair = [write_run(tmp_path / name, clips, data_dir, [(1, 0, views)]) for name in ("a", "b")]
    damage(pair[1])
    assert report.main(["--compare", *map(str, pair)]) == status
    assert_one_sentence(capsys.readouterr(), message)


def test_runs_of_different_test_clips_are_not_compared(clips, data_dir, tmp_path, capsys):
    pair = [
        write_run(tmp_path / name, clips, data_dir, [(fold, 0, fold_scores(fold_labels(clips, fold), GOOD, 0.9))])
        for name, fold in (("a", 1), ("b", 2))
    ]
    assert report.main(["--compare", *map(str, pair)]) == 2
    assert_one_sentence(capsys.readouterr(), r"cannot be compared: they share no test clip \(fold 1; fold 2\)")


def assert_one_sentence(captured, message):
    """A command wrote this sentence to standard error, and nothing else."""
    assert captured.out == "" and re.fullmatch(rf"esc_jax: .*{message}.*\n", captured.err), captured.err
    assert captured.err.count("\n") == 1
