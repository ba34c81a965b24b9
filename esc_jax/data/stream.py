"""Reads recordings of any length block by block, and cuts them into windows."""

from collections.abc import Iterable, Iterator, Sequence
import os

import numpy as np
import soxr

from esc_jax.data import channels
from esc_jax.data.decoders import Recording, Section
from esc_jax.data.source import AudioError

_CANCELS = "its channels cancel each other, and one of them was used"


class AudioStream:
    """Iterates over an audio file in blocks of mono float32 samples at one rate.

    The concatenated blocks equal `audio.load` bit by bit, except for MP3, whose decoder does not always round the last
    bit in the same way. A file that breaks off is read as far as it goes.

    Args:
        source: a path, or the bytes of a file, as for `decoders.Recording`.
        sample_rate: Hz of the blocks.
        name: of the file, for error messages; by default its path.

    Attributes:
        rate, channels: of the file; of its first part, where files were joined.
        announced_s: length according to the header, seconds; 0 if the header has none.
        samples: number of samples yielded so far.
        defect: what is wrong with the file (it breaks off, or its header was never completed), as the end of a
            sentence; available after the last block, else empty.
        note: a sentence on that, and on channels that cancel each other; or empty.

    Raises:
        AudioError: the file is missing, empty, not audio, or needs ffmpeg; while iterating: it holds no samples, NaN or
            infinite ones, or samples far outside of full scale.
    """

    def __init__(self, source: bytes | str | os.PathLike[str], sample_rate: int, name: str = ""):
        self.name = name or ("" if isinstance(source, bytes) else os.fspath(source))
        self.sample_rate = sample_rate
        self.defect = ""
        self.samples = 0
        self._cancels = False
        self._recording = Recording(source, self.name)
        self.announced_s = self._recording.announced_s
        self.rate, self.channels = self._recording.rate, self._recording.channels

    @property
    def note(self) -> str:
        """A sentence on what is wrong with the file, and on channels that cancel each other."""
        return self.describe("classified")

    def describe(self, use: str) -> str:
        """As `note`, for what is done with the samples, such as "classified"."""
        parts = [f"{self.defect}; only what is there was {use}"] if self.defect else []
        parts += [_CANCELS] if self._cancels else []
        return f"{self.name}: {'; '.join(parts)}" if parts else ""

    def skip(self, count: int) -> int:
        """Skips samples without decoding them, before the first block or between two; they are not checked.

        Args:
            count: largest number of samples.

        Returns:
            Number of skipped samples: whole blocks, since channels are mixed block by block. 0 where the file is
            resampled, since the last bit of a resampled signal depends on where it begins, or where its decoder cannot
            seek to the sample.
        """
        section = self._recording.section
        if section.decoder.rate != self.sample_rate:
            return 0
        size = channels.block_size(section.decoder.rate, section.decoder.channels)
        skipped = section.skip(max(0, count) // size * size)
        self.samples += skipped
        return skipped

    def close(self) -> None:
        """Closes the file of a stream that will not be iterated over."""
        self._recording.close()

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yields blocks (samples,) of about one second."""
        with self._recording:
            for section in self._recording:
                for block in self._resampled(section):
                    self.samples += len(block)
                    yield block
        self.defect = self._recording.defect

    def _resampled(self, section: Section) -> Iterator[np.ndarray]:
        return resample(self._mono(section), section.decoder.rate, self.sample_rate, self.name)

    def _mono(self, section: Section) -> Iterator[np.ndarray]:
        rate = section.decoder.rate
        size = channels.block_size(rate, section.decoder.channels)
        while len(block := section.read(size)):
            mono, cancels = channels.mix(block, rate)
            self._cancels |= cancels
            yield mono


def resample(blocks: Iterable[np.ndarray], rate: int, sample_rate: int, name: str) -> Iterator[np.ndarray]:
    """Resamples a signal that comes in blocks; their borders do not change the result.

    Args:
        blocks: (samples,) float32 at `rate` Hz.
        rate, sample_rate: Hz.
        name: of the recording, for errors.

    Yields:
        (samples,) float32 at `sample_rate` Hz, about as long as each block, and the rest at the end.

    Raises:
        AudioError: samples are NaN or infinite.
    """

    def checked(block: np.ndarray) -> np.ndarray:
        if not np.isfinite(block).all():
            raise AudioError(f"{name}: holds samples that are not numbers")
        return block

    if rate == sample_rate:
        yield from map(checked, blocks)
        return
    resampler = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32", quality="VHQ")
    for block in blocks:
        # Values outside of float32's range become infinite here and are rejected below.
        with np.errstate(over="ignore", invalid="ignore"):
            block = resampler.resample_chunk(block)
        yield checked(block)
    yield checked(resampler.resample_chunk(np.zeros(0, np.float32), last=True))


class Excerpt:
    """Iterates over a part of a stream, in blocks. The recording is decoded up to the end of the part.

    What is before the part is skipped where `AudioStream.skip` can.

    Args:
        stream: the recording.
        start_s: begin of the part, seconds.
        end_s: end of the part, seconds; None for the end of the recording.

    Raises:
        AudioError: while iterating: the recording ends before the part begins.
    """

    def __init__(self, stream: AudioStream, start_s: float = 0.0, end_s: float | None = None):
        self.name = stream.name
        self._stream = stream
        self._start = round(start_s * stream.sample_rate)
        self._stop = None if end_s is None else max(round(end_s * stream.sample_rate), self._start + 1)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yields blocks (samples,)."""
        begin = self._stream.skip(self._start)  # first sample of the block
        for block in self._stream:
            stop = len(block) if self._stop is None else max(0, self._stop - begin)
            part = block[max(0, self._start - begin) : stop]
            begin += len(block)
            if len(part):
                yield part
            if self._stop is not None and begin >= self._stop:
                self._stream.close()
                break
        if begin <= self._start:
            rate = self._stream.sample_rate
            raise AudioError(
                f"{self.name}: ends after {begin / rate:.1f} s, before the part at {self._start / rate:.1f} s"
            )


def cut(stream: AudioStream, spans: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    """Parts of a recording, which is decoded once, up to the end of the last part, without what `skip` can skip.

    Args:
        stream: the recording.
        spans: (begin, end) of each part in samples at the rate of the stream.

    Returns:
        (n,) float32 of each part, as far as the recording has it.
    """
    pieces: list[list[np.ndarray]] = [[] for _ in spans]
    begin, last = 0, max((stop for _, stop in spans), default=0)
    blocks = iter(stream)
    while begin < last:
        begin += stream.skip(min(start for start, stop in spans if stop > begin) - begin)
        if (block := next(blocks, None)) is None:
            break
        for piece, (start, stop) in zip(pieces, spans, strict=True):
            part = block[max(0, start - begin) : max(0, stop - begin)]
            if len(part):  # even an empty view would keep its block in memory
                piece.append(part.copy())
        begin += len(block)
    stream.close()
    return [np.concatenate([np.zeros(0, np.float32), *piece]) for piece in pieces]


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
