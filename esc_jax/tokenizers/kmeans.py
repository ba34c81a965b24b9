"""k-means in JAX: vectors to the number of the nearest of K centroids.

Lloyd's iterations over all vectors, or over random batches where there are many (Sculley, "Web-scale k-means
clustering", 2010), from the starting points of k-means++ (Arthur and Vassilvitskii, 2007). The same key gives the same
centroids.
"""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from esc_jax import files
from esc_jax.errors import UserError

# Vectors that starting points are chosen among, and that an iteration takes at most.
SEEDING, BATCH = 16_384, 65_536


class ClusterError(UserError, ValueError):
    """Vectors that do not make so many clusters. The message is one sentence."""


@dataclasses.dataclass(frozen=True)
class Clusters:
    """What `fit` found.

    Attributes:
        centroids: (K, D) float32.
        inertia: mean squared distance of a vector to its centroid.
        entropy_bits: of the tokens' frequencies: log₂ K where all are as frequent, 0 where there is one alone.
        used: number of tokens that occur.
        iterations: that it took.
    """

    centroids: np.ndarray
    inertia: float
    entropy_bits: float
    used: int
    iterations: int

    def report(self) -> dict[str, float]:
        """All but the centroids, for results.json."""
        found = dataclasses.asdict(self) | {"clusters": len(self.centroids)}
        del found["centroids"]
        return found

    def save(self, path: pathlib.Path) -> None:
        """Writes an .npz in one rename."""
        with files.atomic_write(path) as file:
            np.savez(file, **dataclasses.asdict(self))

    @classmethod
    def load(cls, path: pathlib.Path) -> "Clusters":
        """Reads what `save` wrote."""
        with np.load(path) as found:
            return cls(**{name: found[name] if found[name].ndim else found[name].item() for name in found})


def _distances(centroids: jax.Array, x: jax.Array) -> jax.Array:
    """(N, D) → (N, K): squared distances less ‖x‖², which is the same for every centroid."""
    products = jnp.matmul(x, centroids.T, precision=jax.lax.Precision.HIGHEST)
    return jnp.square(centroids).sum(-1)[None] - 2.0 * products


def assign(centroids: jax.Array, x: jax.Array) -> jax.Array:
    """(…, D) → (…) the number of the nearest centroid; the lowest of equally near ones."""
    return _distances(centroids, x.reshape(-1, x.shape[-1])).argmin(-1).reshape(x.shape[:-1])


@functools.partial(jax.jit, static_argnames="clusters")
def seed(key: jax.Array, x: jax.Array, clusters: int) -> jax.Array:
    """Starting points of k-means++, (K, D): each drawn from `x` by its squared distance to those drawn before."""
    first_key, *keys = jax.random.split(key, clusters)

    def to(point: jax.Array) -> jax.Array:
        return jnp.square(x - point[None]).sum(-1)

    def draw(nearest: jax.Array, key: jax.Array):
        # Where nothing is left to tell apart, any vector is as good as another.
        weight = jnp.where(nearest.max() > 0, nearest, 1.0)
        point = x[jax.random.categorical(key, jnp.log(weight))]
        return jnp.minimum(nearest, to(point)), point

    first = x[jax.random.randint(first_key, (), 0, len(x))]
    if clusters == 1:
        return first[None]
    _, points = jax.lax.scan(draw, to(first), jnp.stack(keys))
    return jnp.concatenate([first[None], points])


@jax.jit
def _sums(centroids: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Sums (K, D) and counts (K,) of the vectors nearest to each centroid, and each vector's squared distance (N,)."""
    distances = _distances(centroids, x)
    nearest = distances.argmin(-1)
    sums = jax.ops.segment_sum(x, nearest, len(centroids))
    counts = jax.ops.segment_sum(jnp.ones(len(x)), nearest, len(centroids))
    return sums, counts, jnp.maximum(distances.min(-1) + jnp.square(x).sum(-1), 0.0)


@jax.jit
def _step(centroids: jax.Array, seen: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """One iteration over the vectors `x`: (new centroids, vectors seen so far, inertia before it).

    A centroid moves to the mean of all vectors it was ever nearest to; `seen` at zero makes that Lloyd's iteration.
    One that is nearest to nothing, and never was, becomes the vector that is furthest from its own.
    """
    sums, counts, distance = _sums(centroids, x)
    total = seen + counts
    moved = centroids + (sums - counts[:, None] * centroids) / jnp.maximum(total, 1.0)[:, None]
    empty = total == 0
    furthest = x[jax.lax.top_k(distance, min(len(x), len(centroids)))[1]]
    rank = jnp.minimum(jnp.cumsum(empty) - 1, len(furthest) - 1)
    return jnp.where(empty[:, None], furthest[rank], moved), total, distance.mean()


def lloyd(centroids: jax.Array, x: jax.Array, iterations: int) -> jax.Array:
    """Centroids (K, D) after so many iterations over all of `x` (N, D)."""
    for _ in range(iterations):
        centroids, _, _ = _step(centroids, jnp.zeros(len(centroids)), x)
    return centroids


def statistics(centroids: np.ndarray, x: np.ndarray) -> tuple[float, np.ndarray]:
    """Inertia, and how many of the vectors (N, D) are nearest to each centroid."""
    parts = [_sums(jnp.asarray(centroids), jnp.asarray(x[i : i + BATCH])) for i in range(0, len(x), BATCH)]
    return float(sum(p[2].sum() for p in parts)) / len(x), np.sum([np.asarray(p[1]) for p in parts], 0)


def entropy_bits(counts: np.ndarray) -> float:
    """Entropy of frequencies, in bits."""
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log2(share)).sum()) + 0.0


def fit(x: np.ndarray, clusters: int, key: jax.Array, iterations: int = 50, batch: int = BATCH) -> Clusters:
    """Clusters vectors.

    Args:
        x: (N, D) float32.
        clusters: K.
        key: PRNG key.
        iterations: at most; over all vectors it ends once the inertia falls by less than a part in 10,000.
        batch: vectors of an iteration; where there are more, each takes as many at random.

    Raises:
        ClusterError: more clusters than vectors.
    """
    if clusters > len(x):
        raise ClusterError(f"{clusters} clusters of {len(x)} vectors: there cannot be more clusters than vectors")
    seed_key, batch_key = jax.random.split(key)
    # The order of all later choices is numpy's, for which the vectors need not be copied to the device at once.
    order = np.random.default_rng(np.asarray(jax.random.key_data(batch_key)))
    few = order.permutation(len(x))[: max(SEEDING, 8 * clusters)]
    centroids = seed(seed_key, jnp.asarray(x[few]), clusters)
    whole = jnp.asarray(x) if len(x) <= batch else None
    seen, before, done = jnp.zeros(clusters), np.inf, 0
    while done < iterations:
        if whole is not None:
            centroids, _, inertia = _step(centroids, jnp.zeros(clusters), whole)
        else:
            centroids, seen, inertia = _step(centroids, seen, jnp.asarray(x[order.integers(0, len(x), batch)]))
        done += 1
        if whole is not None and before - float(inertia) < 1e-4 * before < np.inf:
            break
        before = float(inertia)
    centroids = np.asarray(centroids)
    inertia, counts = statistics(centroids, x)
    return Clusters(centroids, inertia, entropy_bits(counts), int((counts > 0).sum()), done)
