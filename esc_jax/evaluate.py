"""A pass over a split, exact to the clip, and the results that are made of it."""

from collections.abc import Callable, Sequence
import csv
import pathlib
import platform
from typing import Any

import jax
import numpy as np

from esc_jax.data import folds, pipeline
from esc_jax.data.clips import Clips
from esc_jax.training import metrics


def probabilities(
    predict: Callable[..., jax.Array], variables: Any, clips: Clips, indices: Sequence[int], batch_size: int
) -> np.ndarray:
    """(views, len(indices), classes) float32: every clip once, whatever the batch size.

    Args:
        predict: (variables, (B, time) int16) → (views, B, classes).
        variables: weights of the model.
        clips: the data set.
        indices: of the clips, in the order of the result.
        batch_size: clips at a time; the last batch is filled up and its filling dropped.
    """
    done = []
    for batch in pipeline.eval_batches(clips, indices, batch_size):
        done.append(np.asarray(predict(variables, batch["audio"]))[:, batch["mask"]])
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


def results(
    config,
    clips: Clips,
    split: folds.Split,
    views: np.ndarray,
    *,
    parameters: int,
    epochs: int,
    seconds: float,
    step: int,
) -> dict[str, Any]:
    """The object of results.json for one fold.

    Args:
        config: of the run.
        clips: the data set.
        split: who trained and who tests.
        views: (1 or more views, test clips, classes) probabilities; the first view is the clip as it is.
        parameters: number of them.
        epochs: trained.
        seconds: of training, over all restarts.
        step: of the checkpoint that was tested.
    """
    labels = clips.labels[list(split.test)]
    plain = views[0].argmax(-1)
    averaged = views.mean(axis=0).argmax(-1)
    table = metrics.confusion(labels, plain, len(clips.classes))
    correct, correct_tta = int((plain == labels).sum()), int((averaged == labels).sum())
    total = len(labels)
    tta = len(views) > 1
    return {
        "config_name": config.experiment,
        "data": {
            "name": config.data.name,
            "clips": len(clips),
            "classes": list(clips.classes),
            "fingerprint": clips.fingerprint,
            "sample_rate": clips.sample_rate,
            "bad_clips": clips.bad,
            "split": split.report(),
        },
        "protocol": config.protocol,
        "test_selected": config.protocol == "oracle",
        "folds": [
            {
                "fold": split.test_folds[0],
                "accuracy": correct / total,
                "accuracy_tta": correct_tta / total if tta else None,
                "correct": correct,
                "correct_tta": correct_tta if tta else None,
                "total": total,
                "epochs": epochs,
                "seconds": round(seconds, 1),
            }
        ],
        "accuracy": metrics.over_folds([correct], [total]),
        "accuracy_tta": metrics.over_folds([correct_tta], [total]) if tta else None,
        "tta_views": len(views) if tta else 0,
        "per_class": metrics.per_class(table, clips.classes),
        "confusion": table.tolist(),
        "parameters": parameters,
        "checkpoint_step": step,
        "device": device_name(),
        "versions": versions(),
    }


def write_predictions(path: pathlib.Path, clips: Clips, split: folds.Split, views: np.ndarray) -> None:
    """predictions.csv: a row per test clip, with the probabilities of the clip as it is and of the average of views."""
    labels = clips.labels[list(split.test)]
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        header = ["clip", "fold", "source", "true", "predicted", "predicted_tta"]
        writer.writerow([*header, *clips.classes, *(f"{c}_tta" for c in clips.classes if len(views) > 1)])
        for row, index in enumerate(split.test):
            plain, averaged = views[0, row], views.mean(axis=0)[row]
            writer.writerow(
                [
                    clips.filenames[index],
                    clips.folds[index],
                    clips.sources[index],
                    clips.classes[labels[row]],
                    clips.classes[plain.argmax()],
                    clips.classes[averaged.argmax()],
                    *(f"{p:.6g}" for p in plain),
                    *(f"{p:.6g}" for p in averaged if len(views) > 1),
                ]
            )


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
