"""The files of a finished run: results.json, predictions.csv, pictures, and summaries in words."""

from collections.abc import Sequence
import pathlib
from typing import Any

import numpy as np

from esc_jax.augment.views import ROTATIONS
from esc_jax.data.clips import Clips
from esc_jax.data.folds import name_folds
from esc_jax.errors import counted
from esc_jax.evaluation.escaping import escape_markdown
from esc_jax.evaluation.results import (
    FoldPredictions,
    other_metrics,
    stored_view_kind,
    write_predictions,
    write_results,
)
from esc_jax.runtime import processes
from esc_jax.tasks import registry as tasks

History = Sequence[dict[str, Any]]
_SHOWN = 5  # best and worst classes in the summary


def write_artifacts(
    workdir: pathlib.Path,
    results: dict[str, Any],
    clips: Clips,
    parts: Sequence[FoldPredictions],
    history: History = (),
    pretrain_history: History = (),
) -> None:
    """Writes predictions.csv, confusion_matrix.png or cooccurrence.png, curves.png and, last, results.json.

    Args:
        workdir: of the run.
        results: the object of results.json.
        clips: the data set.
        parts: predictions of the test clips; none under the protocol `all`.
        history: lines of the epochs of training.
        pretrain_history: lines of the epochs of pretraining.
    """
    if processes.is_main_process():
        from esc_jax.report import plots  # matplotlib is slow to import

        task = tasks.get(results["task"])
        if parts:
            write_predictions(workdir / "predictions.csv", task, clips, parts)
        title = _title(results, sorted({part.fold for part in parts}))
        if "confusion" in results:
            path = workdir / "confusion_matrix.png"
            plots.confusion_matrix(np.array(results["confusion"]), clips.classes, title, path)
        if "cooccurrence" in results:
            path = workdir / "cooccurrence.png"
            totals = np.array([one["positives"] for one in results["per_class"].values()])
            plots.cooccurrence(np.array(results["cooccurrence"]), totals, clips.classes, title, path)
        if history:
            plots.curves(history, task, title, workdir / "curves.png", pretrain_history)
        write_results(workdir / "results.json", results)
    processes.barrier(f"{workdir} is tested")


def _title(results: dict[str, Any], folds: Sequence[int]) -> str:
    if not folds:
        return f"{results['config_name']}, trained on every clip"
    task = tasks.get(results["task"])
    score = f"{task.metric_label} {_percent(results[task.metric]['mean'])} %"
    return f"{results['config_name']}, {name_folds(folds)}: {score}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.2f}"


def _interval(part: dict[str, Any]) -> str:
    low, high = part["ci95"]
    spread = f" ± {100 * part['std']:.2f}" if part["std"] is not None else ""
    return f"{_percent(part['mean'])} %{spread}  (95 % interval {100 * low:.1f} to {100 * high:.1f})"


def _views(results: dict[str, Any]) -> str:
    """Number and kind of the averaged views: "5 views", "10 crops"."""
    kind = stored_view_kind(results)
    return f"{results['tta_views']} {'views' if kind == ROTATIONS else kind}"


