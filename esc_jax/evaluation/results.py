"""Predictions of test folds, and the results computed from them."""

from collections.abc import Mapping, Sequence
import csv
import dataclasses
import importlib.metadata
import json
import pathlib
import platform
from typing import Any

import numpy as np

from esc_jax import files
from esc_jax.augment.views import ROTATIONS
from esc_jax.data.clips import Clips
from esc_jax.data.rows import DataError
from esc_jax.errors import Failure
from esc_jax.evaluation import confidence
from esc_jax.evaluation.escaping import escape_cell, restore_cell
from esc_jax.runtime.devices import device_name
from esc_jax.tasks.base import Task


class DamagedResultsError(Failure):
    """results.json or predictions.csv is not what a run wrote. The message is one sentence."""


def versions() -> dict[str, str]:
    """Versions of the packages that numbers depend on."""
    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in names}


@dataclasses.dataclass(frozen=True)
class FoldPredictions:
    """Predictions of one run on the clips of its test fold.

    Attributes:
        fold: the test fold.
        seed: of the run.
        indices: (n,) of the test clips.
        plain: (n, classes) probabilities of the clips.
        averaged: (n, classes) mean probabilities over the views of test-time augmentation; None without.
        epochs, seconds: of training, over all restarts.
        thresholds: (classes,) of the decisions on `plain`; None for tasks that decide without.
    """

    fold: int
    seed: int
    indices: np.ndarray
    plain: np.ndarray
    averaged: np.ndarray | None
    epochs: int
    seconds: float
    thresholds: np.ndarray | None = None


def fold_predictions(
    fold: int,
    seed: int,
    indices: Sequence[int],
    views: np.ndarray,
    epochs: int,
    seconds: float,
    thresholds: np.ndarray | None = None,
) -> FoldPredictions:
    """`FoldPredictions` of (views, n, classes) probabilities. The first view is the clip itself."""
    averaged = views.mean(axis=0) if len(views) > 1 else None
    return FoldPredictions(fold, seed, np.asarray(indices), views[0], averaged, epochs, seconds, thresholds)


def view_kind(config: Any) -> str:
    """The views of a config as results name them: "rotations", or "crops, logits" where logits are averaged."""
    return config.eval.views + (", logits" if config.eval.view_average == "logits" else "")


def stored_view_kind(outcome: Mapping[str, Any]) -> str:
    """`view_kind` of the object of results.json; empty without views. Earlier versions had rotations only."""
    return str(outcome.get("tta_kind") or (ROTATIONS if outcome.get("tta_views") else ""))


def over_runs(task: Task, runs: Sequence[tuple[np.ndarray, np.ndarray]], recordings: Sequence[Any]) -> dict[str, Any]:
    """The primary metric over runs: `mean`, `std` (n − 1; None for one run) and `ci95`.

    The interval is that of `confidence.mean_interval` or `confidence.score_interval`.

    Args:
        task: whose metric is computed.
        runs: of each run (a fold, with a seed), labels (n, …) and probabilities (n, classes).
        recordings: of each run, (n,) source recordings of its clips.
    """
    shares = np.array([task.score(labels, scores) for labels, scores in runs])
    std = float(shares.std(ddof=1)) if len(shares) > 1 else None
    values = [task.clip_scores(labels, scores) for labels, scores in runs]
    per_clip = [value for value in values if value is not None]
    if len(per_clip) == len(values):
        sizes = np.concatenate([np.full(len(value), len(value)) for value in per_clip])
        weights = len(sizes) / (len(per_clip) * sizes)  # every run counts alike, as in the mean
        interval = confidence.mean_interval(np.concatenate(per_clip), np.concatenate(recordings), weights=weights)
    else:
        interval = confidence.score_interval(task, runs, recordings)
    return {"mean": float(shares.mean()), "std": std, "ci95": [interval.low, interval.high]}


