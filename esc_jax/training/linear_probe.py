"""Linear heads and nearest neighbours on frozen embeddings, for all splits and strengths in one program.

A head solves, on embeddings z standardized over its training clips (those with weights wᵢ above 0):

    min over W, b of  Σᵢ wᵢ loss(zᵢ W + b, yᵢ) / Σᵢ wᵢ + λ/2 ‖W‖²

with the task's loss, whose gradient with respect to the logits is activation − target. The problem is convex. Its
Hessian is at most h ZᵀZ/n + λ with the task's `hessian_bound` h (for the softmax, ½: Böhning, "Multinomial logistic
regression algorithm", 1992). This matrix does not depend on W and is diagonal in the eigenvectors of ZᵀZ. Steps by its
inverse always descend and need no line search. They are accelerated (Nesterov), with a restart where the objective
increases (O'Donoghue and Candès, 2015).
"""

from collections.abc import Sequence
import functools
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from esc_jax.data.folds import BACKGROUND_FOLD
from esc_jax.tasks.base import Task

_PRECISION = jax.lax.Precision.HIGHEST


class SettingScores(Protocol):
    """(settings, N, C) scores of each of M masks: an array, or computed on access."""

    def __getitem__(self, mask: int, /) -> np.ndarray: ...


class Heads(NamedTuple):
    """Linear heads on embeddings that are not standardized: logits = x · kernel + bias.

    kernel (…, D, C), bias (…, C), and gradient (…), the largest component of the gradient at the solution.
    """

    kernel: jax.Array
    bias: jax.Array
    gradient: jax.Array


