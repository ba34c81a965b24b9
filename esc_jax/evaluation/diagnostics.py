"""Diagnostics of embeddings during pretraining."""

from collections.abc import Sequence

import numpy as np

from esc_jax.tasks.base import Task
from esc_jax.training import linear_probe


def effective_rank(x: np.ndarray) -> float:
    """e^H of embeddings (N, D), where H is the entropy of their normalized singular values.

    It is D where all directions have the same variance, and 1 where the encoder has collapsed to a line. Rows are
    centred first. Source: Q. Garrido et al., "RankMe", ICML 2023.
    """
    values = np.linalg.svd(x - x.mean(0), compute_uv=False)
    share = values / max(values.sum(), 1e-12)
    return float(np.exp(-(share * np.log(np.maximum(share, 1e-12))).sum()))


def knn_score(task: Task, x: np.ndarray, labels: np.ndarray, folds: Sequence[int], classes: int, k: int = 5) -> float:
    """The task's metric of k nearest neighbours, where each fold is classified by the other ones.

    Args:
        task: of the labels.
        x: (N, D) embeddings.
        labels: (N, …).
        folds: (N,). With a single fold, a clip is classified by all other clips.
        classes: number of classes.
        k: number of neighbours.
    """
    fold_of = np.asarray(folds)
    available = sorted(set(fold_of.tolist()))
    weights = np.stack([fold_of != fold for fold in available]).astype(np.float32)
    if len(available) == 1:
        weights = np.ones_like(weights)
    scores = np.asarray(linear_probe.knn_scores(x, labels, weights, task=task, classes=classes, ks=(k,)))[:, 0]
    combined = np.zeros_like(scores[0])
    for row, fold in enumerate(available):
        combined[fold_of == fold] = scores[row][fold_of == fold]
    return task.score(labels, combined)
