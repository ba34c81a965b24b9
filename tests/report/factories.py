"""Runs for the tests of the report, as the real writers leave them, and the data set that they are of."""

import numpy as np

from esc_jax import config
from esc_jax.evaluation import results
from esc_jax.training import writers

CLASSES = ("rain", "sea_waves", "dog", "cat")
PER_FOLD = 24  # clips; two of each recording
RATE = 16_000

# Places in a fold, by class: rain 0, 4, 8 …; sea waves 1, 5, 9 …; dog 2, 6 …; cat 3, 7 ….
GOOD = {0: 1, 4: 1, 5: 0}
POOR = {0: 1, 1: 0, 2: 3, 3: 2, 6: 3, 7: 2, 10: 3, 11: 2}


def views_of(labels, wrong, confidence, tta_wrong=None):
    """(views, n, classes): right with `confidence` where not in `wrong` (place → predicted class); the second view
    makes the average right everywhere but in `tta_wrong`."""
    views = np.full((1 if tta_wrong is None else 2, len(labels), len(CLASSES)), (1 - confidence) / 3, np.float32)
    for place, label in enumerate(labels):
        views[0, place, wrong.get(place, label)] = confidence
        if tta_wrong is not None:
            views[1, place] = 0.0
            views[1, place, tta_wrong.get(place, label)] = 1.0
    return views


def leave(folder, clips, tree, tests, *, name="method", protocol="holdout", seconds=90.0, **extra):
    """A run's folder, by the writers of esc_jax.evaluate. `tests` is a list of (fold, seed, views)."""
    made = config.defaults(model="resnet")
    made.experiment, made.protocol, made.data.dir, made.data.clip_s = name, protocol, str(tree), 1.0
    made.data.name, made.eval.tta = "esc50", 2
    parts = []
    for fold, seed, views in tests:
        indices = [i for i, f in enumerate(clips.folds) if f == fold]
        parts.append(results.fold_predictions(fold, seed, indices, views, 3, seconds))
    folder.mkdir(parents=True)
    found = results.results(made, clips, parts, "split in words", parameters=1_234_567) | extra
    results.write_predictions(folder / "predictions.csv", clips, parts)
    writers.write_json(folder / "results.json", found)
    writers.write_json(folder / "config.json", made.to_dict())
    return folder


def labels_of(clips, fold):
    return [int(label) for label, f in zip(clips.labels, clips.folds, strict=True) if f == fold]
