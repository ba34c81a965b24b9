"""Norms and clipping of gradients, against optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from esc_jax.training import optim


def tree(scale=1.0):
    """Arrays below and above the size from which a sum has a kernel of its own, and one without elements."""
    rng = np.random.default_rng(0)
    shapes = {"scale": (7,), "kernel": (3, 3, 30, 40), "scalar": (), "empty": (0, 3), "head": (64, 64)}
    return {name: jnp.asarray(scale * rng.standard_normal(shape), jnp.float32) for name, shape in shapes.items()}


def test_norm_of_a_tree():
    # Sums of up to 10,800 squares of order 1, in another order.
    np.testing.assert_allclose(jax.jit(optim.global_norm)(tree()), optax.global_norm(tree()), rtol=1e-5)
    assert optim.global_norm({}) == 0


@pytest.mark.parametrize("scale", [1e-3, 1.0])  # below and above the largest norm
def test_clipping(scale):
    ours, expected = optim._clip(2.0), optax.clip_by_global_norm(2.0)
    updates = tree(scale)
    results = [clip.update(updates, clip.init(updates))[0] for clip in (ours, expected)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), *results)
    assert jax.tree.structure(ours.init(updates)) == jax.tree.structure(expected.init(updates))
