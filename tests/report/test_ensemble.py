"""Ensembles of runs, against numpy."""

import dataclasses

import numpy as np
import pytest

from esc_jax.cli import report as command
from esc_jax.report import ensemble, runs
from esc_jax.report.errors import ReportError
from esc_jax.tasks import registry as tasks
from tests.report import factories


@pytest.fixture
def by_name(tmp_path, clips, data_dir):
    """Two runs over two folds, one of them with two seeds, with random probabilities."""
    rng = np.random.default_rng(0)

    def test(fold, seed):
        shape = (2, len(factories.fold_labels(clips, fold)), len(factories.CLASSES))
        return fold, seed, rng.dirichlet(np.ones(shape[-1]), shape[:2]).astype(np.float32)

    factories.write_run(tmp_path / "runs/a", clips, data_dir, [test(1, 0), test(2, 0)])
    factories.write_run(tmp_path / "runs/b", clips, data_dir, [test(fold, seed) for fold in (1, 2) for seed in (0, 1)])
    return {run.name: run for run in runs.find(tmp_path / "runs")[0]}


def rows(run, clip, kind):
    predictions = run.predictions
    return getattr(predictions, kind)[[name == clip for name in predictions.clips]]


@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_the_predictions_of_a_clip_are_the_mean_over_runs_and_seeds(by_name, average):
    combined = ensemble.ensemble([by_name["a"], by_name["b"]], average)
    assert combined.name == f"ensemble of 3 (a, b), mean of {average}"
    assert combined.parameters == by_name["a"].parameters + 2 * by_name["b"].parameters
    correct = []
    for kind in ("scores", "scores_tta"):
        for clip, label, scores in zip(
            combined.predictions.clips, combined.predictions.labels, getattr(combined.predictions, kind), strict=True
        ):
            members = np.concatenate([rows(by_name["a"], clip, kind), rows(by_name["b"], clip, kind)])
            assert members.shape == (3, 4)
            if average == "logits":
                expected = np.exp(np.log(np.maximum(members, 1e-300)).mean(0))
                expected /= expected.sum()
            else:
                expected = members.mean(0)
            np.testing.assert_allclose(scores, expected, atol=1e-6)
            correct.append(expected.argmax() == label)
    assert combined.score.value == pytest.approx(np.mean(correct[: len(correct) // 2]))
    assert combined.score_tta.value == pytest.approx(np.mean(correct[len(correct) // 2 :]))
    assert combined.score.low < combined.score.value < combined.score.high


def test_the_seeds_of_one_run_are_an_ensemble(by_name):
    combined = ensemble.ensemble([by_name["b"]])
    clip = combined.predictions.clips[3]
    np.testing.assert_allclose(combined.predictions.scores[3], rows(by_name["b"], clip, "scores").mean(0), atol=1e-9)


def test_different_views_are_not_averaged(by_name):
    """Their mean would be named after the views of the first run."""
    crops = dataclasses.replace(by_name["b"], tta_kind="crops")
    combined = ensemble.ensemble([by_name["a"], crops])
    assert combined.score_tta is None and combined.tta_views == 0
    assert combined.score == ensemble.ensemble([by_name["a"], by_name["b"]]).score


def test_runs_that_have_no_ensemble_are_refused(by_name):
    with pytest.raises(ReportError, match="a is one model: name several runs, or a run with several seeds"):
        ensemble.ensemble([by_name["a"]])
    with pytest.raises(ReportError, match="b has no predictions"):
        ensemble.ensemble([by_name["a"], dataclasses.replace(by_name["b"], predictions=None)])
    other = dataclasses.replace(by_name["b"], task=tasks.get("multi_label"))
    with pytest.raises(ReportError, match="b and a were not tested on the same clips and folds"):
        ensemble.ensemble([by_name["a"], other])
    with pytest.raises(ReportError, match="there is no run c; the runs are"):
        ensemble.choose(list(by_name.values()), ["a", "c"])
    assert ensemble.choose(list(by_name.values()), ["a", "a/"]) == [by_name["a"]]


def test_the_report_shows_the_ensemble_beside_its_members(by_name, tmp_path, capsys):
    assert command.main([str(tmp_path / "runs"), "--ensemble", "a", "b/", "--average=logits"]) == 0
    text = (tmp_path / "runs/report/report.md").read_text()
    assert "ensemble of 3 (a, b), mean of logits" in text and "| a |" in text and "| b |" in text
    assert "ensemble of 3 (a, b), mean of logits" in (tmp_path / "runs/report/report.html").read_text()
    for options in (["--compare", "a", "b", "--ensemble", "a"], [str(tmp_path), "--average=logits"]):
        with pytest.raises(SystemExit) as stopped:
            command.main(options)
        assert stopped.value.code == 2
    assert command.main([str(tmp_path / "runs"), "--ensemble", "a", "c"]) == 2
    assert "there is no run c" in capsys.readouterr().err
