"""Live sound in chunks: raw PCM from a pipe, a stream or file that ffmpeg reads, and a microphone.

A thread reads the source, so that each chunk has the time at which it arrived. If a stream breaks, it is connected
again; what came before the break and what comes after it are segments of their own.
"""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import os
import queue
import sys
import threading
import time
from typing import Any, Protocol

import numpy as np

from esc_jax.data import channels, decoders, ffmpeg
from esc_jax.data.ffmpeg import FfmpegDecoder
from esc_jax.data.source import AudioError, Source
from esc_jax.errors import Failure, first_line

# Name of a PCM format → type of its samples, and full scale.
PCM_FORMATS = {"s16le": ("<i2", 32768.0), "f32le": ("<f4", 1.0)}
_CHUNK_S = 0.05  # of sound that is read at a time; a part of the latency
_WAITING_S = 10.0  # of sound that waits for the classifier before the source has to wait, or loses sound
_ANSWER_S = 20.0  # without sound, after which a stream or a microphone counts as broken
_END = "Stream ends prematurely"  # ffmpeg's word for the end of a stream without a length
_BACKOFF_S = (0.5, 30.0)  # from a break to the first attempt, and the longest time between attempts


if sys.platform == "win32":
    import msvcrt


class LiveError(Failure):
    """A source of live sound that cannot be used. The message is one sentence."""


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Consecutive samples.

    Attributes:
        samples: (n, channels) float32.
        arrived: when the last of them arrived, seconds since the epoch.
    """

    samples: np.ndarray
    arrived: float


class Connection(Protocol):
    """An open source.

    Attributes:
        rate: Hz.
        channels: their number.
        endless: whether its end is a break.
    """

    rate: int
    channels: int
    endless: bool

    def read(self) -> Chunk | None:
        """The next samples, as soon as there are some; None at the end. Raises LiveError or AudioError at a break."""

    def close(self) -> None:
        """Closes the source."""


class PcmPipe:
    """Raw samples, with interleaved channels, from a pipe or a file.

    Args:
        path: of a named pipe or a file; "-" for stdin.
        rate: Hz.
        channel_count: number of channels.
        sample_format: member of PCM_FORMATS.

    Raises:
        LiveError: the file cannot be opened, or stdin is a terminal.
    """

    endless = False

    def __init__(self, path: str, rate: int, channel_count: int, sample_format: str):
        self.rate, self.channels = rate, channel_count
        self._type, self._scale = PCM_FORMATS[sample_format]
        self._name = "stdin" if path == "-" else path
        if path == "-" and os.isatty(0):
            raise LiveError("--pcm=- reads samples from a pipe, but stdin is a terminal")
        try:
            self._descriptor = os.dup(0) if path == "-" else os.open(path, os.O_RDONLY)
        except OSError as error:
            raise LiveError(f"{path}: {error.strerror}") from None
        if sys.platform == "win32":
            msvcrt.setmode(self._descriptor, os.O_BINARY)
        self._width = np.dtype(self._type).itemsize * channel_count
        self._size = max(1, round(_CHUNK_S * rate)) * self._width
        self._rest = b""

    def read(self) -> Chunk | None:
        """As of `Connection`. An incomplete sample at the end is dropped."""
        content = self._rest
        while len(content) < self._width:
            try:
                piece = os.read(self._descriptor, self._size - len(content))
            except OSError as error:
                raise LiveError(f"{self._name}: {error.strerror}") from None
            if not piece:
                return None
            content += piece
        arrived, whole = time.time(), len(content) // self._width * self._width
        self._rest = content[whole:]
        samples = np.frombuffer(content[:whole], self._type).astype(np.float32) / np.float32(self._scale)
        return Chunk(samples.reshape(-1, self.channels), arrived)

    def close(self) -> None:
        """As of `Connection`."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class FfmpegStream:
    """A stream from the network or a file, read with ffmpeg.

    Args:
        address: of the stream, or path of the file.

    Raises:
        AudioError: it cannot be read.
        LiveError: ffmpeg is not installed.
    """

    def __init__(self, address: str):
        executable = ffmpeg.find_ffmpeg()
        name = ffmpeg.without_credentials(address)
        if executable is None:
            raise LiveError(f"{name}: needs ffmpeg, which is not installed")
        self._name, network = name, ffmpeg.is_stream(address)
        self._decoder = FfmpegDecoder(address if network else Source(address, name), executable, _ANSWER_S)
        self.rate, self.channels = self._decoder.rate, self._decoder.channels
        self.endless = network and self._decoder.endless
        self._size = max(1, round(_CHUNK_S * self.rate))

    def read(self) -> Chunk | None:
        """As of `Connection`."""
        samples = self._decoder.read_available(self._size)
        if len(samples):
            return Chunk(samples, time.time())
        if self._decoder.error and not self._decoder.error.startswith(_END):
            raise AudioError(f"{self._name}: {self._decoder.error}")
        return None

    def close(self) -> None:
        """As of `Connection`."""
        self._decoder.close()


