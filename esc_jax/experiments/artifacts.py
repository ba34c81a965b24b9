"""The files of a finished run: results.json, predictions.csv, pictures, summaries."""

from collections.abc import Sequence
import pathlib
from typing import Any

import numpy as np

from esc_jax.data.clips import Clips
from esc_jax.evaluation.results import FoldPredictions, write_predictions
from esc_jax.runtime import processes
from esc_jax.training import writers


def write_artifacts(
    workdir: pathlib.Path, found: dict[str, Any], clips: Clips, parts: Sequence[FoldPredictions], history=(), pretext=()
) -> None:
    """Writes what every run leaves: results.json (last), predictions.csv, confusion_matrix.png, curves.png."""
    if processes.is_main_process():
        _write_artifacts(workdir, found, clips, parts, history, pretext)
    processes.barrier(f"{workdir} is tested")


def _write_artifacts(workdir: pathlib.Path, found: dict[str, Any], clips: Clips, parts, history, pretext) -> None:
    write_predictions(workdir / "predictions.csv", clips, parts)
    from esc_jax.report import plots

    tested_folds = sorted({part.fold for part in parts})
    which = f"fold{'s' if len(tested_folds) > 1 else ''} {', '.join(map(str, tested_folds))}"
    title = f"{found['config_name']}, {which}: {100 * found['accuracy']['mean']:.2f} %"
    plots.confusion_matrix(np.array(found["confusion"]), clips.classes, title, workdir / "confusion_matrix.png")
    if history:
        plots.curves(history, title, workdir / "curves.png", pretext)
    writers.write_json(workdir / "results.json", found)


def summary(found: dict[str, Any]) -> str:
    """The results of a run as a table for a terminal."""

    def percent(part: dict[str, Any] | None) -> str:
        if part is None:
            return "–"
        low, high = part["ci95"]
        spread = f" ± {100 * part['std']:.2f}" if part["std"] is not None else ""
        return f"{100 * part['mean']:.2f} %{spread}  (95 % interval {100 * low:.1f} to {100 * high:.1f})"

    ranked = [(v["accuracy"], k, v) for k, v in found["per_class"].items() if v["total"]]
    ranked.sort(key=lambda item: (-item[0], item[1]))
    lines = [
        f"{found['config_name']} on {found['data']['name']}, protocol {found['protocol']}"
        + (" (epoch selected on the test fold †)" if found["test_selected"] else ""),
        f"  {found['data']['split']}",
        f"  accuracy            {percent(found['accuracy'])}",
    ]
    if found["accuracy_tta"]:
        lines.append(f"  with {found['tta_views']} views (TTA)  {percent(found['accuracy_tta'])}")
    if stage := found.get("pretrain"):
        lines.append(
            f"  pretrained ({stage['method']}): pretext task {100 * stage['pretext_accuracy']:.1f} %, on the encoder as"
            f" it was then a linear probe {100 * stage['probe_accuracy']:.2f} %, neighbours (inside the training folds)"
            f" {100 * stage['knn_accuracy']:.1f} %"
        )
    seconds = sum(f["seconds"] for f in found["folds"])
    lines.append(f"  {found['parameters']:,} parameters, {seconds / 60:.1f} minutes of training on {found['device']}")

    def listed(items) -> str:
        return ", ".join(f"{name} {v['correct']}/{v['total']}" for _, name, v in items)

    shown = min(5, (len(ranked) + 1) // 2)
    lines.append(f"  easiest: {listed(ranked[:shown])}")
    lines.append(f"  hardest: {listed(reversed(ranked[-shown:]))}")
    if found["data"]["bad_clips"]:
        bad = list(found["data"]["bad_clips"])
        named = ", ".join(bad[:3]) + (" …" if len(bad) > 3 else "")
        lines.append(f"  left out: {len(bad)} clips that do not decode ({named})")
    return "\n".join(lines)


_PROTOCOLS = {
    "holdout": "Every fold was tested once, at the end, after a number of epochs that was fixed beforehand.",
    "validation": "The epoch was chosen on one of the training folds; every test fold was tested once, at the end.",
    "oracle": "The epoch was chosen on the test fold itself (†): these numbers are too good.",
}


def markdown(found: dict[str, Any]) -> str:
    """The results of a run as a page of Markdown."""
    tta = found["accuracy_tta"]

    def percent(share: float | None) -> str:
        return "–" if share is None else f"{100 * share:.2f}"

    mark = " †" if found["test_selected"] else ""
    lines = [f"# {found['config_name']} on {found['data']['name']}{mark}", "", _PROTOCOLS[found["protocol"]]]
    lines += [f"{found['data']['split']}.", "", "| fold | seed | accuracy | TTA | correct | minutes |"]
    lines += ["|---|---|---|---|---|---|"]
    for fold in found["folds"]:
        cells = [fold["fold"], fold["seed"], percent(fold["accuracy"]), percent(fold["accuracy_tta"])]
        cells += [f"{fold['correct']}/{fold['total']}", f"{fold['seconds'] / 60:.1f}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    for name, part in (("accuracy", found["accuracy"]), (f"with {found['tta_views']} views", tta)):
        if part:
            spread = f" ± {100 * part['std']:.2f} (standard deviation over runs)" if part["std"] is not None else ""
            low, high = part["ci95"]
            lines += [
                "",
                f"**{name}: {percent(part['mean'])} %**{spread}, 95 % interval {percent(low)} to {percent(high)}",
            ]
    lines += ["", f"{found['parameters']:,} parameters; {found['device']}", "", "| class | accuracy | correct |"]
    lines += ["|---|---|---|"]
    ranked = sorted(found["per_class"].items(), key=lambda item: (item[1]["accuracy"] or 0.0, item[0]))
    lines += [f"| {name} | {percent(v['accuracy'])} | {v['correct']}/{v['total']} |" for name, v in ranked]
    lines += ["", "![confusion matrix](confusion_matrix.png)", ""]
    return "\n".join(lines)
