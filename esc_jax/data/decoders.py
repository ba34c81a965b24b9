"""Opening audio files: libsndfile for what it reads, section by section, and ffmpeg for other formats."""

from collections.abc import Iterator
import os

import numpy as np
import soundfile

from esc_jax.data import ffmpeg
from esc_jax.data.containers import registry
from esc_jax.data.containers.part import WHOLE, Part
from esc_jax.data.ffmpeg import FfmpegDecoder
from esc_jax.data.source import AudioError, Source

# Other sample rates come from damaged headers: at 3 Hz, one second of audio would last hours.
RATES_HZ = (1_000, 1_000_000)
# Floating-point samples far outside of full scale, which is 1, are integers that were not scaled. Decoders of
# compressed audio exceed full scale a little; 8 is 18 dB above it.
MAX_LEVEL = 8.0
# An MP3 without a length in its header has an estimated one, right to a frame or two of 1152 samples.
_MISSING_S = 0.2
_FRAMES = 1 << 16  # samples that are read at a time where all are asked for
_ERRORS = (soundfile.SoundFileError, ValueError, OverflowError, MemoryError)
_EMPTY = "holds no samples"
# Encodings of libsndfile, FLAC among them, of which the samples after a seek are those without it, bit by bit.
_EXACT = {"PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"}


def reason(error: Exception) -> str:
    """Returns the message of an exception of soundfile without the file name that it begins with."""
    message = str(error).rpartition("': ")[2].rpartition(">: ")[2].strip().rstrip(".")
    # libsndfile's message for a file without MPEG audio that is named as one.
    return "Format not recognised" if message.startswith("File does not exist or is not a regular file") else message


def check_rate(rate: float, name: str) -> None:
    """Raises AudioError for a sample rate outside of RATES_HZ."""
    if not RATES_HZ[0] <= rate <= RATES_HZ[1]:
        raise AudioError(f"{name}: a sample rate of {rate:.15g} Hz; it must be {RATES_HZ[0]} to {RATES_HZ[1]} Hz")


def check_level(samples: np.ndarray, name: str) -> None:
    """Raises AudioError for samples above MAX_LEVEL. Infinite samples are left to other checks."""
    peak = float(np.abs(samples).max()) if samples.size else 0.0
    if MAX_LEVEL < peak < np.inf:
        raise AudioError(
            f"{name}: samples of up to {peak:.6g}, where full scale is 1: integers in the place of floating-point"
            " numbers; convert the file, for example by a division by 32768"
        )


class _Sequential(soundfile.SoundFile):
    """A file of unknown length. soundfile would seek after every block, which fails for the last one."""

    def seekable(self) -> bool:
        return False


class SndfileDecoder:
    """Decodes a section of a file with libsndfile.

    Args:
        source: the file.
        part: the section.

    Attributes:
        rate: Hz.
        channels: their number.
        announced_s: length that the header promises, s; 0 if it has none.
        error: message of an error that ended the audio, after the last block; or empty.

    Raises:
        AudioError: libsndfile cannot read the section.
    """

    def __init__(self, source: Source, part: Part):
        self.error = ""
        try:
            self._file = soundfile.SoundFile(part.view or source.open())
            # An unknown length is the largest number there is.
            known = self._file.frames < 1 << 62
            if not known:
                self._file.close()
                self._file = _Sequential(part.view or source.open())
        except (*_ERRORS, TypeError) as error:
            raise AudioError(f"{source.name}: not readable as audio ({reason(error)})") from None
        self.rate, self.channels = self._file.samplerate, self._file.channels
        frames = self._file.frames if known else 0
        self.announced_s = frames / self.rate / part.present if frames > 0 and part.present > 0 else 0.0

    def read(self, count: int) -> np.ndarray:
        """Returns the next (count, channels) samples, float32; fewer at the end. All that remain if `count` is −1."""
        if count < 0:  # soundfile reads as much only of files whose length is known, and in which libsndfile can seek
            blocks = [np.zeros((0, self.channels), np.float32)]
            while len(block := self.read(_FRAMES)):
                blocks.append(block)
            return np.concatenate(blocks)
        try:
            return self._file.read(count, dtype="float32", always_2d=True)
        except _ERRORS as error:
            self.error = reason(error)
            return np.zeros((0, self.channels), np.float32)

    def skip(self, count: int) -> int:
        """Skips samples without decoding them. Returns how many: at most `count`, and 0 where seeking is not exact."""
        if self._file.subtype not in _EXACT or not self._file.seekable():
            return 0
        try:
            before = self._file.tell()
            return self._file.seek(min(before + count, self._file.frames)) - before
        except _ERRORS as error:
            self.error = reason(error)
            return 0

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class Section:
    """A section of a recording with its decoder.

    Attributes:
        decoder: of the section.
        name: of the file, for error messages.
        label: "part 2 of 3" where a file has several, else empty.
        read_s: how much has been read, s.
    """

    def __init__(self, decoder: SndfileDecoder | FfmpegDecoder, part: Part, name: str, label: str = ""):
        self.decoder, self.name, self.label = decoder, name, label
        self._part = part
        self.read_s = 0.0

    def read(self, count: int) -> np.ndarray:
        """As that of the decoder. Raises AudioError for samples far outside of full scale, and what ffmpeg raises."""
        samples = self.decoder.read(count)
        check_level(samples, self.name)
        self.read_s += len(samples) / self.decoder.rate
        return samples

    def skip(self, count: int) -> int:
        """As that of the decoder; 0 for ffmpeg, and for a section that is not a whole file."""
        if self._part != WHOLE or not isinstance(self.decoder, SndfileDecoder):
            return 0
        skipped = self.decoder.skip(count)
        self.read_s += skipped / self.decoder.rate
        return skipped

    @property
    def defect(self) -> str:
        """What is wrong with a section that has been read to its end, as the end of a sentence on it; or empty.

        It ended in an error, or before the length that the header or the structure of the file promises; or a part
        inside it is damaged; or the header was never completed.
        """
        announced_s, error = self.decoder.announced_s, self.decoder.error
        ended = error or self._part.truncated
        if self._part.damage and not ended:
            return f"{self.label} is damaged ({self._part.damage})".lstrip()
        if ended or self.read_s < announced_s - _MISSING_S:
            cause = error or self._part.reason
            length, whole = f"{self.read_s:.1f}", f"{announced_s:.1f}"
            length += f" of {whole}" if announced_s > self.read_s and whole != length else ""
            return f"{self.label} breaks off after {length} s{f' ({cause})' if cause else ''}".lstrip()
        header = f"header of {self.label}" if self.label else "header"
        return f"the {header} was never completed" if self._part.unfinished else ""


