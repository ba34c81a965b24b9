"""k-means clustering in JAX, as a tokenizer: the token of a vector is the index of the nearest centroid.

Lloyd's algorithm over all vectors, or over random mini-batches if there are many (Sculley, "Web-scale k-means
clustering", 2010), with k-means++ initialization (Arthur and Vassilvitskii, 2007). Deterministic for a given key.
"""

import dataclasses
import functools
import pathlib

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from esc_jax import files
from esc_jax.errors import UserError, first_line

INIT_SAMPLES = 16_384  # vectors from which initial centroids are drawn; more for more than 2,048 clusters
BATCH_SIZE = 65_536  # vectors of an iteration


class ClusterError(UserError, ValueError):
    """There are fewer vectors than clusters. The message is one sentence."""


@dataclasses.dataclass(frozen=True)
class Codebook:
    """Result of `fit`.

    Attributes:
        centroids: (K, D) float32.
        inertia: mean squared distance of the vectors to their nearest centroids.
        entropy_bits: entropy of the token frequencies: log₂ K if all are equal, 0 if only one token occurs.
        used: number of tokens that occur.
        iterations: number of iterations.
        fitted_on: identifier of the vectors; empty in files of earlier versions.
    """

    centroids: np.ndarray
    inertia: float
    entropy_bits: float
    used: int
    iterations: int
    fitted_on: str = ""

    def report(self) -> dict[str, float]:
        """Numbers of the result and the number of clusters, for results.json."""
        values = dataclasses.asdict(self) | {"clusters": len(self.centroids)}
        del values["centroids"], values["fitted_on"]
        return values

    def save(self, path: pathlib.Path) -> None:
        """Writes an .npz file atomically."""
        with files.atomic_write(path) as file:
            np.savez(file, **dataclasses.asdict(self))

    @classmethod
    def load(cls, path: pathlib.Path) -> "Codebook | None":
        """Reads a file written by `save`; None, with a warning where the file is damaged, if it must be fitted."""
        if not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as arrays:  # a zip file, with a checksum of every array
                return cls(**{name: array if array.ndim else array.item() for name, array in arrays.items()})
        except Exception as error:  # numpy, zipfile and zlib raise many types for a damaged file
            logging.warning("the tokenizer in %s is fitted again: the file is damaged (%s)", path, first_line(error))
            return None


def assign(centroids: jax.Array, x: jax.Array) -> jax.Array:
    """Tokens of vectors: indices of the nearest centroids, the lowest index if several are equally near.

    Args:
        centroids: (K, D).
        x: (…, D).

    Returns:
        (…) integers.
    """
    return _distances(centroids, x.reshape(-1, x.shape[-1])).argmin(-1).reshape(x.shape[:-1])


def fit(x: np.ndarray, clusters: int, key: jax.Array, iterations: int = 50, batch_size: int = BATCH_SIZE) -> Codebook:
    """Clusters vectors.

    Args:
        x: (N, D) float32.
        clusters: K.
        key: PRNG key.
        iterations: largest number of iterations. If each uses all vectors, it stops when the inertia decreases by less
            than a factor of 10⁻⁴.
        batch_size: number of vectors of an iteration. If there are more, each iteration draws its vectors at random.

    Raises:
        ClusterError: more clusters than vectors.
    """
    if clusters > len(x):
        raise ClusterError(f"{clusters} clusters of {len(x)} vectors: there cannot be more clusters than vectors")
    init_key, batch_key = jax.random.split(key)
    # Vectors are drawn with numpy, so that they need not all be on the device.
    rng = np.random.default_rng(np.asarray(jax.random.key_data(batch_key)))
    sample = rng.permutation(len(x))[: max(INIT_SAMPLES, 8 * clusters)]
    centroids = kmeans_plus_plus(init_key, jnp.asarray(x[sample]), clusters)
    all_vectors = jnp.asarray(x) if len(x) <= batch_size else None
    counts, previous, done = jnp.zeros(clusters), np.inf, 0
    while done < iterations:
        if all_vectors is not None:
            centroids, _, inertia = _step(centroids, jnp.zeros(clusters), all_vectors)
        else:
            centroids, counts, inertia = _step(centroids, counts, jnp.asarray(x[rng.integers(0, len(x), batch_size)]))
        done += 1
        if all_vectors is not None and previous - float(inertia) < 1e-4 * previous < np.inf:
            break
        previous = float(inertia)
    final_inertia, frequencies = _inertia_and_frequencies(centroids, x)
    return Codebook(
        centroids=np.asarray(centroids),
        inertia=final_inertia,
        entropy_bits=_entropy_bits(frequencies),
        used=int((frequencies > 0).sum()),
        iterations=done,
    )


