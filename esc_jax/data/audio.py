"""Decoding and resampling of audio files, on the host."""

from collections.abc import Iterable
import os

import numpy as np
import soxr

from esc_jax.data import channels, ffmpeg
from esc_jax.data.decoders import Recording, check_level, check_rate
from esc_jax.data.source import AudioError
from esc_jax.errors import name_some

__all__ = [
    "EXTENSIONS",
    "FFMPEG_EXTENSIONS",
    "AudioError",
    "check_level",
    "check_rate",
    "describe_unreadable",
    "is_audio_name",
    "is_readable_name",
    "load",
    "to_int16",
    "to_mono",
]

# Extensions of the formats that libsndfile reads, and of those for which ffmpeg is used where it is installed. A folder
# is searched for them.
EXTENSIONS = frozenset(
    ".aif .aifc .aiff .au .caf .flac .mp1 .mp2 .mp3 .oga .ogg .opus .rf64 .snd .sph .voc .w64 .wav .wave".split()
)
FFMPEG_EXTENSIONS = ffmpeg.EXTENSIONS
_NAMED = 3  # files that a message names


def is_audio_name(name: str) -> bool:
    """Whether a file name has the extension of an audio format."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS | FFMPEG_EXTENSIONS


def is_readable_name(name: str) -> bool:
    """Whether a file name has the extension of an audio format that is read on this machine."""
    extension = os.path.splitext(name)[1].lower()
    return extension in EXTENSIONS or (extension in FFMPEG_EXTENSIONS and ffmpeg.find_ffmpeg() is not None)


def describe_unreadable(names: Iterable[str]) -> str:
    """Counts and names the files that need ffmpeg, as a sentence; empty if there are none, or ffmpeg is installed."""
    if ffmpeg.find_ffmpeg() is not None:
        return ""
    files = sorted(name for name in names if ffmpeg.is_needed(name))
    if not files:
        return ""
    subject = "1 file is not read: it needs" if len(files) == 1 else f"{len(files)} files are not read: they need"
    return f"{subject} ffmpeg, which is not installed ({name_some(files, _NAMED)})"


def to_mono(waveform: np.ndarray, rate: float, sample_rate: int) -> np.ndarray:
    """Mixes the channels (`channels.mix`) and resamples with soxr's "VHQ" recipe (linear phase, 28 bit).

    Args:
        waveform: (samples, channels) at `rate` Hz.
        rate, sample_rate: Hz.

    Returns:
        (samples,) float32 at `sample_rate` Hz.
    """
    mono, _ = channels.mix(waveform, rate)
    return mono if rate == sample_rate else soxr.resample(mono, rate, sample_rate, quality="VHQ")


def load(source: bytes | str | os.PathLike[str], sample_rate: int, name: str = "") -> np.ndarray:
    """Decodes an audio file to (samples,) float32 in [-1, 1]: mono, at `sample_rate` Hz.

    Args:
        source: a path, or the bytes of a file.
        sample_rate: Hz.
        name: of the file, for error messages; by default its path.

    Raises:
        AudioError: the file cannot be used (`decoders.Recording`); it is not complete, or its header is not; it has no
            samples at that rate, samples that are NaN or infinite, or samples far outside of full scale.
    """
    name = name or ("" if isinstance(source, bytes) else os.fspath(source))
    pieces = []
    with Recording(source, name) as recording:
        for section in recording:
            # Values outside of float32's range become infinite here and are rejected below.
            with np.errstate(over="ignore", invalid="ignore"):
                pieces.append(to_mono(section.read(-1), section.decoder.rate, sample_rate))
    if recording.defect:
        raise AudioError(f"{name}: {recording.defect}")
    waveform = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    if not len(waveform):
        raise AudioError(f"{name}: holds no samples")
    if not np.isfinite(waveform).all():
        raise AudioError(f"{name}: holds samples that are not numbers")
    return waveform


def to_int16(waveform: np.ndarray) -> np.ndarray:
    """Converts float samples in [-1, 1] to 16-bit PCM, the format ESC-50 is published in."""
    return np.clip(np.rint(waveform * 32768.0), -32768, 32767).astype(np.int16)