def _sounddevice() -> Any:
    try:
        import sounddevice
    except ImportError:
        raise LiveError('the microphone needs sounddevice: pip install "esc-jax[live]"') from None
    except OSError:
        raise LiveError("the microphone needs PortAudio, which is not installed (Debian: libportaudio2)") from None
    return sounddevice


class Microphone:
    """An audio input of this machine.

    Args:
        device: its number, or a part of its name; None for the default.
        rate: Hz; None for that of the device.
        channel_count: number of channels.

    Raises:
        LiveError: sounddevice is not installed, or there is no such input.
    """

    endless = True

    def __init__(self, device: int | str | None, rate: int | None, channel_count: int):
        sounddevice = _sounddevice()
        self._chunks: queue.Queue[Chunk] = queue.Queue(round(_WAITING_S / _CHUNK_S))
        self._lost = False
        try:
            self.rate = rate or round(sounddevice.query_devices(device, "input")["default_samplerate"])
            self.channels = channel_count
            self._stream = sounddevice.InputStream(
                samplerate=self.rate, blocksize=round(_CHUNK_S * self.rate), device=device, channels=channel_count,
                dtype="float32", callback=self._receive,
            )  # fmt: skip
            self._stream.start()
        except (sounddevice.PortAudioError, ValueError) as error:
            name = "the microphone" if device is None else f"--device={device}"
            raise LiveError(f"{name} cannot be opened ({first_line(error)})") from None

    def _receive(self, samples: np.ndarray, count: int, times: Any, status: Any) -> None:
        """The callback of PortAudio, in its thread. `times` are those of the first sample and of this call."""
        if self._lost or (status and status.input_overflow):
            self._lost = True  # what follows is not the continuation of what is in the queue
            return
        delay = times.currentTime - times.inputBufferAdcTime - count / self.rate
        try:
            self._chunks.put_nowait(Chunk(samples.copy(), time.time() - max(0.0, delay)))
        except queue.Full:
            self._lost = True

    def read(self) -> Chunk | None:
        """As of `Connection`."""
        waiting = 0.0
        while waiting < _ANSWER_S:
            try:
                return self._chunks.get(timeout=0.5)
            except queue.Empty:
                if self._lost:
                    raise LiveError("samples were lost: this machine is too slow") from None
            waiting += 0.5
        raise LiveError("no sound arrives")

    def close(self) -> None:
        """As of `Connection`."""
        self._stream.close()


@dataclasses.dataclass(frozen=True)
class Segment:
    """Sound without a break.

    Attributes:
        rate: Hz.
        channels: their number.
        reason: why the segment before it ended; empty for the first.
        chunks: what is iterated over; to the end, before the next segment.
    """

    rate: int
    channels: int
    reason: str
    chunks: Iterator[Chunk]


