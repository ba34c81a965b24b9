"""Decoding and resampling of audio files, on the host."""

import io
import os
import pathlib

import numpy as np
import soundfile
import soxr

from esc_jax.errors import Failure


class AudioError(Failure, ValueError):
    """A file that cannot be used as audio. The message is one sentence that names the file."""


def decode(source: bytes | str | os.PathLike, name: str = "") -> tuple[np.ndarray, int]:
    """All samples of an audio file and its sample rate.

    Args:
        source: a path, or the bytes of a file.
        name: what to call it in errors; the path where there is one.

    Returns:
        (samples, channels) float32, and the rate in Hz.

    Raises:
        AudioError: the file is missing, empty, not audio, or holds NaN or infinite samples.
    """
    if not isinstance(source, bytes):
        name = name or os.fspath(source)
        if not pathlib.Path(source).is_file():
            raise AudioError(f"{name}: no such file")
        source = pathlib.Path(source).read_bytes()
    if not source:
        raise AudioError(f"{name}: the file is empty")
    try:
        waveform, rate = soundfile.read(io.BytesIO(source), dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, TypeError, ValueError, OverflowError, MemoryError) as error:
        raise AudioError(f"{name}: not readable as audio ({error})") from None
    if not len(waveform):
        raise AudioError(f"{name}: holds no samples")
    if not np.isfinite(waveform).all():
        raise AudioError(f"{name}: holds samples that are not numbers")
    return waveform, rate


def to_mono(waveform: np.ndarray, rate: int, sample_rate: int) -> np.ndarray:
    """(samples, channels) at `rate` → (samples,) float32 at `sample_rate`: the mean of the channels, resampled by soxr
    at its very high quality (linear phase, 28-bit)."""
    mono = waveform.mean(axis=1, dtype=np.float32)
    return mono if rate == sample_rate else soxr.resample(mono, rate, sample_rate, quality="VHQ")


def load(source: bytes | str | os.PathLike, sample_rate: int, name: str = "") -> np.ndarray:
    """An audio file as mono float32 samples in [-1, 1] at `sample_rate` Hz. Raises AudioError."""
    waveform, rate = decode(source, name)
    return to_mono(waveform, rate, sample_rate)


def to_int16(waveform: np.ndarray) -> np.ndarray:
    """Float samples in [-1, 1] as 16-bit PCM: what ESC-50 itself is published as, at half the traffic of float32."""
    return np.clip(np.rint(waveform * 32768.0), -32768, 32767).astype(np.int16)
