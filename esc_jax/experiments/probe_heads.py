"""Linear heads and nearest neighbours on frozen embeddings, for all folds and regularization strengths in one program.

The regularization of a test fold's head is chosen inside its training folds: each of them is validated once, on heads
that were trained without it and without the test fold. The head is then trained on all training folds.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math

import numpy as np

from esc_jax.data import folds as protocols
from esc_jax.data.clips import Clips
from esc_jax.data.folds import Split
from esc_jax.data.rows import DataError
from esc_jax.evaluation.calibration import Calibration
from esc_jax.tasks.base import Task
from esc_jax.training import linear_probe

L2 = (0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 0.003, 0.001)  # strongest first: of equal strengths the first is chosen
NEIGHBOURS = (50, 20, 10, 5, 3, 1)
STEPS = 100  # of the solver
FITTED_ON = "the training folds, each held out once"


@dataclasses.dataclass(frozen=True)
class ProbeResult:
    """The head of one test fold.

    Attributes:
        fold: the test fold.
        l2: the chosen strength.
        kernel, bias: (D, C), (C,) of the head, on embeddings that are not standardized.
        validation: primary metric of that strength on the training folds, each held out once.
        calibration: fitted on these held-out predictions.
        spread: largest difference of a probability between seeds on the test fold; 0 with one seed. The problem is
            convex, so this is the error of the solver.
        neighbours: the chosen number of nearest neighbours.
        knn_score: primary metric of the nearest neighbours on the test fold; NaN without a test fold.
    """

    fold: int
    l2: float
    kernel: np.ndarray
    bias: np.ndarray
    validation: float
    calibration: Calibration
    spread: float
    neighbours: int
    knn_score: float


def head_logits(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """x · kernel + bias: (…, n, D), (…, D, C), (…, C) → (…, n, C)."""
    return np.matmul(x, kernel) + bias[..., None, :]


def fit(
    task: Task, x: np.ndarray, labels: np.ndarray, folds: Sequence[int], test_folds: Sequence[int], classes: int, *,
    l2: Sequence[float] = L2, seeds: int = 1, excluded: np.ndarray | None = None, balanced: bool = False,
) -> list[ProbeResult]:  # fmt: skip
    """Heads for every test fold.

    Args:
        task: loss and metric.
        x: (views, N, D) embeddings. The strength is chosen on the clips themselves, x[0]. The tested head is trained
            on all views.
        labels: (N, …).
        folds: (N,).
        test_folds: the test folds; `data.folds.NO_FOLD` for a head that is trained on all clips.
        classes: C.
        l2: strengths to choose from.
        seeds: number of starting points of the solver.
        excluded: (N,) bool, clips that no head is trained on, and on which nothing is chosen or calibrated.
        balanced: whether every class has the same weight in the loss, whatever the number of its clips.

    Raises:
        DataError: a test fold leaves fewer than two folds to choose the strength on.
    """
    fold_of = np.asarray(folds)
    allowed = np.ones(len(fold_of), bool) if excluded is None else ~excluded
    inner = np.where(allowed, fold_of, protocols.BACKGROUND_FOLD)  # a fold that nothing is validated on
    masks = {names: mask & allowed for names, mask in linear_probe.exclusion_masks(inner, test_folds).items()}
    if not all(mask.any() for mask in masks.values()):
        raise DataError("a probe needs at least three folds: two training folds to choose its regularization, one test")
    names, weights = list(masks), np.stack(list(masks.values())).astype(np.float32)
    if balanced:
        for mask, weight in zip(masks.values(), weights, strict=True):
            weight[mask] = task.sampling_weights(np.asarray(labels)[mask], classes)
    shape = {"task": task, "classes": classes}
    heads = linear_probe.fit(x[0], labels, weights, np.asarray(l2, np.float32), np.arange(1), steps=STEPS, **shape)
    kernel, bias = np.asarray(heads.kernel)[:, :, 0], np.asarray(heads.bias)[:, :, 0]
    # One mask at a time: the logits of all heads together would take gigabytes.
    choices = linear_probe.select_settings(task, labels, _Logits(x[0], kernel, bias), names, inner, test_folds)
    votes = np.asarray(linear_probe.knn_scores(x[0], labels, weights, ks=NEIGHBOURS, **shape))
    neighbours = linear_probe.select_settings(task, labels, votes, names, inner, test_folds)
    problem = _Problem(task, x, labels, fold_of, classes, dict(zip(names, weights, strict=True)), seeds)
    outcomes = []
    for fold in test_folds:
        setting = choices[fold]
        held_out = []
        for mask, pair in enumerate(names):
            if fold in pair and len(pair) == 2:
                validated = np.isin(inner, list(pair - {fold}))
                logits = x[0][validated] @ kernel[mask, setting] + bias[mask, setting]
                held_out.append((logits, labels[validated]))
        logits, truth = (np.concatenate(parts) for parts in zip(*held_out, strict=True))
        nearest = neighbours[fold]
        inside = fold_of == fold
        votes_of_fold = votes[names.index(frozenset((fold,))), nearest]
        knn = task.score(labels[inside], votes_of_fold[inside]) if inside.any() else math.nan
        weight, offset, spread = _final_head(problem, fold, l2[setting])
        outcomes.append(
            ProbeResult(
                fold=fold,
                l2=l2[setting],
                kernel=weight,
                bias=offset,
                validation=task.score(truth, logits),
                calibration=Calibration.held_out(task, logits, truth, FITTED_ON),
                spread=spread,
                neighbours=NEIGHBOURS[nearest],
                knn_score=knn,
            )
        )
    return outcomes


class _Logits:
    """(settings, N, C) logits of each mask's heads, computed when they are asked for."""

    def __init__(self, x: np.ndarray, kernel: np.ndarray, bias: np.ndarray):
        self._x, self._kernel, self._bias = x, kernel, bias

    def __getitem__(self, mask: int, /) -> np.ndarray:
        return np.stack([self._x @ k + b for k, b in zip(self._kernel[mask], self._bias[mask], strict=True)])


