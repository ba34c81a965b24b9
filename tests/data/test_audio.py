"""Decoding and resampling."""

import io

import numpy as np
import pytest
import soundfile

from esc_jax.data import audio


def wav(waveform, rate, format="WAV", **kwargs):
    file = io.BytesIO()
    soundfile.write(file, waveform, rate, format=format, **kwargs)
    return file.getvalue()


@pytest.mark.parametrize("rate", [22_050, 44_100, 48_000, 96_000])
def test_resampling_keeps_a_tone_and_removes_what_would_alias(rate):
    time = np.arange(rate) / rate
    tone = 0.5 * np.sin(2 * np.pi * 1000 * time)
    waveform = audio.load(wav(tone, rate, subtype="FLOAT"), 16_000)
    assert len(waveform) == 16_000
    expected = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000)
    np.testing.assert_allclose(waveform[500:-500], expected[500:-500], atol=1e-4)  # the filter rings at the ends
    alias = 0.5 * np.sin(2 * np.pi * 9500 * time)
    assert np.abs(audio.load(wav(alias, rate, subtype="FLOAT"), 16_000)[500:-500]).max() < 1e-4


def test_channels_are_averaged():
    stereo = np.stack([np.full(100, 0.5), np.full(100, -0.25)], 1)
    np.testing.assert_allclose(audio.load(wav(stereo, 16_000), 16_000), 0.125, atol=1e-4)


def test_sixteen_bits_survive():
    samples = np.random.default_rng(0).integers(-32768, 32768, 1000).astype(np.int16)
    np.testing.assert_array_equal(audio.to_int16(audio.load(wav(samples, 8000), 8000)), samples)
    np.testing.assert_array_equal(audio.to_int16(np.array([-1.5, 1.5])), [-32768, 32767])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"this is a text file", "not readable as audio"),
        (wav(np.zeros(100), 16_000)[:20], "not readable as audio"),
        (wav(np.zeros((0, 1)), 16_000), "holds no samples"),
        (wav(np.zeros(1), 48_000), "holds no samples"),  # a third of one at 16 kHz
        (wav(np.array([0.0, np.nan]), 16_000, subtype="FLOAT"), "holds samples that are not numbers"),
        (wav(np.full((9, 2), np.inf, np.float32), 16_000, subtype="FLOAT"), "holds samples that are not numbers"),
        (wav(np.full((9, 2), 3e38, np.float32), 16_000, subtype="FLOAT"), "samples of up to 3e.38, where full scale"),
        (wav(np.zeros(100), 3), "a sample rate of 3 Hz"),
        (wav(np.ones(160_000), 16_000, "MP3")[:9_000], "breaks off after .* of 10.0 s"),
    ],
    ids=["empty", "text", "truncated", "no samples", "one sample", "NaN", "infinite", "huge", "slow", "broken off"],
)
def test_bad_files_are_named(tmp_path, content, message):
    path = tmp_path / "bad.wav"
    path.write_bytes(content)
    for source, name in ((path, str(path)), (content, "bad.wav")):
        with pytest.raises(audio.AudioError, match=f"^{name}: {message}"):
            audio.load(source, 16_000, name)
    with pytest.raises(audio.AudioError, match="no such file"):
        audio.load(tmp_path / "none.wav", 16_000)
