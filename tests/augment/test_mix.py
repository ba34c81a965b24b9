"""Ways to mix two waveforms, against numpy and scipy."""

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from esc_jax import config as configs
from esc_jax.augment import compose, mix

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((2, 8000)).astype(np.float32)
shares = st.floats(0.5, 1.0)


@hypothesis.settings(max_examples=20, deadline=None)
@hypothesis.given(share=shares, last=st.booleans())
def test_cut_time_takes_the_share_from_one_end(share, last):
    count = int(np.ceil(np.float32(share) * 8000))
    expected = np.concatenate([Y[: 8000 - count], X[8000 - count :]] if last else [X[:count], Y[count:]])
    np.testing.assert_array_equal(mix.cut_time(jnp.float32(share), X, Y, jnp.bool_(last)), expected)


WINDOW = np.sqrt(scipy.signal.get_window("hann", 1024))


def reference_spectrum(x):
    return scipy.signal.stft(x.astype(np.float64), window=WINDOW, nperseg=1024)[2]


def reference_inverse(spectrum, samples):
    return scipy.signal.istft(spectrum, window=WINDOW, nperseg=1024)[1][:samples]


@hypothesis.settings(max_examples=10, deadline=None)
@hypothesis.given(share=shares, last=st.booleans())
def test_cut_frequency_exchanges_bins_of_the_spectrum(share, last):
    count = int(np.ceil(np.float32(share) * 513))
    own = (np.arange(513) >= 513 - count) if last else (np.arange(513) < count)
    spectrum = np.where(own[:, None], reference_spectrum(X), reference_spectrum(Y))
    result = mix.cut_frequency(jnp.float32(share), X, Y, jnp.bool_(last))
    np.testing.assert_allclose(result, reference_inverse(spectrum, 8000), atol=1e-5)  # float32 against float64


@hypothesis.settings(max_examples=10, deadline=None)
@hypothesis.given(share=shares)
def test_mix_phases_keeps_the_magnitudes_of_the_spectrum(share):
    weight = 2 * np.float32(share) - 1
    a, b = reference_spectrum(X), reference_spectrum(Y)
    spectrum = np.abs(a) * np.exp(1j * (weight * np.angle(a) + (1 - weight) * np.angle(b)))
    # An angle near ±π may have the other sign in float32: a few bins then differ.
    difference = np.abs(mix.mix_phases(jnp.float32(share), X, Y) - reference_inverse(spectrum, 8000))
    assert np.quantile(difference, 0.9) < 1e-3


@pytest.mark.parametrize("kind", list(mix.WAVEFORM_MIXES))
def test_a_share_of_one_is_the_clip(kind):
    # The inverse of an STFT in float32 is exact to 1e-5.
    np.testing.assert_allclose(mix.WAVEFORM_MIXES[kind](jnp.float32(1), X, Y, jnp.bool_(True), 16_000), X, atol=1e-5)


def test_the_a_weighting_is_that_of_the_standard():
    """Table 3 of IEC 61672-1, in dB, at its exact frequencies: powers of 10^0.1 around 1 kHz."""
    frequencies = 1000 * 10.0 ** np.array([-1.5, -1.0, -0.6, -0.3, 0.0, 0.3, 0.6, 0.9, 1.2])
    expected = [-39.4, -19.1, -8.6, -3.2, 0.0, 1.2, 1.0, -1.1, -6.6]
    np.testing.assert_allclose(20 * np.log10(mix.a_weighting(frequencies)), expected, atol=0.1)


def test_the_a_weighted_level_ranks_tones_as_the_ear_does():
    time = np.arange(16_000) / 16_000

    def level(frequency):
        return float(mix.a_weighted_level(jnp.asarray(np.sin(2 * np.pi * frequency * time), jnp.float32), 16_000))

    assert 20 * np.log10(level(1000) / level(101)) == pytest.approx(19.0, abs=0.5)
    assert 20 * np.log10(level(2000) / level(1000)) == pytest.approx(1.2, abs=0.2)


def test_mixing_by_loudness_brings_both_to_one_level():
    loud = 20.0 * Y
    mixed = mix.mix_waveforms(jnp.float32(0.5), X, loud, mix.a_weighted_level, 16_000)
    same = mix.mix_waveforms(jnp.float32(0.5), X, Y, mix.a_weighted_level, 16_000)
    np.testing.assert_allclose(mixed, same, rtol=1e-4, atol=1e-5)  # the factor 20 is not exact in float32


@hypothesis.settings(max_examples=20, deadline=None)
@hypothesis.given(share=shares)
def test_the_union_drops_a_partner_that_cannot_be_heard(share):
    x, y = np.eye(4, dtype=np.float32)[[0, 2]]
    expected = x + y if np.float32(share) < np.float32(0.9) else x
    np.testing.assert_array_equal(mix.union_of_targets(jnp.float32(share), x, y), expected)


@pytest.mark.parametrize("draw", ["batch", "example"])
def test_every_kind_is_drawn(draw):
    """The mixtures of a batch are of one kind, or of the kind of each example; both kinds occur."""
    augment = configs.defaults("resnet").augment
    augment.update(mixup_kinds=("loudness", "time"), mixup_draw=draw)
    audio = RNG.standard_normal((8, 1000)).astype(np.float32)
    other, share = np.roll(audio, 1, 0), np.full(8, 0.7, np.float32)
    share[0] = 1.0
    seen = set()
    for seed in range(6):
        key = jax.random.key(seed)
        mixed = np.asarray(compose.mix_waveforms(augment, key, jnp.arange(8), share, audio, other, 16_000))
        np.testing.assert_array_equal(mixed[0], audio[0])
        by_time = [bool(((m == x) | (m == y)).all()) for m, x, y in zip(mixed[1:], audio[1:], other[1:], strict=True)]
        expected = [mix.mix_waveforms(s, x, y) for s, x, y in zip(share[1:], audio[1:], other[1:], strict=True)]
        for m, cut, loudness in zip(mixed[1:], by_time, expected, strict=True):
            assert cut or np.allclose(m, loudness, atol=1e-5)
        assert draw == "example" or len(set(by_time)) == 1
        seen |= set(by_time)
    assert seen == {True, False}
