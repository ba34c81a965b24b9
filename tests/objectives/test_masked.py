"""Masked prediction: which patches are masked, losses against loops, checks of the config."""

import hypothesis
from hypothesis import strategies
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esc_jax import config as configs
from esc_jax.errors import ConfigError
from esc_jax.objectives import masked


@hypothesis.settings(max_examples=12)  # each has a shape of its own, and is compiled
@hypothesis.given(
    rows=strategies.integers(1, 20),
    columns=strategies.integers(1, 9),
    ratio=strategies.floats(0, 1),
    kind=strategies.sampled_from(masked.KINDS),
    block=strategies.integers(1, 25),
    seed=strategies.integers(0, 99),
)
def test_the_number_of_masked_patches_is_exact(rows, columns, ratio, kind, block, seed):
    draw = jax.jit(masked.random_mask, static_argnums=(1, 2, 3, 4, 5))
    mask = draw(jax.random.key(seed), rows, columns, ratio, kind, block)
    assert mask.shape == (rows, columns)
    assert int(mask.sum()) == masked.masked_count(rows, columns, ratio) == round(rows * columns * ratio)


def random_masks(kind, block, ratio=0.4, rows=12, columns=8, count=200):
    keys = jax.random.split(jax.random.key(0), count)
    return np.asarray(jax.vmap(lambda key: masked.random_mask(key, rows, columns, ratio, kind, block))(keys))


@pytest.mark.slow
@pytest.mark.parametrize("kind", masked.KINDS)
def test_all_positions_are_masked_equally_often(kind):
    frequency = random_masks(kind, 2, count=2000).mean(0)
    # ±5 standard deviations of a ratio of 0.4 in 2,000 draws; tiles at an edge are cut, which changes it a little.
    np.testing.assert_allclose(frequency, 38 / 96, atol=0.06)


def test_time_masks_whole_rows_and_frequency_masks_whole_columns():
    masks = random_masks("time", 2)
    # 38 of 96 patches in blocks of two rows; a block at the edge has one row, and the last is masked in part.
    complete = masks.all(2).sum(1)
    assert (complete >= 3).all() and (masks.any(2).sum(1) <= 6).all()
    masks = random_masks("frequency", 2)
    assert (masks.all(1).sum(1) >= 2).all() and (masks.any(1).sum(1) <= 5).all()


def test_blocks_mask_neighbours_together():
    def neighbours(mask):  # share of the patches after a masked one that are masked too
        return (mask[:, 1:] & mask[:, :-1]).sum() / mask[:, 1:].sum()

    # Masked alone, a neighbour is masked with probability 37/95. In blocks of three, two of three have their neighbour.
    assert neighbours(random_masks("random", 3)) == pytest.approx(37 / 95, abs=0.03)
    assert neighbours(random_masks("block", 3)) > 0.6


def test_only_masked_patches_count():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((2, 3, 4, 5)).astype(np.float32)
    tokens = rng.integers(0, 5, (2, 3, 4))
    mask = rng.random((2, 3, 4)) < 0.5
    result = masked.masked_cross_entropy(jnp.asarray(logits), jnp.asarray(tokens), jnp.asarray(mask))
    for b in range(2):
        losses, hits = [], []
        for place in np.argwhere(mask[b]):
            row, token = logits[b][tuple(place)].astype(np.float64), tokens[b][tuple(place)]
            losses.append(np.log(np.exp(row).sum()) - row[token])
            hits.append(row.argmax() == token)
        np.testing.assert_allclose(result.loss[b], np.mean(losses), rtol=1e-5)
        np.testing.assert_allclose(result.hit[b], np.mean(hits), rtol=1e-6)

    def total(logits):
        return masked.masked_cross_entropy(logits, jnp.asarray(tokens), jnp.asarray(mask)).loss.sum()

    assert (np.abs(jax.grad(total)(logits)).sum(-1) > 0).tolist() == mask.tolist()


def test_the_clip_loss_is_the_error_of_the_normalized_mean_vector():
    rng = np.random.default_rng(0)
    prediction, vectors = rng.standard_normal((2, 7)), 3.0 + 2.0 * rng.standard_normal((2, 3, 4, 7))
    loss = masked.clip_loss(jnp.float32(prediction), jnp.float32(vectors))
    for b in range(2):
        mean = vectors[b].reshape(12, 7).mean(0)
        target = (mean - mean.mean()) / mean.std()
        np.testing.assert_allclose(loss[b], ((prediction[b] - target) ** 2).mean(), rtol=1e-5)
    np.testing.assert_allclose(masked.clip_loss(jnp.zeros((2, 7)), jnp.float32(vectors)), 1.0, rtol=1e-5)
    # The teacher gets no gradient.
    gradient = jax.grad(lambda vectors: masked.clip_loss(jnp.float32(prediction), vectors).sum())(jnp.float32(vectors))
    assert not np.asarray(gradient).any()


@pytest.mark.parametrize(("key", "value"), [("frequency_warp", 0.1), ("time_mask", 4), ("freq_mask", 3)])
def test_augmentations_after_the_frontend_are_an_error(key, value):
    config = configs.defaults("patch_transformer")
    config.pretrain = configs.pretrain_defaults("masked")
    masked.Masked.check(config)
    config.pretrain.augment[key] = value
    with pytest.raises(ConfigError, match=f"config.pretrain.augment.{key}={value} has no effect in masked prediction"):
        masked.Masked.check(config)
