"""k-means against scipy's, and what it does in the corners."""

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


@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_iterations_equal_scipys(iterations):
    x = np.random.default_rng(1).standard_normal((500, 6)).astype(np.float32)
    start = x[:20]
    expected, labels = scipy.cluster.vq.kmeans2(x.astype(np.float64), start, iter=iterations, minit="matrix")
    # scipy's labels are those before its last move; sums of float32 against float64.
    found = kmeans.lloyd(jnp.asarray(start), jnp.asarray(x), iterations)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    before = kmeans.lloyd(jnp.asarray(start), jnp.asarray(x), iterations - 1)
    np.testing.assert_array_equal(kmeans.assign(before, jnp.asarray(x)), labels)


def test_assign_takes_the_nearest_of_any_shape():
    rng = np.random.default_rng(2)
    x, centroids = rng.standard_normal((3, 4, 6)).astype(np.float32), rng.standard_normal((9, 6)).astype(np.float32)
    expected = np.square(x[..., None, :] - centroids).sum(-1).argmin(-1)
    np.testing.assert_array_equal(kmeans.assign(jnp.asarray(centroids), jnp.asarray(x)), expected)


def test_starting_points_are_drawn_by_squared_distance():
    x = jnp.array([[0.0], [1.0], [3.0]])
    draws = np.array([kmeans.seed(key, x, 2)[:, 0] for key in jax.random.split(jax.random.key(0), 600)])
    expected = {(0, 1): 1 / 10, (0, 3): 9 / 10, (1, 0): 1 / 5, (1, 3): 4 / 5, (3, 0): 9 / 13, (3, 1): 4 / 13}
    counts = [(draws == pair).all(1).sum() for pair in expected]
    assert sum(counts) == 600
    assert scipy.stats.chisquare(counts, np.array(list(expected.values())) * 200).pvalue > 0.01


@pytest.mark.parametrize("batch", [1 << 16, 100])
def test_blobs_are_found(batch):
    x, centres = blobs()
    found = kmeans.fit(x, 8, jax.random.key(0), iterations=30, batch=batch)
    nearest = np.square(centres[:, None] - found.centroids[None]).sum(-1).min(1)
    # A blob's mean is known to 0.05/√50 per axis; over batches it is a running mean that began at one of its points.
    assert nearest.max() < 0.01
    assert found.used == 8 and found.entropy_bits == pytest.approx(3.0)
    expected = np.square(x - centres[scipy.cluster.vq.vq(x, centres)[0]]).sum(1).mean()
    assert found.inertia == pytest.approx(expected, rel=0.1)
    assert found.inertia <= expected or batch == 100


def test_the_same_key_gives_the_same_centroids():
    x, _ = blobs(spread=2.0)
    for batch in (1 << 16, 64):
        one, two = (kmeans.fit(x, 12, jax.random.key(3), 10, batch) for _ in range(2))
        np.testing.assert_array_equal(one.centroids, two.centroids)
        other = kmeans.fit(x, 12, jax.random.key(4), 10, batch)
        assert np.abs(one.centroids - other.centroids).max() > 0


def test_a_centroid_that_nothing_is_near_to_moves_to_where_it_is_needed():
    x, centres = blobs(count=4)
    start = np.concatenate([x[:3], np.full((1, 5), 1e3, np.float32)])  # far from everything
    assert kmeans.statistics(start, x)[1][3] == 0
    moved = np.asarray(kmeans.lloyd(jnp.asarray(start), jnp.asarray(x), 1))
    assert kmeans.statistics(moved, x)[1][3] > 0
    furthest = np.square(x[:, None] - start[None]).sum(-1).min(1).argmax()
    np.testing.assert_array_equal(moved[3], x[furthest])


def test_more_clusters_than_different_vectors_leave_some_unused():
    x = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    found = kmeans.fit(x, 5, jax.random.key(0))
    assert found.inertia == pytest.approx(0.0, abs=1e-6) and found.used == 3
    with pytest.raises(kmeans.ClusterError, match="13 clusters of 12 vectors"):
        kmeans.fit(x, 13, jax.random.key(0))


def test_entropy_equals_scipys():
    counts = np.array([5, 0, 3, 12, 1])
    assert kmeans.entropy_bits(counts) == pytest.approx(scipy.stats.entropy(counts, base=2))
    assert kmeans.entropy_bits(np.array([7, 0])) == 0.0


def test_what_is_saved_comes_back(tmp_path):
    x, _ = blobs()
    found = kmeans.fit(x, 8, jax.random.key(0))
    found.save(tmp_path / "tokenizer.npz")
    again = kmeans.Clusters.load(tmp_path / "tokenizer.npz")
    np.testing.assert_array_equal(again.centroids, found.centroids)
    assert again.report() == found.report() and again.report()["clusters"] == 8
