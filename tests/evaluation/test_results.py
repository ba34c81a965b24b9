"""results.json: the primary metric over runs, and its entries."""

import numpy as np
import pytest

from esc_jax import config as configs
from esc_jax.evaluation import results
from esc_jax.tasks import registry as tasks
from esc_jax.tasks.single_label import SingleLabel

TASK = tasks.get("single_label")


def run_of(hits):
    """(labels, scores) of clips that are predicted correctly where `hits` is true."""
    return np.zeros(len(hits), int), np.where(np.asarray(hits)[:, None], [0.9, 0.1], [0.1, 0.9])


def over_runs(runs, recordings):
    return results.over_runs(TASK, [run_of(hits) for hits in runs], recordings)


def test_the_interval_counts_recordings_and_not_clips():
    one, two = [True, True, True, False], [True, False]
    summary = over_runs([one, two], [["a", "a", "b", "c"], ["d", "e"]])
    assert summary["mean"] == (0.75 + 0.5) / 2
    np.testing.assert_allclose(summary["std"], np.std([0.75, 0.5], ddof=1))
    low, high = summary["ci95"]
    assert low <= 4 / 6 <= high
    single = over_runs([one], [list("abcd")])
    assert single["std"] is None
    # Ten clips of each of four recordings are hardly more than four clips.
    repeated = over_runs([np.repeat(one, 10)], [np.repeat(list("abcd"), 10)])
    np.testing.assert_allclose(repeated["ci95"], single["ci95"])


def test_a_metric_that_is_no_mean_over_clips_is_not_bootstrapped():
    class Ranking(SingleLabel):
        def clip_scores(self, labels, scores):
            return None

    with pytest.raises(NotImplementedError, match="single_label has no metric per clip"):
        results.over_runs(Ranking(), [run_of([True, False])], [["a", "b"]])


def test_entries_of_two_folds(noise_clips):
    config = configs.defaults("resnet")
    config.experiment, config.eval.tta = "name", 2
    rng = np.random.default_rng(0)
    views = {fold: rng.dirichlet(np.ones(3), (2, 4)) for fold in (1, 3)}
    parts = [
        results.fold_predictions(fold, 7, [i for i, f in enumerate(noise_clips.folds) if f == fold], v, 5, 60.04)
        for fold, v in views.items()
    ]
    entries = results.results(config, TASK, noise_clips, parts, "split", parameters=11, step=3)
    assert entries["task"] == "single_label" and entries["tta_views"] == 2 and entries["checkpoint_step"] == 3
    hits, hits_tta = {}, {}
    for part, (fold, v) in zip(parts, views.items(), strict=True):
        labels = noise_clips.labels[part.indices]
        hits[fold], hits_tta[fold] = v[0].argmax(-1) == labels, v.mean(0).argmax(-1) == labels
    for entry in entries["folds"]:
        fold = entry["fold"]
        assert entry == {
            "fold": fold, "seed": 7, "epochs": 5, "seconds": 60.0, "total": 4,
            "accuracy": hits[fold].mean(), "accuracy_tta": hits_tta[fold].mean(),
            "correct": hits[fold].sum(), "correct_tta": hits_tta[fold].sum(),
        }  # fmt: skip
    assert entries["accuracy"]["mean"] == np.mean([h.mean() for h in hits.values()])
    assert entries["accuracy_tta"]["mean"] == np.mean([h.mean() for h in hits_tta.values()])
    assert np.trace(entries["confusion"]) == sum(h.sum() for h in hits.values())
    assert sum(one["total"] for one in entries["per_class"].values()) == 8
    without = results.fold_predictions(2, 7, [4, 5, 6, 7], views[1][:1], 5, 1.0)
    entries = results.results(config, TASK, noise_clips, [*parts, without], "split", parameters=11)
    # Views of two folds of three are not reported as a result with views.
    assert entries["accuracy_tta"] is None and entries["tta_views"] == 0
    assert [fold["correct_tta"] for fold in entries["folds"]] == [None] * 3
