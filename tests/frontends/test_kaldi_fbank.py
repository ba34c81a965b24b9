"""The filterbank against the published BEATs frontend and against kaldi-native-fbank."""

import pathlib

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esc_jax.frontends.kaldi_fbank import KaldiFbank
from esc_jax.frontends.settings import FrontendError

RAW = jax.jit(KaldiFbank(mean=0.0, std=0.5))
GOLDEN = pathlib.Path(__file__).parents[1] / "goldens" / "beats.npz"


def test_golden_frames_of_the_published_frontend():
    golden = np.load(GOLDEN)
    fbank = RAW(jnp.asarray(golden["waveform"]))
    assert fbank.shape == (1, 198, 128)
    # Absolute error of natural logarithms of float32 spectra.
    np.testing.assert_allclose(fbank[:, ::8], golden["kaldi_fbank_8th"], atol=1e-3)
    np.testing.assert_allclose(jax.jit(KaldiFbank())(golden["waveform"])[:, ::8], golden["frontend_8th"], atol=1e-4)


def test_reference_filterbank_silence_included(shared):
    reference = np.load(shared / "reference/beats/tiny_beats_reference.npz")
    np.testing.assert_allclose(RAW(reference["waveform"]), reference["kaldi_fbank"], atol=1e-3)
    np.testing.assert_allclose(RAW(jnp.zeros(8000)), reference["kaldi_fbank_silence"], atol=1e-3)


def _kaldi(frontend: KaldiFbank, waveform: np.ndarray) -> np.ndarray:
    knf = pytest.importorskip("kaldi_native_fbank")
    options = knf.FbankOptions()
    options.frame_opts.samp_freq = frontend.sample_rate
    options.frame_opts.dither = 0
    options.frame_opts.frame_length_ms = frontend.frame_ms
    options.frame_opts.frame_shift_ms = frontend.hop_ms
    options.frame_opts.preemph_coeff = frontend.preemphasis
    options.frame_opts.remove_dc_offset = frontend.remove_dc
    options.frame_opts.window_type = frontend.window
    options.frame_opts.snip_edges = frontend.snip_edges
    options.mel_opts.num_bins = frontend.bins
    options.mel_opts.low_freq = frontend.low_hz
    options.mel_opts.high_freq = frontend.high_hz
    options.use_power = frontend.power
    options.use_energy = False
    try:
        fbank = knf.OnlineFbank(options)
    except ValueError:  # kaldi-native-fbank does not accept banks with an empty triangle
        hypothesis.reject()
    fbank.accept_waveform(frontend.sample_rate, (waveform * np.float32(frontend.scale)).tolist())
    fbank.input_finished()
    return np.stack([fbank.get_frame(i) for i in range(fbank.num_frames_ready)])


@hypothesis.settings(max_examples=8, deadline=None, derandomize=True)
@hypothesis.given(
    frontend=st.builds(
        KaldiFbank,
        sample_rate=st.sampled_from([8000, 16000, 22050, 44100]),
        bins=st.integers(8, 64),
        frame_ms=st.sampled_from([20.0, 25.0, 32.0]),
        hop_ms=st.sampled_from([5.0, 10.0, 12.5, 32.0]),
        preemphasis=st.sampled_from([0.0, 0.5, 0.97]),
        remove_dc=st.booleans(),
        window=st.sampled_from(["povey", "hanning", "hamming", "rectangular"]),
        low_hz=st.sampled_from([0.0, 20.0, 125.0]),
        high_hz=st.sampled_from([0.0, -400.0, 3800.0]),
        power=st.booleans(),
        snip_edges=st.booleans(),
        mean=st.just(0.0),
        std=st.just(0.5),
    ),
    seconds=st.sampled_from([0.05, 0.21]),
    loudness=st.sampled_from([1.0, 1e-3]),
    seed=st.integers(0, 2**16),
)
def test_kaldi_native_fbank_on_random_parameters(frontend, seconds, loudness, seed):
    noise = np.random.default_rng(seed).standard_normal(int(seconds * frontend.sample_rate))
    waveform = (0.1 * loudness * noise).astype(np.float32)
    expected = _kaldi(frontend, waveform)
    fbank = np.asarray(jax.jit(frontend)(waveform))
    assert fbank.shape == expected.shape
    # Where a triangle just touches a point of the DFT, its weight is the rounding error of Kaldi's float32 bank.
    clear = expected > np.median(expected) - 7
    assert clear.mean() > 0.5
    np.testing.assert_allclose(fbank[clear], expected[clear], atol=2e-3)


def test_short_clip_gives_one_frame_and_batches_agree():
    waveform = jax.random.normal(jax.random.key(0), (2, 3, 100))
    fbank = RAW(waveform)
    assert fbank.shape == (2, 3, 1, 128) and fbank.dtype == jnp.float32
    assert np.isfinite(fbank).all()
    np.testing.assert_allclose(jax.vmap(jax.vmap(RAW))(waveform), fbank, atol=1e-4)  # float32, another batching


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": "kaiser"}, "no window kaiser: choose one of povey, hanning, hamming, rectangular"),
        ({"high_hz": 9000.0}, "low_hz=20 and high_hz=9000 must be in order, between 0 and 8000 Hz"),
        ({"high_hz": -7990.0}, "low_hz=20 and high_hz=10 must be in order"),
        ({"low_hz": 8000.0}, "low_hz=8000 and high_hz=8000 must be in order"),
        ({"bins": 0}, "bins is 0, and must be at least 1"),
        ({"frame_ms": 0.05}, "frame_ms in samples is 0, and must be at least 1"),
        ({"hop_ms": -1.0}, "hop_ms in samples is -16, and must be at least 1"),
        ({"std": 0.0}, "std is 0, and must be above 0"),
    ],
)
def test_impossible_settings_are_named(settings, message):
    with pytest.raises(FrontendError, match=message):
        KaldiFbank(**settings)
