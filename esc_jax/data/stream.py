"""Reads recordings of any length block by block, and cuts them into windows."""

from collections.abc import Iterable, Iterator
import os

import numpy as np
import soundfile
import soxr

from esc_jax.data import audio
from esc_jax.data.audio import AudioError

# Upper limit of samples × channels decoded at a time.
_BLOCK = 1 << 18


class AudioStream:
    """Iterates over an audio file in blocks of mono float32 samples at one rate.

    The concatenated blocks equal `audio.load` bit by bit, except for MP3, whose decoder does not always round the last
    bit in the same way.

    Args:
        source: a path, or the bytes of a file: any format that soundfile reads.
        sample_rate: Hz of the blocks.
        name: of the file, for error messages; by default its path.

    Attributes:
        rate, channels: of the file.
        announced_s: length according to the header, seconds; 0 if the header has none.
        truncation: where the file ended, if it was before that length; available after the last block, else empty.
        note: a sentence on it, or empty.

    Raises:
        AudioError: the file is missing, empty or not audio; while iterating: it holds no samples, or NaN or infinite
            ones.
    """

    def __init__(self, source: bytes | str | os.PathLike[str], sample_rate: int, name: str = ""):
        self.name = name or ("" if isinstance(source, bytes) else os.fspath(source))
        self.sample_rate = sample_rate
        self.truncation = ""
        self._file, self.announced_s = audio.open_audio(source, self.name)
        self.rate, self.channels = self._file.samplerate, self._file.channels

    @property
    def note(self) -> str:
        """A sentence on the truncation."""
        return self.truncation and f"{self.name}: {self.truncation}; only what is there was classified"

    def close(self) -> None:
        """Closes the file of a stream that will not be iterated over."""
        self._file.close()

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yields blocks (samples,) of about one second."""
        resampler = None
        if self.rate != self.sample_rate:
            resampler = soxr.ResampleStream(self.rate, self.sample_rate, 1, dtype="float32", quality="VHQ")
        for block in self._mono():
            # Values outside of float32's range become infinite here and are rejected below.
            with np.errstate(over="ignore", invalid="ignore"):
                block = block if resampler is None else resampler.resample_chunk(block)
            yield self._check_finite(block)
        if resampler is not None:
            yield self._check_finite(resampler.resample_chunk(np.zeros(0, np.float32), last=True))

    def _mono(self) -> Iterator[np.ndarray]:
        size = max(1, min(self.rate, _BLOCK // self.channels))
        read, error = 0, ""
        with self._file as file:
            while True:
                try:
                    block = file.read(size, dtype="float32", always_2d=True)
                except (soundfile.SoundFileError, ValueError, OverflowError) as problem:
                    block, error = np.zeros((0, 1), np.float32), audio.reason(problem)
                if not len(block):
                    break
                read += len(block)
                with np.errstate(over="ignore", invalid="ignore"):
                    mono = audio.to_mono(block, self.rate, self.rate)
                yield mono
        if not read:
            raise AudioError(
                f"{self.name}: not readable as audio ({error})" if error else f"{self.name}: holds no samples"
            )
        self.truncation = audio.describe_truncation(read / self.rate, self.announced_s, error)

    def _check_finite(self, block: np.ndarray) -> np.ndarray:
        if not np.isfinite(block).all():
            raise AudioError(f"{self.name}: holds samples that are not numbers")
        return block


def windows(blocks: Iterable[np.ndarray], size: int, hop: int) -> Iterator[tuple[int, np.ndarray]]:
    """Cuts a signal that comes in blocks into windows; holds at most one window and one block in memory.

    Windows start at 0, hop, 2·hop, … as long as they fit. If the last of them ends before the signal, one more window
    is added that ends with the signal. A signal shorter than `size` is one window, shorter than the others.

    Args:
        blocks: (samples,) each.
        size, hop: samples.

    Yields:
        (start, samples): first sample of the window, and (size,) float32.
    """
    buffer, begin, start = np.zeros(0, np.float32), 0, 0  # `buffer` starts at sample `begin`
    for block in blocks:
        buffer = np.concatenate([buffer, block])
        end = begin + len(buffer)
        while start + size <= end:
            yield start, buffer[start - begin : start - begin + size]
            start += hop
        drop = max(0, min(start, end - size) - begin)  # the last window may still need `size` samples
        buffer, begin = buffer[drop:], begin + drop
    end = begin + len(buffer)
    if end and (start == 0 or start - hop + size < end):
        start = max(0, end - size)
        yield start, buffer[start - begin :]
