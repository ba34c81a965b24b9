"""Masked prediction: what is hidden, and what is asked."""

import hypothesis
from hypothesis import strategies
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esc_jax.objectives import masked


@hypothesis.settings(max_examples=12)  # each has a shape of its own, and is compiled
@hypothesis.given(
    rows=strategies.integers(1, 20),
    columns=strategies.integers(1, 9),
    share=strategies.floats(0, 1),
    kind=strategies.sampled_from(masked.KINDS),
    block=strategies.integers(1, 25),
    seed=strategies.integers(0, 99),
)
def test_exactly_so_many_patches_are_hidden(rows, columns, share, kind, block, seed):
    draw = jax.jit(masked.draw, static_argnums=(1, 2, 3, 4, 5))
    hidden = draw(jax.random.key(seed), rows, columns, share, kind, block)
    assert hidden.shape == (rows, columns) and int(hidden.sum()) == round(rows * columns * share)


def drawn(kind, block, share=0.4, rows=12, columns=8, count=200):
    keys = jax.random.split(jax.random.key(0), count)
    return np.asarray(jax.vmap(lambda key: masked.draw(key, rows, columns, share, kind, block))(keys))


@pytest.mark.parametrize("kind", masked.KINDS)
def test_no_place_is_hidden_more_often_than_another(kind):
    often = drawn(kind, 2, count=2000).mean(0)
    # ±5 standard deviations of a share of 0.4 in 2,000 draws; tiles at an edge are cut, which shifts it a little.
    np.testing.assert_allclose(often, 38 / 96, atol=0.06)


def test_time_hides_moments_and_frequency_bands():
    whole = drawn("time", 2)
    # 38 of 96 patches, two rows of eight at a time; a tile at the edge has one row, and the last is hidden in part.
    full = whole.all(2).sum(1)
    assert (full >= 3).all() and (whole.any(2).sum(1) <= 6).all()
    bands = drawn("frequency", 2)
    assert (bands.all(1).sum(1) >= 2).all() and (bands.any(1).sum(1) <= 5).all()


def test_blocks_hide_neighbours_together():
    def together(hidden):  # share of the neighbours in time of hidden patches that are hidden too
        return (hidden[:, 1:] & hidden[:, :-1]).sum() / hidden[:, 1:].sum()

    # Alone, a neighbour is hidden with probability 37/95; in blocks of three, two of three have their neighbour.
    assert together(drawn("random", 3)) == pytest.approx(37 / 95, abs=0.03)
    assert together(drawn("block", 3)) > 0.6


def test_only_hidden_patches_count():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((2, 3, 4, 5)).astype(np.float32)
    tokens = rng.integers(0, 5, (2, 3, 4))
    hidden = rng.random((2, 3, 4)) < 0.5
    found = masked.prediction(jnp.asarray(logits), jnp.asarray(tokens), jnp.asarray(hidden))
    for b in range(2):
        losses, hits = [], []
        for place in np.argwhere(hidden[b]):
            row, token = logits[b][tuple(place)].astype(np.float64), tokens[b][tuple(place)]
            losses.append(np.log(np.exp(row).sum()) - row[token])
            hits.append(row.argmax() == token)
        np.testing.assert_allclose(found.loss[b], np.mean(losses), rtol=1e-5)
        np.testing.assert_allclose(found.hit[b], np.mean(hits), rtol=1e-6)
    gradient = jax.grad(lambda x: masked.prediction(x, jnp.asarray(tokens), jnp.asarray(hidden)).loss.sum())(logits)
    assert (np.abs(gradient).sum(-1) > 0).tolist() == hidden.tolist()


def test_the_error_of_a_clip_is_that_of_its_normalised_mean():
    rng = np.random.default_rng(0)
    guess, vectors = rng.standard_normal((2, 7)), 3.0 + 2.0 * rng.standard_normal((2, 3, 4, 7))
    found = masked.clip_error(jnp.float32(guess), jnp.float32(vectors))
    for b in range(2):
        mean = vectors[b].reshape(12, 7).mean(0)
        target = (mean - mean.mean()) / mean.std()
        np.testing.assert_allclose(found[b], ((guess[b] - target) ** 2).mean(), rtol=1e-5)
    np.testing.assert_allclose(masked.clip_error(jnp.zeros((2, 7)), jnp.float32(vectors)), 1.0, rtol=1e-5)
    # A teacher does not learn from it.
    slope = jax.grad(lambda vectors: masked.clip_error(jnp.float32(guess), vectors).sum())(jnp.float32(vectors))
    assert not np.asarray(slope).any()
