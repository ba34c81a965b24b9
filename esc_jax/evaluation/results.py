"""Predictions of test folds and the results computed from them."""

from collections.abc import Sequence
import csv
import dataclasses
import json
import pathlib
import platform
from typing import Any

import numpy as np

from esc_jax import files
from esc_jax.data.clips import Clips
from esc_jax.data.source import DataError
from esc_jax.evaluation import confidence, metrics
from esc_jax.runtime.devices import device_name


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    import importlib.metadata

    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in names}


@dataclasses.dataclass(frozen=True)
class FoldPredictions:
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


def fold_predictions(
    fold: int, seed: int, indices: Sequence[int], views: np.ndarray, epochs: int, seconds: float
) -> FoldPredictions:
    """`FoldPredictions` of (views, n, classes) probabilities, the first view being the clip as it is."""
    averaged = views.mean(axis=0) if len(views) > 1 else None
    return FoldPredictions(fold, seed, np.asarray(indices), views[0], averaged, epochs, seconds)


def over_folds(hits: Sequence[np.ndarray], recordings: Sequence[Sequence[str]]) -> dict[str, object]:
    """`mean` and `std` (n − 1) of the accuracy over runs, and its 95 % interval by bootstrap over source recordings.

    std is None for one run: nothing varies there.

    Args:
        hits: of each run (a fold, with a seed), (n,) whether its clips are right.
        recordings: (n,) what they were cut from.
    """
    shares = np.array([np.mean(run) for run in hits])
    std = float(shares.std(ddof=1)) if len(shares) > 1 else None
    found = confidence.accuracy_interval(np.concatenate(hits), np.concatenate(recordings))
    return {"mean": float(shares.mean()), "std": std, "ci95": [found.low, found.high]}


def results(
    config, clips: Clips, parts: Sequence[FoldPredictions], split: str, *, parameters: int, step: int | None = None
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


def write_predictions(path: pathlib.Path, clips: Clips, parts: Sequence[FoldPredictions]) -> None:
    """predictions.csv: a row per test clip, with the probabilities of the clip as it is and of the average of views."""
    names = clips.classes
    tta = all(part.averaged is not None for part in parts)
    with files.atomic_write(path, "w", newline="") as file:
        writer = csv.writer(file)
        header = ["clip", "fold", "source", "seed", "true", "predicted", "predicted_tta"]
        writer.writerow([*header, *names, *(f"{name}_tta" for name in names if tta)])
        for part in parts:
            averaged = part.averaged if tta else part.plain
            for index, one, mean in zip(part.indices, part.plain, averaged, strict=True):
                row = [clips.filenames[index], clips.folds[index], clips.sources[index], part.seed]
                row += [names[clips.labels[index]], names[one.argmax()], names[mean.argmax()]]
                writer.writerow([*row, *(f"{p:.6g}" for p in one), *(f"{p:.6g}" for p in mean if tta)])


def read_predictions(path: pathlib.Path, clips: Clips) -> FoldPredictions:
    """The `FoldPredictions` of a single run's predictions.csv (probabilities to six digits), with its results.json beside it.

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
    return FoldPredictions(
        fold=found["fold"],
        seed=found["seed"],
        indices=np.array([place[row[0]] for row in rows]),
        plain=numbers[:, :count],
        averaged=numbers[:, count:] if numbers.shape[1] > count else None,
        epochs=found["epochs"],
        seconds=found["seconds"],
    )
