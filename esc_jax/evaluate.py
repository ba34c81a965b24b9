"""A pass over a split, exact to the clip, and the results that are made of it."""

from collections.abc import Callable, Sequence
import csv
import dataclasses
import json
import pathlib
import platform
from typing import Any

import jax
import numpy as np

from esc_jax import files, statistics
from esc_jax.data import pipeline
from esc_jax.data.clips import Clips
from esc_jax.data.source import DataError
from esc_jax.training import metrics, parallel, writers


def each_clip(
    predict: Callable[..., jax.Array], variables: Any, clips: Clips, indices: Sequence[int], batch_size: int
) -> np.ndarray:
    """(views, len(indices), D) float32: every clip once, whatever the batch size.

    Args:
        predict: (variables, (B, time) int16) → (views, B, D): a step of `training.step` that changes nothing. It gets
            `samples` too where the clips are `masked`.
        variables: weights of the model.
        clips: the data set.
        indices: of the clips, in the order of the result.
        batch_size: clips at a time; the last batch is filled up and its filling dropped.
    """
    done = []
    for batch in pipeline.eval_batches(clips, indices, batch_size):
        inputs = parallel.ready(pipeline.inputs(batch))
        done.append(np.asarray(predict(variables, *inputs))[:, batch["mask"]])
    return np.concatenate(done, axis=1)


def device_name() -> str:
    """What the run ran on, in words."""
    device = jax.devices()[0]
    kind = platform.processor() or platform.machine() if device.platform == "cpu" else device.device_kind
    return f"{jax.device_count()} × {device.platform} ({kind})"


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    import importlib.metadata

    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in names}


@dataclasses.dataclass(frozen=True)
class Tested:
    """What one run found on the clips of its test fold.

    Attributes:
        fold: the test fold.
        seed: of the run.
        indices: (n,) of the clips tested.
        plain: (n, classes) probabilities of the clips as they are.
        averaged: (n, classes), the mean over the views of test-time augmentation; None without.
        epochs, seconds: of training, over all restarts.
    """

    fold: int
    seed: int
    indices: np.ndarray
    plain: np.ndarray
    averaged: np.ndarray | None
    epochs: int
    seconds: float


def tested(fold: int, seed: int, indices: Sequence[int], views: np.ndarray, epochs: int, seconds: float) -> Tested:
    """`Tested` of (views, n, classes) probabilities, the first view being the clip as it is."""
    averaged = views.mean(axis=0) if len(views) > 1 else None
    return Tested(fold, seed, np.asarray(indices), views[0], averaged, epochs, seconds)


def over_folds(hits: Sequence[np.ndarray], recordings: Sequence[Sequence[str]]) -> dict[str, object]:
    """`mean` and `std` (n − 1) of the accuracy over runs, and its 95 % interval by bootstrap over source recordings.

    std is None for one run: nothing varies there.

    Args:
        hits: of each run (a fold, with a seed), (n,) whether its clips are right.
        recordings: (n,) what they were cut from.
    """
    shares = np.array([np.mean(run) for run in hits])
    std = float(shares.std(ddof=1)) if len(shares) > 1 else None
    found = statistics.accuracy_interval(np.concatenate(hits), np.concatenate(recordings))
    return {"mean": float(shares.mean()), "std": std, "ci95": [found.low, found.high]}


