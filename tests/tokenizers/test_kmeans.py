"""k-means against an independent implementation in numpy, and edge cases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.cluster.vq
import scipy.stats

from esc_jax.tokenizers import kmeans


def blobs(count=8, each=50, width=5, seed=0, spread=0.05):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((count, width)) * 5
    x = np.repeat(centres, each, axis=0) + spread * rng.standard_normal((count * each, width))
    return rng.permutation(x).astype(np.float32), centres


def squared_distances(centroids, x):
    return np.square(x[..., None, :] - centroids).sum(-1)


def lloyd(centroids, x, iterations):
    """Centroids and the inertia before each iteration; every cluster must keep a vector."""
    centroids, x, inertia = centroids.astype(np.float64), x.astype(np.float64), []
    for _ in range(iterations):
        distances = squared_distances(centroids, x)
        nearest = distances.argmin(1)
        inertia.append(distances.min(1).mean())
        centroids = np.stack([x[nearest == k].mean(0) for k in range(len(centroids))])
    return centroids, inertia


@pytest.mark.parametrize("iterations", [1, 3, 10, 50])
def test_fit_equals_lloyds_algorithm(iterations):
    x, key = np.random.default_rng(1).standard_normal((500, 6)).astype(np.float32), jax.random.key(0)
    start = kmeans.fit(x, 20, key, iterations=0)
    result = kmeans.fit(x, 20, key, iterations)
    assert start.iterations == 0 and result.iterations <= iterations
    expected, inertia = lloyd(start.centroids, x, result.iterations)
    np.testing.assert_allclose(result.centroids, expected, atol=2e-5)  # float32 against float64
    distances = squared_distances(expected, x)
    assert result.inertia == pytest.approx(distances.min(1).mean(), rel=1e-5)
    counts = np.bincount(distances.argmin(1), minlength=20)
    assert result.used == (counts > 0).sum()
    assert result.entropy_bits == pytest.approx(scipy.stats.entropy(counts, base=2), rel=1e-5)
    # It stops at the first decrease of less than a factor of 10⁻⁴.
    decreases = -np.diff(inertia) / inertia[:-1]
    assert (decreases[:-1] > 1e-4).all()
    assert result.iterations == iterations or decreases[-1] < 1e-4


def test_assign_returns_the_nearest_centroid_for_any_shape():
    rng = np.random.default_rng(2)
    x, centroids = rng.standard_normal((3, 4, 6)).astype(np.float32), rng.standard_normal((9, 6)).astype(np.float32)
    expected = squared_distances(centroids, x).argmin(-1)
    np.testing.assert_array_equal(kmeans.assign(jnp.asarray(centroids), jnp.asarray(x)), expected)


def test_initial_centroids_are_drawn_by_squared_distance():
    x = jnp.array([[0.0], [1.0], [3.0]])
    draws = np.array([kmeans.kmeans_plus_plus(key, x, 2)[:, 0] for key in jax.random.split(jax.random.key(0), 600)])
    expected = {(0, 1): 1 / 10, (0, 3): 9 / 10, (1, 0): 1 / 5, (1, 3): 4 / 5, (3, 0): 9 / 13, (3, 1): 4 / 13}
    counts = [(draws == pair).all(1).sum() for pair in expected]
    assert sum(counts) == 600
    assert scipy.stats.chisquare(counts, np.array(list(expected.values())) * 200).pvalue > 0.01


@pytest.mark.parametrize("batch_size", [1 << 16, 100])
def test_separated_clusters_are_recovered(batch_size):
    x, centres = blobs()
    result = kmeans.fit(x, 8, jax.random.key(0), iterations=30, batch_size=batch_size)
    # The mean of a cluster is known to 0.05/√50 per axis. Mini-batches give a running mean that includes the start.
    assert squared_distances(result.centroids, centres).min(1).max() < 0.01
    assert result.used == 8 and result.entropy_bits == pytest.approx(3.0)
    expected = np.square(x - centres[scipy.cluster.vq.vq(x, centres)[0]]).sum(1).mean()
    assert result.inertia == pytest.approx(expected, rel=0.1)
    assert result.inertia <= expected or batch_size == 100


def test_the_same_key_gives_the_same_centroids():
    x, _ = blobs(spread=2.0)
    for batch_size in (1 << 16, 64):
        one, two = (kmeans.fit(x, 12, jax.random.key(3), 10, batch_size) for _ in range(2))
        np.testing.assert_array_equal(one.centroids, two.centroids)
        other = kmeans.fit(x, 12, jax.random.key(4), 10, batch_size)
        assert np.abs(one.centroids - other.centroids).max() > 0


def test_a_centroid_without_vectors_moves_to_the_furthest_vector(monkeypatch):
    x, _ = blobs(count=4)
    start = np.concatenate([x[:3], np.full((1, 5), 1e3, np.float32)])  # the last one is far from all vectors
    monkeypatch.setattr(kmeans, "kmeans_plus_plus", lambda *_: jnp.asarray(start))
    assert kmeans.fit(x, 4, jax.random.key(0), iterations=0).used == 3
    result = kmeans.fit(x, 4, jax.random.key(0), iterations=1)
    assert result.used == 4
    furthest = squared_distances(start, x).min(1).argmax()
    np.testing.assert_array_equal(result.centroids[3], x[furthest])


def test_more_clusters_than_distinct_vectors_leave_some_unused():
    x = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    result = kmeans.fit(x, 5, jax.random.key(0))
    assert result.inertia == pytest.approx(0.0, abs=1e-6) and result.used == 3
    assert kmeans.fit(x, 1, jax.random.key(0)).entropy_bits == 0.0
    with pytest.raises(kmeans.ClusterError, match="13 clusters of 12 vectors"):
        kmeans.fit(x, 13, jax.random.key(0))


def test_save_and_load_are_inverse(tmp_path):
    x, _ = blobs()
    codebook = kmeans.fit(x, 8, jax.random.key(0))
    codebook.save(tmp_path / "tokenizer.npz")
    again = kmeans.Codebook.load(tmp_path / "tokenizer.npz")
    np.testing.assert_array_equal(again.centroids, codebook.centroids)
    assert again.report() == codebook.report() and again.report()["clusters"] == 8