@functools.partial(jax.jit, static_argnames="clusters")
def kmeans_plus_plus(key: jax.Array, x: jax.Array, clusters: int) -> jax.Array:
    """Initial centroids: each is a vector drawn with a probability proportional to its squared distance to the nearest
    of those drawn before.

    Args:
        key: PRNG key.
        x: (N, D).
        clusters: K.

    Returns:
        (K, D).
    """
    first_key, *keys = jax.random.split(key, clusters)

    def squared_distances(point: jax.Array) -> jax.Array:
        return jnp.square(x - point[None]).sum(-1)

    def draw(nearest: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        # If all vectors coincide with a centroid, draw any of them.
        weight = jnp.where(nearest.max() > 0, nearest, 1.0)
        point = x[jax.random.categorical(key, jnp.log(weight))]
        return jnp.minimum(nearest, squared_distances(point)), point

    first = x[jax.random.randint(first_key, (), 0, len(x))]
    if clusters == 1:
        return first[None]
    _, points = jax.lax.scan(draw, squared_distances(first), jnp.stack(keys))
    return jnp.concatenate([first[None], points])


def _distances(centroids: jax.Array, x: jax.Array) -> jax.Array:
    """(N, D) → (N, K): squared distances minus ‖x‖², which is the same for all centroids."""
    products = jnp.matmul(x, centroids.T, precision=jax.lax.Precision.HIGHEST)
    return jnp.square(centroids).sum(-1)[None] - 2.0 * products


@jax.jit
def _sums(centroids: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Sums (K, D) and counts (K,) of the vectors nearest to each centroid, and the squared distances (N,)."""
    distances = _distances(centroids, x)
    nearest = distances.argmin(-1)
    sums = jax.ops.segment_sum(x, nearest, len(centroids))
    counts = jax.ops.segment_sum(jnp.ones(len(x)), nearest, len(centroids))
    return sums, counts, jnp.maximum(distances.min(-1) + jnp.square(x).sum(-1), 0.0)


@jax.jit
def _step(centroids: jax.Array, counts: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """One iteration.

    A centroid moves to the mean of all vectors that were nearest to it in this and earlier iterations. With `counts` of
    zero this is Lloyd's algorithm. A centroid that was never the nearest one of a vector moves to the vector that is
    furthest from its centroid.

    Args:
        centroids: (K, D).
        counts: (K,) numbers of vectors of earlier iterations.
        x: (N, D).

    Returns:
        New centroids, new counts, and the inertia before the iteration.
    """
    sums, new_counts, distances = _sums(centroids, x)
    total = counts + new_counts
    moved = centroids + (sums - new_counts[:, None] * centroids) / jnp.maximum(total, 1.0)[:, None]
    empty = total == 0
    furthest = x[jax.lax.top_k(distances, min(len(x), len(centroids)))[1]]
    rank = jnp.minimum(jnp.cumsum(empty) - 1, len(furthest) - 1)
    return jnp.where(empty[:, None], furthest[rank], moved), total, distances.mean()


def _inertia_and_frequencies(centroids: jax.Array, x: np.ndarray) -> tuple[float, np.ndarray]:
    """Inertia, and the number of vectors (N, D) that are nearest to each centroid."""
    parts = [_sums(centroids, jnp.asarray(x[i : i + BATCH_SIZE])) for i in range(0, len(x), BATCH_SIZE)]
    return float(sum(p[2].sum() for p in parts)) / len(x), np.sum([np.asarray(p[1]) for p in parts], 0)


def _entropy_bits(counts: np.ndarray) -> float:
    """Entropy of frequencies in bits."""
    probabilities = counts[counts > 0] / counts.sum()
    return float(-(probabilities * np.log2(probabilities)).sum()) + 0.0