class Recording:
    """An open audio file. Iteration gives its sections, which are read one after the other.

    Most files have one section. Joined files have several, which may differ in sample rate and channels.

    Args:
        source: a path, or the bytes of a file.
        name: of the file, for error messages.

    Attributes:
        name: of the file.
        rate, channels: of the first section.
        announced_s: length according to the header, s; 0 if the header has none, and for joined files.
        section: that is read; at the beginning, the first.

    Raises:
        AudioError: the file is missing, not a regular file, unreadable, empty, or not audio, or it needs ffmpeg.
    """

    def __init__(self, source: bytes | str | os.PathLike[str], name: str):
        self.name = name
        self._source = Source(source, name)
        self._open: SndfileDecoder | FfmpegDecoder | None = None
        self._defects: list[str] = []
        try:
            foreign = registry.foreign_format(self._source)
            self._parts = registry.parts(self._source)
            self.section = self._first_section(foreign)
        except BaseException:
            self.close()
            raise
        decoder = self.section.decoder
        self.rate, self.channels = decoder.rate, decoder.channels
        self.announced_s = decoder.announced_s if len(self._parts) == 1 else 0.0

    def _first_section(self, foreign: str) -> Section:
        """The first section; `foreign` is the name of the format if libsndfile does not read it."""
        if foreign:
            return self._ffmpeg_section(foreign)
        try:
            return self._section(0)
        except AudioError as error:
            if ffmpeg.is_needed(self.name):
                return self._ffmpeg_section(os.path.splitext(self.name)[1])
            unimplemented = "unimplemented format" in str(error) and registry.is_wave(self._source)
            if unimplemented or "unsupported encoding" in str(error) or registry.is_multiplexed(self._source):
                return self._ffmpeg_section("its encoding")
            raise

    def _ffmpeg_section(self, format_name: str) -> Section:
        """The whole file as one section, read with ffmpeg."""
        executable = ffmpeg.find_ffmpeg()
        if executable is None:
            raise AudioError(f"{self.name}: {format_name} needs ffmpeg, which is not installed")
        reasons = [part.reason for part in self._parts if part.truncated]
        damage = next((part.damage for part in self._parts if part.damage), "")
        self._parts = [Part(truncated=bool(reasons), reason="".join(reasons[:1]), damage=damage)]
        self._open = FfmpegDecoder(self._source, executable)
        check_rate(self._open.rate, self.name)
        return Section(self._open, self._parts[0], self.name)

    def _section(self, number: int) -> Section:
        part, count = self._parts[number], len(self._parts)
        self._open = SndfileDecoder(self._source, part)
        check_rate(self._open.rate, self.name)
        return Section(self._open, part, self.name, f"part {number + 1} of {count}" if count > 1 else "")

    def __iter__(self) -> Iterator[Section]:
        """Yields the sections. Each has to be read before the next is asked for.

        Raises:
            AudioError: none of them has samples.
        """
        read_s, error = 0.0, ""
        for number in range(len(self._parts)):
            if number:
                self._close_decoder()
                try:
                    self.section = self._section(number)
                except AudioError as problem:
                    what = str(problem).removeprefix(f"{self.name}: ")
                    self._defects.append(f"part {number + 1} of {len(self._parts)} is {what}")
                    continue
            section = self.section
            yield section
            read_s += section.read_s
            error = error or section.decoder.error
            if section.defect:
                self._defects.append(section.defect)
        if not read_s:
            raise AudioError(f"{self.name}: not readable as audio ({error})" if error else f"{self.name}: {_EMPTY}")

    @property
    def defect(self) -> str:
        """What is wrong with a file that has been read to its end, as the end of a sentence on it; or empty."""
        return ", ".join(self._defects)

    def _close_decoder(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None

    def close(self) -> None:
        """Closes the file, and ends ffmpeg."""
        self._close_decoder()
        self._source.close()

    def __enter__(self) -> "Recording":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