@dataclasses.dataclass(frozen=True)
class _Problem:
    """Arguments of `fit`, with the weights of the clips for each set of excluded folds."""

    task: Task
    x: np.ndarray
    labels: np.ndarray
    folds: np.ndarray
    classes: int
    weights: Mapping[frozenset[int], np.ndarray]
    seeds: int


def _final_head(problem: _Problem, fold: int, l2: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Kernel and bias of the head of a test fold, and the largest difference of a probability between seeds."""
    x, views = problem.x, len(problem.x)
    weights = np.tile(problem.weights[frozenset((fold,))], views)[None]
    heads = linear_probe.fit(
        x.reshape(-1, x.shape[-1]),
        np.tile(problem.labels, (views,) + (1,) * (problem.labels.ndim - 1)),
        weights,
        np.asarray([l2], np.float32),
        np.arange(problem.seeds),
        task=problem.task,
        classes=problem.classes,
        steps=STEPS,
    )
    kernel, bias = np.asarray(heads.kernel)[0, 0], np.asarray(heads.bias)[0, 0]
    tested = x[0] if fold == protocols.NO_FOLD else x[0][problem.folds == fold]
    probabilities = problem.task.probabilities(head_logits(tested[None], kernel, bias))
    return kernel[0], bias[0], float(np.abs(probabilities - probabilities[:1]).max())


def fit_split(task: Task, x: np.ndarray, clips: Clips, split: Split) -> ProbeResult:
    """The head of a split's test fold, trained on its training clips; `x` as in `fit`, of all clips."""
    excluded = ~np.isin(np.arange(len(clips)), split.train)
    test_folds = split.test_folds or (protocols.NO_FOLD,)
    (head,) = fit(task, x, clips.labels, clips.folds, test_folds, len(clips.classes), excluded=excluded)
    return head