def _solve(
    z: jax.Array, target: jax.Array, weight: jax.Array, l2: jax.Array, start: jax.Array, task: Task, steps: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Kernel (D, C), bias (C,) and remaining gradient of one problem."""
    share = (weight / weight.sum())[:, None]
    values, vectors = jnp.linalg.eigh(jnp.matmul((z * share).T, z, precision=_PRECISION))
    curvature = task.hessian_bound * jnp.maximum(values, 0.0)[:, None] + l2

    def gradient(kernel: jax.Array, bias: jax.Array) -> tuple[jax.Array, jax.Array]:
        error = (task.activation(z @ kernel + bias[None]) - target) * share
        return z.T @ error + l2 * kernel, error.sum(0)

    def step(carry: Any, _: None) -> tuple[Any, None]:
        kernel, bias, ahead, bias_ahead, t = carry
        slope, bias_slope = gradient(ahead, bias_ahead)
        new = ahead - vectors @ ((vectors.T @ slope) / curvature)
        new_bias = bias_ahead - bias_slope / task.hessian_bound
        uphill = (slope * (new - kernel)).sum() > 0
        t_new = jnp.where(uphill, 1.0, (1.0 + jnp.sqrt(1.0 + 4.0 * t * t)) / 2.0)
        momentum = jnp.where(uphill, 0.0, (t - 1.0) / t_new)
        carry = (new, new_bias, new + momentum * (new - kernel), new_bias + momentum * (new_bias - bias), t_new)
        return carry, None

    bias = jnp.zeros(target.shape[1])
    (kernel, bias, *_), _ = jax.lax.scan(step, (start, bias, start, bias, jnp.float32(1.0)), length=steps)
    slope, bias_slope = gradient(kernel, bias)
    return kernel, bias, jnp.maximum(jnp.abs(slope).max(), jnp.abs(bias_slope).max())


@functools.partial(jax.jit, static_argnames=("task", "classes", "steps"))
def fit(
    x: jax.Array, labels: jax.Array, weights: jax.Array, l2: jax.Array, seeds: jax.Array, *, task: Task, classes: int,
    steps: int,
) -> Heads:  # fmt: skip
    """Heads for M splits × L strengths × S seeds.

    Args:
        x: (N, D) embeddings.
        labels: (N, …) in the form of the task.
        weights: (M, N) of the clips in each split, 0 for those that do not train.
        l2: (L,) strengths λ.
        seeds: (S,) of the starting points. The problem is convex: seeds differ only where the solver has not converged.
        task: loss and activation.
        classes: C.
        steps: of the solver.

    Returns:
        Heads with leading axes (M, L, S).
    """
    target = task.targets(labels, classes)

    def split(weight: jax.Array) -> Heads:
        share = weight / weight.sum()
        mean = jnp.matmul(share, x, precision=_PRECISION)
        scale = jax.lax.rsqrt(jnp.matmul(share, (x - mean[None]) ** 2, precision=_PRECISION) + 1e-12)
        z = (x - mean[None]) * scale[None]

        def one(l2: jax.Array, seed: jax.Array) -> Heads:
            start = 0.01 * jax.random.normal(jax.random.key(seed), (x.shape[1], classes))
            kernel, bias, gradient = _solve(z, target, weight, l2, start, task, steps)
            kernel = kernel * scale[:, None]
            return Heads(kernel, bias - jnp.matmul(mean, kernel, precision=_PRECISION), gradient)

        return jax.vmap(jax.vmap(one, (None, 0)), (0, None))(l2, seeds)

    # Splits in sequence: the heads of a split share standardized embeddings, which fit in the cache.
    return jax.lax.map(split, weights)


@functools.partial(jax.jit, static_argnames=("task", "classes", "ks"))
def knn_scores(
    x: jax.Array, labels: jax.Array, weights: jax.Array, *, task: Task, classes: int, ks: Sequence[int]
) -> jax.Array:
    """(M, len(ks), N, C) weighted mean targets of the k nearest training clips.

    Similarity s is the cosine, the weight of a neighbour e^{s/0.07} (Z. Wu et al., "Unsupervised feature learning via
    non-parametric instance discrimination", CVPR 2018). A clip is not its own neighbour. Where there are fewer than k
    training clips, all of them count.

    Args:
        x, labels, weights, task, classes: as in `fit`.
        ks: numbers of neighbours.
    """
    ks = [min(k, len(x)) for k in ks]
    unit = x / jnp.maximum(jnp.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    cosine = jnp.matmul(unit, unit.T, precision=_PRECISION)
    cosine = jnp.where(jnp.eye(len(x), dtype=bool), -jnp.inf, cosine)
    target = task.targets(labels, classes)

    def split(weight: jax.Array) -> jax.Array:
        nearest, index = jax.lax.top_k(jnp.where(weight[None] > 0, cosine, -jnp.inf), max(ks))
        strength = jnp.exp(nearest / 0.07 - nearest[:, :1] / 0.07)  # 1 for the nearest
        sums = jnp.cumsum(strength[..., None] * target[index], axis=1)[:, jnp.array(ks) - 1]
        totals = jnp.cumsum(strength, axis=1)[:, jnp.array(ks) - 1, None]
        return jnp.moveaxis(sums / totals, 1, 0)

    return jax.lax.map(split, weights)


def exclusion_masks(folds: ArrayLike, test_folds: Sequence[int]) -> dict[frozenset[int], np.ndarray]:
    """Training masks (N,) by the set of folds that they exclude.

    The mask that excludes {t} trains the head that is tested on fold t. Those that exclude {t, v} choose its
    regularization on fold v without t. One mask serves t and v alike. A test fold without clips, such as
    `data.folds.NO_FOLD`, gives a head that is trained on all clips. Clips of `BACKGROUND_FOLD` are in every mask.
    """
    fold_of = np.asarray(folds)
    available = sorted(set(fold_of.tolist()) - {BACKGROUND_FOLD})
    excluded = [frozenset((t,)) for t in test_folds]
    excluded += sorted({frozenset((t, v)) for t in test_folds for v in available if v != t}, key=sorted)
    return {names: ~np.isin(fold_of, list(names)) for names in excluded}


def select_settings(
    task: Task, labels: np.ndarray, scores: SettingScores, excluded: Sequence[frozenset[int]], folds: ArrayLike,
    test_folds: Sequence[int],
) -> dict[int, int]:  # fmt: skip
    """For each test fold, the setting with the best validation score; the first of equal ones.

    Each training fold is scored by heads that were trained without it and without the test fold. The score is the sum
    of the task's metric over these folds, weighted by their clips.

    Args:
        task: whose metric counts.
        labels: (N, …).
        scores: for each of M masks, (settings, N, C). Each is accessed once.
        excluded: folds that each mask excludes.
        folds: (N,) of the clips.
        test_folds: the test folds.
    """
    fold_of = np.asarray(folds)
    totals: dict[int, np.ndarray | float] = dict.fromkeys(test_folds, 0.0)
    for mask, names in enumerate(excluded):
        if len(names) != 2:
            continue
        of_mask = scores[mask]
        for test_fold in names & set(test_folds):
            (fold,) = names - {test_fold}
            inside = fold_of == fold
            per_setting = [task.score(labels[inside], setting[inside]) for setting in of_mask]
            totals[test_fold] = totals[test_fold] + inside.sum() * np.array(per_setting)
    return {fold: int(np.round(total, 6).argmax()) for fold, total in totals.items()}