def results(
    config, clips: Clips, parts: Sequence[Tested], split: str, *, parameters: int, step: int | None = None
) -> dict[str, Any]:
    """The object of results.json.

    Args:
        config: of the run.
        clips: the data set.
        parts: a test per fold, and per seed where several ran.
        split: who trained and who tested, in words.
        parameters: number of them.
        step: of the checkpoint that was tested, for a single run.
    """
    tta = all(part.averaged is not None for part in parts)
    folds, table = [], np.zeros((len(clips.classes),) * 2, np.int64)
    hits, hits_tta = [], []
    for part in parts:
        labels = clips.labels[part.indices]
        predicted = part.plain.argmax(-1)
        table += metrics.confusion(labels, predicted, len(clips.classes))
        hits.append(predicted == labels)
        hits_tta.append(part.averaged.argmax(-1) == labels if tta else None)
        correct, correct_tta = int(hits[-1].sum()), int(hits_tta[-1].sum()) if tta else None
        folds.append(
            {
                "fold": part.fold,
                "seed": part.seed,
                "accuracy": correct / len(labels),
                "accuracy_tta": correct_tta / len(labels) if tta else None,
                "correct": correct,
                "correct_tta": correct_tta,
                "total": len(labels),
                "epochs": part.epochs,
                "seconds": round(part.seconds, 1),
            }
        )
    recordings = [[clips.sources[i] for i in part.indices] for part in parts]
    return {
        "config_name": config.experiment,
        "data": {
            "name": config.data.name,
            "clips": len(clips),
            "classes": list(clips.classes),
            "fingerprint": clips.fingerprint,
            "sample_rate": clips.sample_rate,
            "bad_clips": clips.bad,
            "split": split,
        },
        "protocol": config.protocol,
        "test_selected": config.protocol == "oracle",
        "folds": folds,
        "accuracy": over_folds(hits, recordings),
        "accuracy_tta": over_folds(hits_tta, recordings) if tta else None,
        "tta_views": config.eval.tta if tta else 0,
        "per_class": metrics.per_class(table, clips.classes),
        "confusion": table.tolist(),
        "parameters": parameters,
        "checkpoint_step": step,
        "device": device_name(),
        "versions": versions(),
    }


def write_predictions(path: pathlib.Path, clips: Clips, parts: Sequence[Tested]) -> None:
    """predictions.csv: a row per test clip, with the probabilities of the clip as it is and of the average of views."""
    names = clips.classes
    tta = all(part.averaged is not None for part in parts)
    with files.replacing(path, "w", newline="") as file:
        writer = csv.writer(file)
        header = ["clip", "fold", "source", "seed", "true", "predicted", "predicted_tta"]
        writer.writerow([*header, *names, *(f"{name}_tta" for name in names if tta)])
        for part in parts:
            averaged = part.averaged if tta else part.plain
            for index, one, mean in zip(part.indices, part.plain, averaged, strict=True):
                row = [clips.filenames[index], clips.folds[index], clips.sources[index], part.seed]
                row += [names[clips.labels[index]], names[one.argmax()], names[mean.argmax()]]
                writer.writerow([*row, *(f"{p:.6g}" for p in one), *(f"{p:.6g}" for p in mean if tta)])


def read_predictions(path: pathlib.Path, clips: Clips) -> Tested:
    """The `Tested` of a single run's predictions.csv (probabilities to six digits), with its results.json beside it.

    Raises:
        DataError: it is of other clips or classes.
    """
    with open(path, newline="") as file:
        rows = list(csv.reader(file))
    header, rows = rows[0], rows[1:]
    first, count = header.index("predicted_tta") + 1, len(clips.classes)
    place = {name: index for index, name in enumerate(clips.filenames)}
    if tuple(header[first : first + count]) != clips.classes or any(row[0] not in place for row in rows):
        raise DataError(f"{path} is of other data than data.dir holds")
    numbers = np.array([[float(p) for p in row[first:]] for row in rows])
    found = json.loads((path.parent / "results.json").read_text())["folds"][0]
    return Tested(
        fold=found["fold"],
        seed=found["seed"],
        indices=np.array([place[row[0]] for row in rows]),
        plain=numbers[:, :count],
        averaged=numbers[:, count:] if numbers.shape[1] > count else None,
        epochs=found["epochs"],
        seconds=found["seconds"],
    )


def leave(
    workdir: pathlib.Path, found: dict[str, Any], clips: Clips, parts: Sequence[Tested], history=(), pretext=()
) -> None:
    """Writes what every run leaves: results.json (last), predictions.csv, confusion_matrix.png, curves.png."""
    if parallel.first():
        _leave(workdir, found, clips, parts, history, pretext)
    parallel.wait(f"{workdir} is tested")


def _leave(workdir: pathlib.Path, found: dict[str, Any], clips: Clips, parts, history, pretext) -> None:
    write_predictions(workdir / "predictions.csv", clips, parts)
    from esc_jax import plots  # matplotlib is slow to import, and nothing before needs it

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
