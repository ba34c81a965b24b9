"""Heads in bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esc_jax.models import heads, registry
from esc_jax.models.encoder import Encoded


@pytest.mark.parametrize("head", [heads.Linear, heads.Projected, heads.Mlp])
def test_logits_are_not_rounded_to_bfloat16(head):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((8, 16)) * 10, jnp.float32)
    model = head(50, dtype=jnp.bfloat16)
    logits, _ = model.init_with_output(jax.random.key(0), x)  # not compiled: XLA may leave the rounding out
    assert logits.dtype == jnp.float32
    assert (logits != logits.astype(jnp.bfloat16).astype(jnp.float32)).mean() > 0.9


def loop(params, encoded):
    """Attention pooling, one example and one position after the other."""
    kernel, bias, score = params["hidden"]["kernel"], params["hidden"]["bias"], params["score"]["kernel"]
    features = np.asarray(encoded.features, np.float64).reshape(len(encoded.features), -1, encoded.features.shape[-1])
    result = []
    for number, rows in enumerate(features):
        rows = rows if encoded.padding is None else rows[~np.asarray(encoded.padding[number])]
        weights = np.exp([float((np.tanh(row @ kernel + bias) @ score)[0]) for row in rows])
        result.append(sum(w * row for w, row in zip(weights / weights.sum(), rows, strict=True)))
    return np.array(result)


@pytest.mark.parametrize("padded", [False, True])
def test_attention_pooling_equals_a_loop(padded):
    rng = np.random.default_rng(0)
    features = rng.standard_normal((3, 10, 8) if padded else (3, 5, 2, 8)).astype(np.float32)
    padding = np.arange(10)[None] >= np.array([[10], [4], [1]]) if padded else None
    encoded = Encoded(features.reshape(3, -1, 8).mean(1), features, padding)
    pooling = heads.AttentionPooling(6)
    variables = pooling.init(jax.random.key(0), encoded)
    # At initialization, the mean.
    mean = encoded.replace(features=features.reshape(3, -1, 8))
    valid = np.ones((3, 10), bool) if padding is None else ~padding
    expected = np.stack([rows[keep].mean(0) for rows, keep in zip(mean.features, valid, strict=True)])
    np.testing.assert_allclose(pooling.apply(variables, encoded), expected, atol=1e-5)
    params = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), variables["params"])
    np.testing.assert_allclose(pooling.apply({"params": params}, encoded), loop(params, encoded), atol=1e-5)


def test_a_head_that_pools_gives_the_embedding_of_the_classifier():
    """`encode` and then `classify` are the classifier; the encoder's variables are those of the mean."""
    config = registry.defaults("resnet")
    config["encoder"] |= {"stage_sizes": (1, 1), "width": 4}
    mean = registry.build(config, 5)
    config["head"]["pooling"] = "attention"
    model = registry.build(config, 5)
    x = np.random.default_rng(0).standard_normal((2, 33, 16)).astype(np.float32)
    variables = jax.jit(model.init)(jax.random.key(0), x)
    of_mean = jax.jit(mean.init)(jax.random.key(0), x)
    np.testing.assert_allclose(model.apply(variables, x), mean.apply(of_mean, x), atol=1e-5)
    assert set(variables["params"]["head"]) == {"classifier", "attention"} and not mean.pools
    score = variables["params"]["head"]["attention"]["score"]
    score["kernel"] = jnp.ones_like(score["kernel"])
    embedding = model.apply(variables, x, method="encode").embedding
    assert np.abs(embedding - mean.apply(of_mean, x, method="encode").embedding).max() > 1e-4
    np.testing.assert_allclose(
        model.apply(variables, embedding, method="classify"), model.apply(variables, x), atol=1e-5
    )