def summary(results: dict[str, Any]) -> str:
    """The results of a run as a table for a terminal."""
    task = tasks.get(results["task"])
    selected = " (epoch selected on the test fold †)" if results["test_selected"] else ""
    lines = [
        f"{results['config_name']} on {results['data']['name']}, protocol {results['protocol']}{selected}",
        f"  {results['data']['split']}",
    ]
    if results[task.metric]:
        lines.append(f"  {task.metric_label:<19} {_interval(results[task.metric])}")
    else:
        lines.append(f"  {_untested(results)}")
    if results[f"{task.metric}_tta"]:
        label = f"with {_views(results)} (TTA)"
        lines.append(f"  {label:<19} {_interval(results[f'{task.metric}_tta'])}")
    if others := other_metrics(task, results["folds"]):
        lines.append(f"  {'mean over folds':<19} {', '.join(f'{name} {_percent(v)} %' for name, v in others.items())}")
    macro = results.get(f"{task.metric}_macro")
    if macro is not None and abs(macro - results[task.metric]["mean"]) >= 0.0005:
        lines.append(f"  {'mean over classes':<19} {_percent(macro)} %  (classes differ in size)")
    if stage := results.get("pretrain"):
        pretext = ", ".join(f"{key} {value:.4g}" for key, value in stage["metrics"].items())
        lines.append(
            f"  pretraining ({stage['objective']}): {pretext}; {task.metric_label} of a linear probe on the pretrained"
            f" encoder {stage['probe_score']:.4g}"
        )
    if teacher := results.get("teacher"):
        lines.append(f"  distilled from the teacher {teacher}")
    seconds = results["seconds"] if "seconds" in results else sum(fold["seconds"] for fold in results["folds"])
    lines.append(
        f"  {results['parameters']:,} parameters, {seconds / 60:.1f} minutes of training on {results['device']}"
    )
    ranking = [row for row in task.class_ranking(results) if row[1] is not None] if results["folds"] else []
    # "7/8" says how often a class is recognized; of other metrics, the value does.
    shown = [(name, value, text if task.exclusive else f"{_percent(value)} %") for name, value, text in ranking]
    best = [f"{name} {text}" for name, value, text in shown if value and value > 0][:_SHOWN]
    worst = [f"{name} {text}" for name, value, text in reversed(shown) if value is not None and value < 1][:_SHOWN]
    lines += [f"  best classes: {', '.join(best)}"] if best else []
    lines += [f"  worst classes: {', '.join(worst)}"] if worst else []
    if results["data"]["grouping"]["kind"] == "none":
        lines.append(f"  note: {results['data']['grouping']['description']}")
    if bad := list(results["data"]["bad_clips"]):
        more = " …" if len(bad) > 3 else ""
        lines.append(f"  excluded: {counted(len(bad), 'clip')} that cannot be decoded ({', '.join(bad[:3])}{more})")
    return "\n".join(lines)


def _untested(results: dict[str, Any]) -> str:
    """A sentence in the place of a score, with that of the cross-validation where there is one."""
    task = tasks.get(results["task"])
    quoted = results.get("crossval")
    if not quoted:
        return "trained on every clip; not tested (--from_crossval quotes a cross-validation of the same config)"
    folds = ", ".join(map(str, quoted["folds"]))
    return (
        f"trained on every clip; not tested. Cross-validation of this config over folds {folds}: {task.metric_label}"
        f" {_interval(quoted[task.metric])}"
    )


_PROTOCOLS = {
    "holdout": "Every fold was tested once, at the end, after a fixed number of epochs.",
    "validation": "The epoch was selected on one of the training folds. Every test fold was tested once, at the end.",
    "oracle": "The epoch was selected on the test fold itself (†), so these numbers are too high.",
    "all": "The model was trained on every clip, and was not tested.",
}


def markdown(results: dict[str, Any]) -> str:
    """The results of a run as a page of Markdown."""
    task = tasks.get(results["task"])
    label, key = task.metric_label, task.metric
    mark = " †" if results["test_selected"] else ""
    title = escape_markdown(f"{results['config_name']} on {results['data']['name']}")
    lines = [f"# {title}{mark}", "", _PROTOCOLS[results["protocol"]]]
    lines += [f"{results['data']['split']}.", "", f"| fold | seed | {label}, % | TTA, % | minutes |"]
    lines += ["|---|---|---|---|---|"]
    for fold in results["folds"]:
        cells = [fold["fold"], fold["seed"], _percent(fold[key]), _percent(fold[f"{key}_tta"])]
        cells.append(f"{fold['seconds'] / 60:.1f}")
        lines.append(f"| {' | '.join(map(str, cells))} |")
    for name, part in ((label, results[key]), (f"with {_views(results)}", results[f"{key}_tta"])):
        if part:
            spread = f" ± {100 * part['std']:.2f} (standard deviation over runs)" if part["std"] is not None else ""
            low, high = (_percent(bound) for bound in part["ci95"])
            lines += ["", f"**{name}: {_percent(part['mean'])} %**{spread}, 95 % interval {low} to {high}"]
    if others := other_metrics(task, results["folds"]):
        lines += ["", f"Mean over folds: {', '.join(f'{name} {_percent(v)} %' for name, v in others.items())}"]
    lines += [
        "",
        f"{results['parameters']:,} parameters; {results['device']}",
        "",
        f"| class | {task.class_metric_label}, % | clips |",
    ]
    lines += ["|---|---|---|"]
    for name, value, text in reversed(task.class_ranking(results)):
        lines.append(f"| {escape_markdown(name)} | {_percent(value)} | {text} |")
    for key, name in (("confusion", "confusion_matrix"), ("cooccurrence", "cooccurrence")):
        lines += ["", f"![{name.replace('_', ' ')}]({name}.png)"] if key in results else []
    return "\n".join([*lines, ""])
