"""Recordings of any length, block by block, and the windows that slide over them."""

from collections.abc import Iterable, Iterator
import os

import numpy as np
import soundfile
import soxr

from esc_jax.data import audio
from esc_jax.data.audio import AudioError

# Samples per block and channel count decoded at a time, at most.
_BLOCK = 1 << 18


class AudioStream:
    """An audio file as blocks of mono float32 samples at one rate: together, what `audio.load` gives.

    To the bit, but for MP3, whose decoder rounds the last bit differently from one read to the next.

    Args:
        path: any format that soundfile reads.
        sample_rate: Hz of the blocks.

    Attributes:
        rate, channels: of the file.
        announced_s: its length as the header has it; 0 where the header doesn't say.
        note: a sentence where the file ended before its announced length, known after the last block; else empty.

    Raises:
        AudioError: the file is missing, empty or not audio; in the blocks, it holds no samples or samples that are
            not numbers.
    """

    def __init__(self, path: str | os.PathLike, sample_rate: int):
        self.name = os.fspath(path)
        self.sample_rate = sample_rate
        self.note = ""
        self._file, self.announced_s = audio.opened(path, self.name)
        self.rate, self.channels = self._file.samplerate, self._file.channels

    def __iter__(self) -> Iterator[np.ndarray]:
        """Blocks (samples,), of about a second each."""
        resampler = None
        if self.rate != self.sample_rate:
            resampler = soxr.ResampleStream(self.rate, self.sample_rate, 1, dtype="float32", quality="VHQ")
        for block in self._mono():
            # Numbers out of float32's range become infinite here, and are refused below.
            with np.errstate(over="ignore", invalid="ignore"):
                block = block if resampler is None else resampler.resample_chunk(block)
            yield self._finite(block)
        if resampler is not None:
            yield self._finite(resampler.resample_chunk(np.zeros(0, np.float32), last=True))

    def _mono(self) -> Iterator[np.ndarray]:
        size = max(1, min(self.rate, _BLOCK // self.channels))
        read, error = 0, ""
        with self._file as file:
            while True:
                try:
                    block = file.read(size, dtype="float32", always_2d=True)
                except (soundfile.SoundFileError, ValueError, OverflowError) as found:
                    block, error = np.zeros((0, 1), np.float32), audio.reason(found)
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
        if said := audio.breaks_off(read / self.rate, self.announced_s, error):
            self.note = f"{self.name}: {said}; only what is there was classified"

    def _finite(self, block: np.ndarray) -> np.ndarray:
        if not np.isfinite(block).all():
            raise AudioError(f"{self.name}: holds samples that are not numbers")
        return block


def windows(blocks: Iterable[np.ndarray], size: int, hop: int) -> Iterator[tuple[int, np.ndarray]]:
    """Windows of a signal that comes in blocks, as (start, samples), holding no more of it than a window and a block.

    They start at 0, hop, 2·hop, … as long as they fit. Where the last of them ends before the signal does, one more is
    placed so that it ends with the signal. A signal shorter than a window is one window, shorter than the others.
    """
    kept, begin, start = np.zeros(0, np.float32), 0, 0  # `kept` begins at sample `begin`
    for block in blocks:
        kept = np.concatenate([kept, block])
        end = begin + len(kept)
        while start + size <= end:
            yield start, kept[start - begin : start - begin + size]
            start += hop
        drop = max(0, min(start, end - size) - begin)  # the last window may still need `size` samples
        kept, begin = kept[drop:], begin + drop
    end = begin + len(kept)
    if end and (start == 0 or start - hop + size < end):
        start = max(0, end - size)
        yield start, kept[start - begin :]
