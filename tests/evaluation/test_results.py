"""results.json: the primary metric over runs, and its entries."""

import csv
import dataclasses
import json

import numpy as np
import pytest

from esc_jax import config as configs
from esc_jax.evaluation import confidence, results
from esc_jax.tasks import registry as tasks

TASK, MULTI = tasks.get("single_label"), tasks.get("multi_label")


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


def test_the_interval_is_that_of_the_mean_over_folds_of_different_sizes():
    """With one clip in a fold and 99 in another, the mean over clips and its interval are below the mean over folds."""
    summary = over_runs([[True], [False] * 90 + [True] * 9], [["a"], [f"b{i}" for i in range(99)]])
    assert summary["mean"] == (1 + 1 / 11) / 2
    assert summary["ci95"][0] <= summary["mean"] <= summary["ci95"][1]


def test_a_metric_that_is_no_mean_over_clips_is_computed_for_each_draw():
    rng = np.random.default_rng(0)
    runs, recordings = [], []
    for count in (60, 40):
        labels = rng.random((count, 3)) < 0.3
        runs.append((labels, 0.3 * labels + 0.7 * rng.random((count, 3))))
        recordings.append([f"{count}-{i // 2}" for i in range(count)])
    summary = results.over_runs(MULTI, runs, recordings)
    interval = confidence.score_interval(MULTI, runs, recordings)
    scores = [MULTI.score(*pair) for pair in runs]
    assert summary == {"mean": np.mean(scores), "std": np.std(scores, ddof=1), "ci95": [interval.low, interval.high]}
    assert interval.clusters == 50 and interval.low < summary["mean"] < interval.high


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


def test_entries_and_predictions_of_a_multi_label_run(noise_clips, tmp_path):
    config = configs.defaults("resnet")
    config.experiment = "name"
    rng = np.random.default_rng(0)
    clips = dataclasses.replace(noise_clips, labels=rng.random((12, 3)) < 0.5, task="multi_label")
    limits = {1: np.array([0.2, 0.5, 0.8]), 2: np.array([0.4, 0.5, 0.6])}
    parts = [
        results.fold_predictions(
            fold, 0, [i for i, f in enumerate(clips.folds) if f == fold], rng.random((1, 4, 3)), 5, 1.0, limits[fold]
        )
        for fold in (1, 2)
    ]
    entries = results.results(config, MULTI, clips, parts, "split", parameters=11)
    assert json.loads(json.dumps(entries)) == entries
    assert [fold["thresholds"] for fold in entries["folds"]] == [limits[1].tolist(), limits[2].tolist()]
    decided = np.concatenate([part.plain >= limits[part.fold] for part in parts])
    labels = np.concatenate([clips.labels[part.indices] for part in parts])
    assert entries["cooccurrence"] == (labels.astype(int).T @ decided).tolist() and "confusion" not in entries
    assert entries["mAP"]["mean"] == np.mean([fold["mAP"] for fold in entries["folds"]])
    results.write_predictions(tmp_path / "predictions.csv", MULTI, clips, parts[:1])
    results.write_results(tmp_path / "results.json", entries | {"folds": entries["folds"][:1]})
    with open(tmp_path / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row, label, decision in zip(rows, labels, decided, strict=False):
        assert row["true"] == ";".join(np.array(clips.classes)[label])
        assert row["predicted"] == ";".join(np.array(clips.classes)[decision])
    again = results.read_predictions(tmp_path / "predictions.csv", clips)
    np.testing.assert_allclose(again.plain, parts[0].plain, rtol=1e-5)
    np.testing.assert_array_equal(again.thresholds, limits[1])


@pytest.mark.parametrize(
    ("stored", "kind"),
    [
        ({"tta_views": 10, "tta_kind": "crops, logits"}, "crops, logits"),
        ({"tta_views": 5}, "rotations"),  # of an earlier version
        ({"tta_views": 0, "tta_kind": ""}, ""),
        ({"tta_views": 0}, ""),
    ],
)
def test_the_kind_of_views_in_stored_results(stored, kind):
    assert results.stored_view_kind(stored) == kind