class Capture:
    """Reads live sound in a thread, and connects again after a break.

    Args:
        name: of the source, for messages.
        connect: opens the source.
        notify: is called with a sentence at each break, in the thread.
        give_up_s: longest time without a connection, after which the error ends the iteration; None for no limit.
    """

    def __init__(
        self,
        name: str,
        connect: Callable[[], Connection],
        notify: Callable[[str], object] = lambda sentence: None,
        give_up_s: float | None = None,
    ):
        self.name, self._connect, self._notify, self._give_up_s = name, connect, notify, give_up_s
        self._items: queue.Queue[Any] = queue.Queue(round(_WAITING_S / _CHUNK_S))
        self._closed = threading.Event()
        self._connection: Connection | None = None
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)

    def __enter__(self) -> "Capture":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the thread, and ffmpeg. Can be called from a signal handler."""
        self._closed.set()
        if self._connection is not None:
            self._connection.close()

    def segments(self) -> Iterator[Segment]:
        """Yields the segments. Each has to be read to its end before the next is asked for.

        Raises:
            LiveError, AudioError: the source cannot be opened, did not come back, or has unusable samples.
        """
        self._thread.start()
        while isinstance(item := self._next(), tuple):
            rate, channel_count, reason = item
            yield Segment(rate, channel_count, reason, self._chunks())

    def _next(self) -> Any:
        while True:
            with contextlib.suppress(queue.Empty):  # with a limit: Windows would not notice Ctrl-C
                item = self._items.get(timeout=1.0)
                break
        if isinstance(item, BaseException):
            raise item
        return item

    def _chunks(self) -> Iterator[Chunk]:
        while isinstance(item := self._next(), Chunk):
            yield item

    def _put(self, item: Any) -> None:
        while not self._closed.is_set():
            with contextlib.suppress(queue.Full):
                self._items.put(item, timeout=1.0)
                return

    def _run(self) -> None:
        """The thread: puts (rate, channels, reason) for a segment, its chunks, and None at its end; None at last."""
        reason = ""
        try:
            self._connection = self._connect()
            while (reason := self._forward(self._connection, reason)) and not self._closed.is_set():
                self._notify(f"{self.name}: {reason}; connecting again")
                self._connection = self._reconnect()
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _forward(self, connection: Connection, reason: str) -> str:
        """Forwards the chunks of a connection. Returns why it broke; empty at the end of a source that has an end."""
        cause, opened = "the stream ended", False
        try:
            decoders.check_rate(connection.rate, self.name)
            while chunk := connection.read():
                decoders.check_level(chunk.samples, self.name)
                if not opened:
                    self._put((connection.rate, connection.channels, reason))
                    opened = True
                self._put(chunk)
        except (LiveError, AudioError) as error:
            if not connection.endless:
                raise
            cause = first_line(error).removeprefix(f"{self.name}: ")
        finally:
            connection.close()
        if opened:
            self._put(None)
            return cause if connection.endless else ""
        return (reason or cause) if connection.endless else ""

    def _reconnect(self) -> Connection:
        begin, wait = time.monotonic(), _BACKOFF_S[0]
        while not self._closed.wait(wait):
            try:
                return self._connect()
            except (LiveError, AudioError) as error:
                waited = time.monotonic() - begin
                if self._give_up_s is not None and waited > self._give_up_s:
                    problem = first_line(error).removeprefix(f"{self.name}: ")
                    raise LiveError(f"{self.name}: did not come back for {waited:.0f} s ({problem})") from None
            wait = min(2 * wait, _BACKOFF_S[1])
        raise LiveError(f"{self.name}: closed")


def mono(segment: Segment, channel: int | None = None) -> Iterator[np.ndarray]:
    """The chunks of a segment with one channel.

    Args:
        segment: of live sound.
        channel: the one to use, from 0; None for the mean (`channels.mix`), which is decided for a second at a time, as
            for recordings: its chunks have a second.

    Yields:
        (samples,) float32.
    """
    if segment.channels == 1 or channel is not None:
        for chunk in segment.chunks:
            yield np.ascontiguousarray(chunk.samples[:, channel or 0])
        return
    size = channels.block_size(segment.rate, segment.channels)
    waiting: list[np.ndarray] = []
    count = 0
    for chunk in segment.chunks:
        waiting.append(chunk.samples)
        count += len(chunk.samples)
        if count >= size:
            samples = np.concatenate(waiting)
            whole = count // size * size
            yield channels.mix(samples[:whole], segment.rate)[0]
            waiting, count = [samples[whole:]], count - whole
    if count:
        yield channels.mix(np.concatenate(waiting), segment.rate)[0]


def list_devices() -> str:
    """The audio inputs and outputs of this machine, one in each line. Raises LiveError."""
    return (str(_sounddevice().query_devices()) or "no audio devices") + "\n"
