"""Decoding and resampling of audio files, on the host."""

import io
import os
import pathlib

import numpy as np
import soundfile
import soxr

from esc_jax.errors import Failure

# What a folder is searched for: the extensions that libsndfile's formats go by.
EXTENSIONS = frozenset(
    ".aif .aifc .aiff .au .caf .flac .mp1 .mp2 .mp3 .oga .ogg .opus .rf64 .snd .sph .voc .w64 .wav .wave".split()
)
# Rates that a broken header gives, and no microphone: 3 Hz would make hours of a second.
RATES_HZ = (1_000, 1_000_000)
# An MP3 without a length in its header has an estimated one, right to a frame or two of 1152 samples.
_MISSING_S = 0.2


class AudioError(Failure, ValueError):
    """A file that cannot be used as audio. The message is one sentence that names the file."""


def reason(error: Exception) -> str:
    """The words of an exception of soundfile, without the file that the sentence begins with."""
    return str(error).rpartition("': ")[2].rpartition(">: ")[2].strip().rstrip(".")


def check_rate(rate: float, name: str) -> None:
    """Raises AudioError for a sample rate that no recording has."""
    if not RATES_HZ[0] <= rate <= RATES_HZ[1]:
        raise AudioError(f"{name}: a sample rate of {rate:g} Hz; it must be {RATES_HZ[0]} to {RATES_HZ[1]} Hz")


def opened(source: bytes | str | os.PathLike, name: str) -> tuple[soundfile.SoundFile, float]:
    """An audio file to read from, and its length in seconds as its header has it; 0 where the header doesn't say.

    Args:
        source: a path, or the bytes of a file.
        name: what to call it in errors.

    Raises:
        AudioError: the file is missing, unreadable, empty or not audio.
    """
    if isinstance(source, bytes):
        size, source = len(source), io.BytesIO(source)
    else:
        path = pathlib.Path(source)
        if not path.is_file():
            raise AudioError(f"{name}: no such file")
        try:
            open(path, "rb").close()  # libsndfile has no words for a file that may not be read
            size = path.stat().st_size
        except OSError as error:
            raise AudioError(f"{name}: {error.strerror}") from None
    if not size:
        raise AudioError(f"{name}: the file is empty")
    try:
        file = soundfile.SoundFile(source)
    except (soundfile.SoundFileError, TypeError, ValueError, OverflowError) as error:
        raise AudioError(f"{name}: not readable as audio ({reason(error)})") from None
    try:
        check_rate(file.samplerate, name)
    except AudioError:
        file.close()
        raise
    # An unknown length is the largest number there is.
    return file, file.frames / file.samplerate if 0 < file.frames < 1 << 62 else 0.0


def breaks_off(read_s: float, announced_s: float, error: str = "") -> str:
    """What to say of audio that ends in an error or before its announced length; empty where it does neither."""
    if not error and read_s >= announced_s - _MISSING_S:
        return ""
    return f"breaks off after {read_s:.1f} of {announced_s:.1f} s{f' ({error})' if error else ''}"


def decode(source: bytes | str | os.PathLike, name: str = "") -> tuple[np.ndarray, int]:
    """All samples of an audio file and its sample rate.

    Args:
        source: a path, or the bytes of a file.
        name: what to call it in errors; the path where there is one.

    Returns:
        (samples, channels) float32, and the rate in Hz.

    Raises:
        AudioError: the file is missing, empty or not audio, or ends before its announced length.
    """
    name = name or ("" if isinstance(source, bytes) else os.fspath(source))
    file, announced_s = opened(source, name)
    with file:
        try:
            waveform = file.read(dtype="float32", always_2d=True)
        except (soundfile.SoundFileError, ValueError, OverflowError, MemoryError) as error:
            raise AudioError(f"{name}: not readable as audio ({reason(error)})") from None
    if said := breaks_off(len(waveform) / file.samplerate, announced_s):
        raise AudioError(f"{name}: {said}")
    return waveform, file.samplerate


def to_mono(waveform: np.ndarray, rate: int, sample_rate: int) -> np.ndarray:
    """(samples, channels) at `rate` → (samples,) float32 at `sample_rate`: the mean of the channels, resampled by soxr
    at its very high quality (linear phase, 28-bit)."""
    mono = waveform.mean(axis=1, dtype=np.float32)
    return mono if rate == sample_rate else soxr.resample(mono, rate, sample_rate, quality="VHQ")


def load(source: bytes | str | os.PathLike, sample_rate: int, name: str = "") -> np.ndarray:
    """An audio file as mono float32 samples in [-1, 1] at `sample_rate` Hz.

    Raises:
        AudioError: as `decode`, and where there are no samples at that rate, or NaN or infinite ones.
    """
    name = name or ("" if isinstance(source, bytes) else os.fspath(source))
    # Numbers out of float32's range become infinite here, and are refused below.
    with np.errstate(over="ignore", invalid="ignore"):
        waveform = to_mono(*decode(source, name), sample_rate)
    if not len(waveform):
        raise AudioError(f"{name}: holds no samples")
    if not np.isfinite(waveform).all():
        raise AudioError(f"{name}: holds samples that are not numbers")
    return waveform


def to_int16(waveform: np.ndarray) -> np.ndarray:
    """Float samples in [-1, 1] as 16-bit PCM: what ESC-50 itself is published as, at half the traffic of float32."""
    return np.clip(np.rint(waveform * 32768.0), -32768, 32767).astype(np.int16)
