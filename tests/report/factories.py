"""Work directories of finished runs for the tests of the report, written by the functions that runs use."""

import pathlib
from typing import Any

import numpy as np

from esc_jax import config as configs
from esc_jax import files
from esc_jax.data.clips import Clips
from esc_jax.evaluation import results
from esc_jax.tasks import registry as tasks

CLASSES = ("rain", "sea_waves", "dog", "cat")
CLIPS_PER_FOLD = 24  # two of each recording
RATE = 16_000

# Mistakes in a fold: position of the clip → predicted class. Clip i is of class i mod 4.
GOOD = {0: 1, 4: 1, 5: 0}
POOR = {0: 1, 1: 0, 2: 3, 3: 2, 6: 3, 7: 2, 10: 3, 11: 2}


def fold_labels(clips: Clips, fold: int) -> list[int]:
    return [int(label) for label, clip_fold in zip(clips.labels, clips.folds, strict=True) if clip_fold == fold]


def fold_scores(
    labels: list[int], mistakes: dict[int, int], confidence: float, tta_mistakes: dict[int, int] | None = None
) -> np.ndarray:
    """(views, n, classes) probabilities.

    Args:
        labels: (n,) of the clips.
        mistakes: position → predicted class. All other clips are predicted correctly.
        confidence: probability of the predicted class; the others share the rest.
        tta_mistakes: the mistakes of the mean over views. None returns a single view.
    """
    shape = (1 if tta_mistakes is None else 2, len(labels), len(CLASSES))
    views = np.full(shape, (1 - confidence) / 3, np.float32)
    for position, label in enumerate(labels):
        views[0, position, mistakes.get(position, label)] = confidence
        if tta_mistakes is not None:
            views[1, position] = 0.0
            views[1, position, tta_mistakes.get(position, label)] = 1.0
    return views


def write_run(
    folder: pathlib.Path,
    clips: Clips,
    data_dir: pathlib.Path,
    tests: list[tuple[int, int, np.ndarray]],
    *,
    name: str = "method",
    protocol: str = "holdout",
    task: str = "single_label",
    seconds: float = 90.0,
    thresholds: np.ndarray | None = None,
    **extra: Any,
) -> pathlib.Path:
    """Writes results.json, predictions.csv and config.json of a run.

    Args:
        folder: work directory; created.
        clips: the data set.
        data_dir: data.dir of the config.
        tests: (test fold, seed, probabilities as from `fold_scores`).
        name, protocol, task: of the config.
        seconds: training time of each test.
        thresholds: of the decisions of a multi-label run.
        extra: more entries of results.json.
    """
    config = configs.defaults(model="resnet")
    config.experiment, config.protocol, config.data.dir, config.data.clip_s = name, protocol, str(data_dir), 1.0
    config.data.name, config.eval.tta, config.task = "esc50", 2, task
    labels = tasks.get(task)
    parts = []
    for fold, seed, views in tests:
        indices = [index for index, clip_fold in enumerate(clips.folds) if clip_fold == fold]
        parts.append(results.fold_predictions(fold, seed, indices, views, 3, seconds, thresholds))
    folder.mkdir(parents=True)
    content = results.results(config, labels, clips, parts, "description of the split", parameters=1_234_567) | extra
    if parts:
        results.write_predictions(folder / "predictions.csv", labels, clips, parts)
    files.write_json(folder / "results.json", content)
    files.write_json(folder / "config.json", config.to_dict())
    return folder
