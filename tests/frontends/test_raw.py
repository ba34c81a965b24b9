"""The raw frontend against the formula in float64 and against transformers' feature extractor."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esc_jax.frontends.raw import Raw

LENGTHS = (400, 1000, 37)


@pytest.fixture(scope="module")
def clips():
    """Three clips of different length, offset and level; the padding holds values that must not matter."""
    rng = np.random.default_rng(0)
    waveform = (rng.normal(size=(3, 1000)) * [[0.3], [1e-3], [2.0]] + [[0.1], [0.0], [-1.0]]).astype(np.float32)
    padding = np.arange(1000)[None] >= np.array(LENGTHS)[:, None]
    return waveform, padding


def test_normalises_valid_samples_in_float64(clips):
    waveform, padding = clips
    out = np.asarray(Raw()(waveform, padding))
    for x, y, length in zip(waveform.astype(np.float64), out, LENGTHS, strict=True):
        valid = x[:length]
        expected = (valid - valid.mean()) / np.sqrt(valid.var() + 1e-7)
        # float32 sums of up to 1000 samples.
        np.testing.assert_allclose(y[:length], expected, atol=1e-5)
        assert not y[length:].any()


def test_equals_the_feature_extractor(clips):
    transformers = pytest.importorskip("transformers")
    waveform, padding = clips
    extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True)
    expected = extractor([x[:n] for x, n in zip(waveform, LENGTHS, strict=True)], padding=True, sampling_rate=16000)
    np.testing.assert_array_equal(np.stack(expected["attention_mask"]) == 0, padding)
    # It sums in float32 pairwise, we do in another order.
    np.testing.assert_allclose(Raw()(waveform, padding), np.stack(expected["input_values"]), atol=1e-5)


def test_same_under_jit_and_vmap_and_for_one_clip(clips):
    waveform, padding = clips
    frontend = Raw()
    expected = frontend(waveform, padding)
    # The same sums, fused in another way.
    np.testing.assert_allclose(jax.jit(frontend)(waveform, padding), expected, atol=1e-6)
    np.testing.assert_allclose(jax.vmap(frontend)(waveform, padding), expected, atol=1e-6)
    np.testing.assert_allclose(frontend(waveform[0], padding[0]), expected[0], atol=1e-6)


def test_without_normalisation_only_the_padding_changes(clips):
    waveform, padding = clips
    out = Raw(normalize=False)(waveform, padding)
    np.testing.assert_array_equal(out, np.where(padding, 0, waveform))


def test_silence_and_full_padding_are_zero_with_finite_gradients():
    frontend = Raw()
    assert not frontend(jnp.zeros(500)).any()
    assert not frontend(jnp.ones(500), jnp.ones(500, bool)).any()
    assert jnp.isfinite(jax.grad(lambda x: frontend(x).sum())(jnp.zeros(500))).all()


def test_settings_are_frozen_fields():
    assert dataclasses.asdict(Raw()) == {"sample_rate": 16000, "normalize": True}
    with pytest.raises(dataclasses.FrozenInstanceError):
        Raw().sample_rate = 8000
