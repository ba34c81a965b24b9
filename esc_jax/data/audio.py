"""Decoding and resampling of audio files, on the host."""

import io
import os
import pathlib

import numpy as np
import soundfile
import soxr

from esc_jax.errors import Failure

# Extensions of the formats that libsndfile reads; a folder is searched for them.
EXTENSIONS = frozenset(
    ".aif .aifc .aiff .au .caf .flac .mp1 .mp2 .mp3 .oga .ogg .opus .rf64 .snd .sph .voc .w64 .wav .wave".split()
)
# Other sample rates come from damaged headers: at 3 Hz, one second of audio would last hours.
RATES_HZ = (1_000, 1_000_000)
# An MP3 without a length in its header has an estimated one, right to a frame or two of 1152 samples.
_MISSING_S = 0.2


class AudioError(Failure, ValueError):
    """A file that cannot be used as audio. The message is one sentence that names the file."""


def reason(error: Exception) -> str:
    """Returns the message of an exception of soundfile without the file name that it begins with."""
    return str(error).rpartition("': ")[2].rpartition(">: ")[2].strip().rstrip(".")


def check_rate(rate: float, name: str) -> None:
    """Raises AudioError for a sample rate outside of RATES_HZ."""
    if not RATES_HZ[0] <= rate <= RATES_HZ[1]:
        raise AudioError(f"{name}: a sample rate of {rate:g} Hz; it must be {RATES_HZ[0]} to {RATES_HZ[1]} Hz")


def open_audio(source: bytes | str | os.PathLike[str], name: str) -> tuple[soundfile.SoundFile, float]:
    """Opens an audio file. Returns it with its length in seconds according to its header; 0 if the header has none.

    Args:
        source: a path, or the bytes of a file.
        name: of the file, for error messages.

    Raises:
        AudioError: the file is missing, unreadable, empty or not audio.
    """
    file_or_path: io.BytesIO | pathlib.Path
    if isinstance(source, bytes):
        size, file_or_path = len(source), io.BytesIO(source)
    else:
        path = pathlib.Path(source)
        if not path.is_file():
            raise AudioError(f"{name}: no such file")
        try:
            open(path, "rb").close()  # libsndfile does not say why a file cannot be opened
            size, file_or_path = path.stat().st_size, path
        except OSError as error:
            raise AudioError(f"{name}: {error.strerror}") from None
    if not size:
        raise AudioError(f"{name}: the file is empty")
    try:
        file = soundfile.SoundFile(file_or_path)
    except (soundfile.SoundFileError, TypeError, ValueError, OverflowError) as error:
        raise AudioError(f"{name}: not readable as audio ({reason(error)})") from None
    try:
        check_rate(file.samplerate, name)
    except AudioError:
        file.close()
        raise
    # An unknown length is the largest number there is.
    return file, file.frames / file.samplerate if 0 < file.frames < 1 << 62 else 0.0


def describe_truncation(read_s: float, announced_s: float, error: str = "") -> str:
    """Describes audio that ends in an error or before the length in its header; empty if it does neither."""
    if not error and read_s >= announced_s - _MISSING_S:
        return ""
    return f"breaks off after {read_s:.1f} of {announced_s:.1f} s{f' ({error})' if error else ''}"


def decode(source: bytes | str | os.PathLike[str], name: str = "") -> tuple[np.ndarray, int]:
    """Decodes an audio file.

    Args:
        source: a path, or the bytes of a file.
        name: of the file, for error messages; by default its path.

    Returns:
        (samples, channels) float32, and the sample rate in Hz.

    Raises:
        AudioError: the file is missing, empty or not audio, or ends before the length in its header.
    """
    name = name or ("" if isinstance(source, bytes) else os.fspath(source))
    file, announced_s = open_audio(source, name)
    with file:
        try:
            waveform = file.read(dtype="float32", always_2d=True)
        except (soundfile.SoundFileError, ValueError, OverflowError, MemoryError) as error:
            raise AudioError(f"{name}: not readable as audio ({reason(error)})") from None
    if truncation := describe_truncation(len(waveform) / file.samplerate, announced_s):
        raise AudioError(f"{name}: {truncation}")
    return waveform, file.samplerate


def to_mono(waveform: np.ndarray, rate: int, sample_rate: int) -> np.ndarray:
    """Averages the channels and resamples with soxr's "VHQ" recipe (linear phase, 28 bit).

    Args:
        waveform: (samples, channels) at `rate` Hz.
        rate, sample_rate: Hz.

    Returns:
        (samples,) float32 at `sample_rate` Hz.
    """
    mono = waveform.mean(axis=1, dtype=np.float32)
    return mono if rate == sample_rate else soxr.resample(mono, rate, sample_rate, quality="VHQ")


def load(source: bytes | str | os.PathLike[str], sample_rate: int, name: str = "") -> np.ndarray:
    """Decodes an audio file to (samples,) float32 in [-1, 1]: mono, at `sample_rate` Hz.

    Raises:
        AudioError: as in `decode`; also if there are no samples at that rate, or NaN or infinite ones.
    """
    name = name or ("" if isinstance(source, bytes) else os.fspath(source))
    # Values outside of float32's range become infinite here and are rejected below.
    with np.errstate(over="ignore", invalid="ignore"):
        waveform = to_mono(*decode(source, name), sample_rate)
    if not len(waveform):
        raise AudioError(f"{name}: holds no samples")
    if not np.isfinite(waveform).all():
        raise AudioError(f"{name}: holds samples that are not numbers")
    return waveform


def to_int16(waveform: np.ndarray) -> np.ndarray:
    """Converts float samples in [-1, 1] to 16-bit PCM, the format ESC-50 is published in."""
    return np.clip(np.rint(waveform * 32768.0), -32768, 32767).astype(np.int16)
