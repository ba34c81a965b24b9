"""A report on runs of a task with another metric."""

from esc_jax.report import write
from esc_jax.tasks import registry as tasks
from esc_jax.tasks.single_label import SingleLabel
from tests.report.factories import GOOD, POOR, fold_labels, fold_scores, write_run


class HitRate(SingleLabel):
    """The same labels and decisions, with another name of the metric."""

    name = "hits"
    metric = "hit_rate"
    metric_label = "hit rate"

    def fold_metrics(self, labels, scores, views, thresholds=None):
        metrics = super().fold_metrics(labels, scores, views, thresholds)
        return {key.replace("accuracy", "hit_rate"): value for key, value in metrics.items()}


def test_the_metric_of_another_task_is_named(clips, data_dir, tmp_path, monkeypatch):
    monkeypatch.setitem(tasks.TASKS, "hits", HitRate())
    views = [fold_scores(fold_labels(clips, 1), mistakes, 0.9) for mistakes in (GOOD, POOR)]
    for name, scores in zip(("good", "poor"), views, strict=True):
        write_run(tmp_path / "runs" / name, clips, data_dir, [(1, 0, scores)], task="hits")
    findings = write.write_report(tmp_path / "runs", tmp_path / "one")
    for name in ("report.md", "report.html"):
        text = (tmp_path / "one" / name).read_text()
        assert "hit rate, %" in text and "accuracy" not in text
    assert "20.8 points of hit rate" in findings.comparisons[0].sentence
    assert write.compare_runs(tmp_path / "runs/good", tmp_path / "runs/poor").startswith("good ")
    assert write.summary(findings).startswith("esc50, 48 clips: 2 runs, best: good, hit rate 87.50")


def test_tasks_have_leaderboards_of_their_own(clips, data_dir, tmp_path, monkeypatch):
    monkeypatch.setitem(tasks.TASKS, "hits", HitRate())
    scores = fold_scores(fold_labels(clips, 1), GOOD, 0.9)
    for name in ("hits", "single_label"):
        write_run(tmp_path / "runs" / name, clips, data_dir, [(1, 0, scores)], task=name)
    findings = write.write_report(tmp_path / "runs", tmp_path / "both")
    assert not findings.comparisons and not findings.incomparable
    text = (tmp_path / "both/report.md").read_text()
    assert "## Leaderboard: hit rate (hits)" in text and "## Leaderboard: accuracy (single_label)" in text