def other_metrics(task: Task, folds: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Mean over folds of the metrics beside the primary one, by their written name; those that are defined."""
    values = {
        name: [fold[key] for fold in folds if fold.get(key) is not None] for key, name in task.other_metrics.items()
    }
    return {name: sum(of_folds) / len(of_folds) for name, of_folds in values.items() if of_folds}


def results(
    config: Any,
    task: Task,
    clips: Clips,
    parts: Sequence[FoldPredictions],
    split: str,
    *,
    parameters: int,
    step: int | None = None,
) -> dict[str, Any]:
    """The object of results.json.

    Args:
        config: of the run.
        task: what the labels mean.
        clips: the data set.
        parts: predictions of each fold, and of each seed where there are several; none under the protocol `all`.
        split: description of the training and test clips.
        parameters: number of parameters.
        step: of the tested checkpoint, for a single run.
    """
    known = {
        "config_name": config.experiment,
        "task": task.name,
        "data": {
            "name": config.data.name,
            "clips": len(clips),
            "classes": list(clips.classes),
            "fingerprint": clips.fingerprint,
            "identity": clips.identity,
            "sample_rate": clips.sample_rate,
            "bad_clips": clips.bad,
            "grouping": dataclasses.asdict(clips.grouping),
            "background_clips": len(clips.background) if clips.background else 0,
            "split": split,
        },
        "protocol": config.protocol,
        "test_selected": config.protocol == "oracle",
    }
    return (
        known
        | _tested(config, task, clips, parts)
        | {
            "parameters": parameters,
            "checkpoint_step": step,
            "device": device_name(),
            "versions": versions(),
        }
    )


def _tested(config: Any, task: Task, clips: Clips, parts: Sequence[FoldPredictions]) -> dict[str, Any]:
    """The entries of results.json that are computed from predictions."""
    if not parts:
        return {"folds": [], task.metric: None, f"{task.metric}_tta": None, "tta_views": 0, "tta_kind": ""}
    labels = [clips.labels[part.indices] for part in parts]
    recordings = [[clips.sources[i] for i in part.indices] for part in parts]
    plain = [part.plain for part in parts]
    averaged = [part.averaged for part in parts if part.averaged is not None]
    tta = len(averaged) == len(parts)
    folds = [
        {"fold": part.fold, "seed": part.seed}
        | task.fold_metrics(truth, part.plain, part.averaged if tta else None, part.thresholds)
        | {"epochs": part.epochs, "seconds": round(part.seconds, 1)}
        | ({} if part.thresholds is None else {"thresholds": np.asarray(part.thresholds).tolist()})
        for part, truth in zip(parts, labels, strict=True)
    ]
    thresholds = [np.broadcast_to(p.thresholds, p.plain.shape) for p in parts if p.thresholds is not None]
    return {
        "folds": folds,
        task.metric: over_runs(task, list(zip(labels, plain, strict=True)), recordings),
        f"{task.metric}_tta": over_runs(task, list(zip(labels, averaged, strict=True)), recordings) if tta else None,
        "tta_views": config.eval.tta if tta else 0,
        "tta_kind": view_kind(config) if tta else "",
        **task.details(
            np.concatenate(labels),
            np.concatenate(plain),
            clips.classes,
            np.concatenate(thresholds) if len(thresholds) == len(parts) else None,
        ),
    }


def write_results(path: pathlib.Path, outcome: dict[str, Any]) -> None:
    """Writes results.json with the checksums of predictions.csv beside it, where there is one, and of itself."""
    predictions = path.parent / "predictions.csv"
    (checksum,) = files.checksums([predictions])
    outcome = outcome | {"predictions_checksum": list(checksum) if checksum else None}
    files.write_json(path, outcome | {"crc32": files.json_checksum(outcome)})


def has_changed(outcome: dict[str, Any]) -> bool:
    """Whether the content of a results.json differs from what was written. One without a checksum has not changed."""
    rest = {key: value for key, value in outcome.items() if key != "crc32"}
    return "crc32" in outcome and outcome["crc32"] != files.json_checksum(rest)


def read_results(path: pathlib.Path) -> dict[str, Any]:
    """Reads results.json.

    Raises:
        DamagedResultsError: it cannot be read, or the file or predictions.csv beside it has changed since it was
            written.
    """
    try:
        outcome = json.loads(path.read_text(encoding="utf-8"))
        changed = has_changed(outcome)
        del outcome["crc32"]
    except OSError as error:
        raise DamagedResultsError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DamagedResultsError(f"{path} is incomplete, damaged, or of an earlier version") from None
    if changed:
        raise DamagedResultsError(f"{path} is damaged: its checksum does not match")
    predictions = path.parent / "predictions.csv"
    (checksum,) = files.checksums([predictions])
    if outcome["predictions_checksum"] != (list(checksum) if checksum else None):
        raise DamagedResultsError(f"{predictions} is damaged, missing, or belongs to other results")
    return outcome


def write_predictions(path: pathlib.Path, task: Task, clips: Clips, parts: Sequence[FoldPredictions]) -> None:
    """predictions.csv: a row for each test clip, with the probabilities of the clip and those averaged over views.

    Names are written with `escaping.escape_cell`. Probabilities have nine digits, which tell all float32 numbers apart.
    """
    names = clips.classes
    tta = all(part.averaged is not None for part in parts)
    with files.atomic_write(path, "w", newline="") as file:
        writer = csv.writer(file)
        header = ["clip", "fold", "source", "seed", "true", "predicted", "predicted_tta"]
        writer.writerow([*header, *map(escape_cell, names), *(escape_cell(f"{name}_tta") for name in names if tta)])
        for part in parts:
            averaged = part.averaged if part.averaged is not None and tta else part.plain
            limits = part.thresholds
            decisions = zip(task.decide(part.plain, limits), task.decide(averaged, limits), strict=True)
            for index, one, mean, decision in zip(part.indices, part.plain, averaged, decisions, strict=True):
                row = [escape_cell(clips.filenames[index]), clips.folds[index], escape_cell(clips.sources[index])]
                row += [part.seed]
                row += [escape_cell(task.label_text(label, names)) for label in (clips.labels[index], *decision)]
                writer.writerow([*row, *(f"{p:.9g}" for p in one), *(f"{p:.9g}" for p in mean if tta)])


def read_predictions(path: pathlib.Path, clips: Clips) -> FoldPredictions:
    """Predictions of a single run from its predictions.csv (nine digits) and the results.json beside it.

    Raises:
        DataError: the file is of other clips or classes.
        DamagedResultsError: a file is damaged.
    """
    fold = read_results(path.parent / "results.json")["folds"][0]  # which verifies both files
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    header, rows = list(map(restore_cell, rows[0])), [[restore_cell(row[0]), *row[1:]] for row in rows[1:]]
    first, count = header.index("predicted_tta") + 1, len(clips.classes)
    position = {name: index for index, name in enumerate(clips.filenames)}
    if tuple(header[first : first + count]) != clips.classes or any(row[0] not in position for row in rows):
        raise DataError(f"{path} belongs to other data than data.dir contains")
    numbers = np.array([[float(p) for p in row[first:]] for row in rows])
    thresholds = fold.get("thresholds")
    return FoldPredictions(
        fold=fold["fold"],
        seed=fold["seed"],
        indices=np.array([position[row[0]] for row in rows]),
        plain=numbers[:, :count],
        averaged=numbers[:, count:] if numbers.shape[1] > count else None,
        epochs=fold["epochs"],
        seconds=fold["seconds"],
        thresholds=None if thresholds is None else np.array(thresholds),
    )
