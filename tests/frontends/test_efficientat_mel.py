"""Against outputs of the published code, and against the formulas in numpy for other settings."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esc_jax.frontends.efficientat_mel import EfficientATMel
from esc_jax.frontends.settings import FrontendError

GOLDEN = pathlib.Path(__file__).parents[1] / "goldens" / "efficientat_mel.npz"
published = jax.jit(EfficientATMel())


def by_numpy(waveform, rate, bins, hop, window, fft, fmin, fmax):
    """One clip, frame by frame and band by band, in float64."""
    signal = np.pad(waveform[1:] - 0.97 * waveform[:-1], fft // 2, mode="reflect")
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / (window - 1))
    hann = np.pad(hann, (fft - window) // 2)
    starts = range(0, len(signal) - fft + 1, hop)
    power = np.array([np.abs(np.fft.rfft(signal[start : start + fft] * hann)) ** 2 for start in starts])
    mel = lambda f: 1127 * np.log(1 + f / 700)  # noqa: E731
    edges = np.linspace(mel(fmin), mel(fmax), bins + 2)
    frequencies = mel(np.arange(fft // 2) * rate / fft)
    bank = np.array([np.interp(frequencies, edges[b : b + 3], [0, 1, 0], 0, 0) for b in range(bins)])
    return (np.log(power[:, : fft // 2] @ bank.T + 1e-5) + 4.5) / 5


def test_golden_start_of_a_clip():
    golden = np.load(GOLDEN)
    features = published(golden["waveform"])
    # The golden frames end before the end of the clip affects them. float32 FFTs differ by less than 3e-4 here.
    np.testing.assert_allclose(features[: len(golden["log_mel"])], golden["log_mel"], atol=1e-3)


def test_reference_clips(shared):
    reference = np.load(shared / "reference" / "efficientat" / "mn04_as_reference.npz")
    features = published(reference["waveform_32k"])
    np.testing.assert_allclose(features, reference["log_mel"].transpose(0, 2, 1), atol=1e-3)  # float32 FFT


@pytest.mark.parametrize(
    "settings",
    [
        {"rate": 32_000, "bins": 40, "hop": 480, "window": 800, "fft": 1024, "fmin": 0.0, "fmax": 15_000.0},
        {"rate": 16_000, "bins": 24, "hop": 160, "window": 400, "fft": 512, "fmin": 50.0, "fmax": 7_000.0},
    ],
)
def test_other_settings_against_numpy(settings):
    waveform = np.random.default_rng(0).normal(scale=0.1, size=4_001)
    expected = by_numpy(waveform, **settings)
    frontend = EfficientATMel(sample_rate=settings["rate"], **{k: v for k, v in settings.items() if k != "rate"})
    features = jax.jit(frontend)(jnp.asarray(waveform, jnp.float32))
    assert features.shape == (1 + 4_000 // settings["hop"], settings["bins"])
    np.testing.assert_allclose(features, expected, atol=1e-4)  # float32 against float64, after the log


def test_shape_of_a_clip_vmap_and_dtype():
    clips = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3_200)), jnp.float32)
    features = published(clips)
    assert (features.shape, features.dtype) == ((2, 10, 128), jnp.float32)
    assert jax.eval_shape(EfficientATMel(), jnp.zeros((2, 3, 160_000))).shape == (2, 3, 500, 128)
    mapped = jax.jit(jax.vmap(EfficientATMel()))(clips)
    np.testing.assert_allclose(mapped, features, atol=1e-5)  # the same float32 sums, regrouped


def test_silence_is_finite_and_padding_is_silence():
    clips = jnp.asarray(np.random.default_rng(2).normal(size=(2, 3_200)), jnp.float32)
    padding = jnp.stack([jnp.arange(3_200) >= 2_000, jnp.ones(3_200, bool)])
    features = published(clips, padding)
    np.testing.assert_allclose(features[1], (np.log(1e-5) + 4.5) / 5, rtol=1e-5)  # float32 log
    # Two programs that differ in one fused select: float32 rounding.
    np.testing.assert_allclose(features, published(jnp.where(padding, 0.0, clips)), atol=1e-5)


def test_jitter_moves_the_mel_bank_within_its_range():
    clip = jnp.asarray(np.random.default_rng(3).normal(size=3_200), jnp.float32)
    fixed, frontend = EfficientATMel(fmin_jitter=1, fmax_jitter=0), EfficientATMel()

    @jax.jit
    def run(key):
        return fixed(clip, key=key), fixed(clip), frontend(clip, key=key)

    without_jitter, expected, first = run(jax.random.key(0))
    # The bank from traced edges is float32, the constant one float64; 5e-4 is a 400th of a nat after the division.
    np.testing.assert_allclose(without_jitter, expected, atol=5e-4)
    assert not np.allclose(first, expected, atol=1e-2)
    assert not np.allclose(first, run(jax.random.key(1))[2], atol=1e-2)
    low, high = jax.jit(jax.vmap(frontend._random_edges))(jax.random.split(jax.random.key(2), 1_000))
    assert (low.min(), low.max()) == (0, 9)
    assert 14_000 < high.min() < 14_020 < 15_980 < high.max() <= 16_000
    # Every band contains a bin: none lies above half the sample rate.
    lower = EfficientATMel(sample_rate=16_000, fmax=7_900.0, bins=64)
    bands = jax.jit(jax.vmap(lambda key: lower(clip, key=key).max(0)))(jax.random.split(jax.random.key(4), 50))
    assert bands.min() > (np.log(1e-5) + 4.5) / 5 + 0.1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sample_rate": 16_000}, "fmin=0 and fmax=15000 must be in order, between 0 and 8000 Hz"),
        ({"fmin": -1.0}, "fmin=-1 and fmax=15000 must be in order"),
        ({"bins": 0}, "bins is 0, and must be at least 1"),
        ({"hop": 0}, "hop is 0, and must be at least 1"),
        ({"window": 0}, "window is 0, and must be at least 1"),
        ({"fft": 512}, "window is 800, and must be at most fft, 512"),
    ],
)
def test_impossible_settings_are_named(settings, message):
    with pytest.raises(FrontendError, match=message):
        EfficientATMel(**settings)
