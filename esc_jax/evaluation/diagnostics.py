"""What a frozen encoder's embeddings are worth while it is being pretrained."""

from collections.abc import Sequence

import numpy as np

from esc_jax.training import linear_probe


def effective_rank(x: np.ndarray) -> float:
    """How many directions embeddings (N, D) use: e^H, H the entropy of their singular values' shares.

    D where all directions carry the same, 1 where the encoder has collapsed to a line. Rows are centred first.
    Source: Q. Garrido et al., "RankMe", ICML 2023.
    """
    values = np.linalg.svd(x - x.mean(0), compute_uv=False)
    share = values / max(values.sum(), 1e-12)
    return float(np.exp(-(share * np.log(np.maximum(share, 1e-12))).sum()))


def knn_accuracy(x: np.ndarray, labels: np.ndarray, folds: Sequence[int], classes: int, k: int = 5) -> float:
    """Accuracy of the k nearest neighbours' vote when every fold is looked up in the other ones.

    Args:
        x: (N, D).
        labels: (N,).
        folds: (N,); where there is one alone, a clip is looked up among all others.
        classes: number of them.
        k: neighbours.
    """
    folds = np.asarray(folds)
    have = sorted(set(folds.tolist()))
    weights = np.stack([folds != fold for fold in have]).astype(np.float32)
    if len(have) == 1:
        weights = np.ones_like(weights)
    votes = np.asarray(linear_probe.neighbours(x, labels, weights, classes=classes, ks=(k,)))[:, 0]
    hits = [(votes[m].argmax(-1) == labels)[folds == fold] for m, fold in enumerate(have)]
    return float(np.concatenate(hits).mean())
