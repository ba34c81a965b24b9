"""Linear heads on frozen embeddings: every split, strength of regularisation and seed in one vmapped program; and kNN.

The problem of one head, on embeddings standardised over its own training clips (weights wᵢ are 0 or 1):

    min over W, b of  Σᵢ wᵢ CE(softmax(zᵢ W + b), yᵢ) / Σᵢ wᵢ + λ/2 ‖W‖²

It is convex. Its Hessian is nowhere above ½ ZᵀZ/n + λ (Böhning, "Multinomial logistic regression algorithm", 1992), a
matrix that does not depend on W and is diagonal in the eigenvectors of ZᵀZ: steps by its inverse always descend, need
no line search, and are accelerated as Nesterov's, restarting where they go uphill (O'Donoghue and Candès, 2015).
"""

from collections.abc import Sequence
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_PRECISION = jax.lax.Precision.HIGHEST


class Heads(NamedTuple):
    """Linear heads on embeddings as they are, the standardisation folded in: logits = x · kernel + bias.

    kernel (…, D, C), bias (…, C), and gradient (…), the largest component of the gradient where the solver stopped.
    """

    kernel: jax.Array
    bias: jax.Array
    gradient: jax.Array


def _solve(z: jax.Array, target: jax.Array, weight: jax.Array, l2: jax.Array, start: jax.Array, steps: int):
    """Kernel (D, C), bias (C,) and remaining gradient of one problem."""
    share = (weight / weight.sum())[:, None]
    values, vectors = jnp.linalg.eigh(jnp.matmul((z * share).T, z, precision=_PRECISION))
    curvature = 0.5 * jnp.maximum(values, 0.0)[:, None] + l2

    def gradient(kernel: jax.Array, bias: jax.Array) -> tuple[jax.Array, jax.Array]:
        error = (jax.nn.softmax(z @ kernel + bias[None]) - target) * share
        return z.T @ error + l2 * kernel, error.sum(0)

    def step(carry, _):
        kernel, bias, ahead, bias_ahead, t = carry
        slope, bias_slope = gradient(ahead, bias_ahead)
        new = ahead - vectors @ ((vectors.T @ slope) / curvature)
        new_bias = bias_ahead - 2.0 * bias_slope
        uphill = (slope * (new - kernel)).sum() > 0
        t_new = jnp.where(uphill, 1.0, (1.0 + jnp.sqrt(1.0 + 4.0 * t * t)) / 2.0)
        pace = jnp.where(uphill, 0.0, (t - 1.0) / t_new)
        carry = (new, new_bias, new + pace * (new - kernel), new_bias + pace * (new_bias - bias), t_new)
        return carry, None

    bias = jnp.zeros(target.shape[1])
    (kernel, bias, *_), _ = jax.lax.scan(step, (start, bias, start, bias, jnp.float32(1.0)), length=steps)
    slope, bias_slope = gradient(kernel, bias)
    return kernel, bias, jnp.maximum(jnp.abs(slope).max(), jnp.abs(bias_slope).max())


@functools.partial(jax.jit, static_argnames=("classes", "steps"))
def fit(
    x: jax.Array, labels: jax.Array, weights: jax.Array, l2: jax.Array, seeds: jax.Array, *, classes: int, steps: int
) -> Heads:
    """Heads for M splits × L strengths × S seeds.

    Args:
        x: (N, D) embeddings.
        labels: (N,) int.
        weights: (M, N), 1 for the clips a split trains on and 0 for the others.
        l2: (L,) strengths λ.
        seeds: (S,) of the starting points. The problem is convex: where seeds differ the solver has not converged.
        classes: C.
        steps: of the solver.

    Returns:
        Heads with leading axes (M, L, S).
    """
    target = jax.nn.one_hot(labels, classes)

    def split(weight: jax.Array) -> Heads:
        share = weight / weight.sum()
        mean = jnp.matmul(share, x, precision=_PRECISION)
        scale = jax.lax.rsqrt(jnp.matmul(share, (x - mean[None]) ** 2, precision=_PRECISION) + 1e-12)
        z = (x - mean[None]) * scale[None]

        def one(l2: jax.Array, seed: jax.Array) -> Heads:
            start = 0.01 * jax.random.normal(jax.random.key(seed), (x.shape[1], classes))
            kernel, bias, gradient = _solve(z, target, weight, l2, start, steps)
            kernel = kernel * scale[:, None]
            return Heads(kernel, bias - jnp.matmul(mean, kernel, precision=_PRECISION), gradient)

        return jax.vmap(jax.vmap(one, (None, 0)), (0, None))(l2, seeds)

    # One split after the other: the heads of a split share their standardised embeddings, which fit in the cache.
    return jax.lax.map(split, weights)


@functools.partial(jax.jit, static_argnames=("classes", "ks"))
def neighbours(x: jax.Array, labels: jax.Array, weights: jax.Array, *, classes: int, ks: Sequence[int]) -> jax.Array:
    """(M, len(ks), N, C) shares of the votes of the k nearest training clips, by cosine, each counted by e^{s/0.07}.

    Temperature and weighting as in Z. Wu et al., "Unsupervised feature learning via non-parametric instance
    discrimination", CVPR 2018. A clip is no neighbour of itself. Where there are fewer than k, all of them vote.
    """
    ks = [min(k, len(x)) for k in ks]
    unit = x / jnp.maximum(jnp.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    similar = jnp.matmul(unit, unit.T, precision=_PRECISION)
    similar = jnp.where(jnp.eye(len(x), dtype=bool), -jnp.inf, similar)
    target = jax.nn.one_hot(labels, classes)

    def split(weight: jax.Array) -> jax.Array:
        found, index = jax.lax.top_k(jnp.where(weight[None] > 0, similar, -jnp.inf), max(ks))
        strength = jnp.exp(found / 0.07 - found[:, :1] / 0.07)  # of the nearest: 1
        votes = jnp.cumsum(strength[..., None] * target[index], axis=1)[:, jnp.array(ks) - 1]
        return jnp.moveaxis(votes / votes.sum(-1, keepdims=True), 1, 0)

    return jax.lax.map(split, weights)


def splits(folds: Sequence[int], tested: Sequence[int]) -> dict[frozenset[int], np.ndarray]:
    """Training masks (N,) by the set of folds they leave out: each test fold, alone and with each fold to validate on.

    The one that leaves out {t} trains the head that is tested on t. Those that leave out {t, v} choose its
    regularisation, and have not seen t either; {t, v} serves t and v alike.
    """
    folds = np.asarray(folds)
    have = sorted(set(folds.tolist()))
    left_out = [frozenset((t,)) for t in tested]
    left_out += sorted({frozenset((t, v)) for t in tested for v in have if v != t}, key=sorted)
    return {out: ~np.isin(folds, list(out)) for out in left_out}


def select(hits: np.ndarray, left_out: Sequence[frozenset[int]], folds: Sequence[int], test: int) -> int:
    """The setting with the most hits on the validation folds of a test fold, by heads that have seen neither; of
    equals, the first.

    Args:
        hits: (M, settings, N) bool, of every split's heads on every clip.
        left_out: of the M splits, as `splits` names them.
        folds: (N,) of the clips.
        test: the test fold.
    """
    folds, found = np.asarray(folds), np.zeros(hits.shape[1], np.int64)
    for m, out in enumerate(left_out):
        if test in out and len(out) == 2:
            (fold,) = out - {test}
            found += hits[m][:, folds == fold].sum(-1)
    return int(found.argmax())
