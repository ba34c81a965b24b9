"""Decoding with ffmpeg, as a process, of formats that libsndfile does not read, and of streams from the network."""

import contextlib
import io
import os
import pathlib
import re
import shutil
import struct
import subprocess
import tempfile
import threading

import numpy as np

from esc_jax.data.source import AudioError, Source

# Extensions of the files for which ffmpeg is used.
EXTENSIONS = frozenset(
    (
        ".3g2 .3gp .aac .ac3 .adts .amr .ape .asf .awb .dff .dsf .dts .eac3 .flv .m4a .m4b .m4r .m4v .mka .mkv .mov"
        " .mp+ .mp4 .mpc .mpp .spx .tta .webm .wma .wmv .wv"
    ).split()
)
# Formats of ffmpeg that read nothing but the file itself: playlists, for example, name other files.
_FORMATS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,asf_o,au,caf,dsf,dts,dtshd,eac3,flac,flv,iff,matroska,mov,mp3,mpc,mpc8,ogg,"
    "tta,w64,wav,wv,webm,mp4,m4a,3gp,xwma"
)
# Protocols of a stream from the network. A playlist in it cannot name files of this machine.
_NETWORK = "crypto,hls,http,httpproxy,https,mmsh,mmst,rtmp,rtmps,rtmpt,rtp,srt,srtp,tcp,tls,udp"
_SCHEMES = frozenset("http https mmsh mmst rtmp rtmps rtmpt rtp rtsp rtsps srt tcp udp".split())
_PROBE_US = "2000000"  # of a stream, to find out its format; ffmpeg takes 5 s
_TIMEOUT_S = 60.0  # for the next second of audio; the first includes the start of the program
_MAX_MESSAGES = 1 << 20  # bytes; a stream of months has many
_FRAMES = 1 << 16  # samples that are read at a time where all are asked for
_CREDENTIALS = re.compile(r"(?<=://)[^/?#\s]*@")
_DURATION = re.compile(rb"Duration: (\d+):(\d\d):(\d\d\.\d+)")
_ERROR = re.compile(r"^(?:\[.*?\] )*\[(?:error|fatal|panic)\] (.*)$", re.MULTILINE)
# Estimated durations, and those of the video beside the audio, say nothing about the audio.
_INEXACT = (b"Estimating duration from bitrate", b": Video: ")
_HARMLESS = ("non monotonically increasing dts", "Queue input is backward in time")


def find_ffmpeg() -> str | None:
    """Path of ffmpeg; None where it is not installed."""
    return shutil.which("ffmpeg")


def is_needed(name: str) -> bool:
    """Whether a file with this name is read with ffmpeg, by its extension."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def is_stream(text: str) -> bool:
    """Whether a text is the address of a stream that ffmpeg reads from the network, such as rtsp://…"""
    scheme, separator, _ = text.partition("://")
    return bool(separator) and scheme.lower() in _SCHEMES


def without_credentials(text: str) -> str:
    """A text with addresses, without the user names and passwords in them."""
    return _CREDENTIALS.sub("", text)


class FfmpegDecoder:
    """Decodes the first audio track of a file, or of a stream.

    Samples arrive through a pipe as float32, in the format AU, whose header has the rate and the number of channels.

    Args:
        source: the file, or the address of a stream (`is_stream`). A file in memory is written to a temporary folder:
            many formats need random access.
        executable: path of ffmpeg.
        timeout_s: longest time without an answer; None for a minute.

    Attributes:
        rate: Hz.
        channels: their number.
        announced_s: duration in the header, s; 0 if there is none that is exact.
        endless: whether the input has no duration, as streams of live sound.
        error: message of the first error of ffmpeg, after the last block; or empty.

    Raises:
        AudioError: ffmpeg cannot read the input, or does not answer.
    """

    def __init__(self, source: Source | str, executable: str, timeout_s: float | None = None):
        self._name, self.error = without_credentials(source) if isinstance(source, str) else source.name, ""
        self._timeout_s, self._rest = timeout_s or _TIMEOUT_S, b""
        self._stack = contextlib.ExitStack()
        try:
            name = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="esc_jax_", ignore_cleanup_errors=True))
            self._folder = pathlib.Path(name)
            self._messages = self._stack.enter_context(open(self._folder / "messages", "w+b", buffering=0))
            self._process = self._start(executable, self._input(source))
            self._stack.callback(self._stop)
            self.rate, self.channels = self._read_header()
            if os.name != "nt":  # now, when ffmpeg has opened the files: a signal can end this process at any time
                shutil.rmtree(self._folder, ignore_errors=True)
        except OSError as error:
            self.close()
            raise AudioError(f"{self._name}: ffmpeg cannot be run ({error.strerror})") from None
        except BaseException:
            self.close()
            raise
        text = self._text()
        match = _DURATION.search(text)
        self.endless = match is None
        match = None if any(mark in text for mark in _INEXACT) else match
        self.announced_s = int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3]) if match else 0.0

    def _input(self, source: Source | str) -> list[str]:
        """The options of ffmpeg for the input."""
        if isinstance(source, str):
            options = ["-protocol_whitelist", _NETWORK, "-analyzeduration", _PROBE_US]
            if source.lower().startswith("rtsp"):
                options += ["-rtsp_transport", "tcp", "-allowed_media_types", "audio"]
            return [*options, "-i", source, "-flush_packets", "1"]
        path = self._folder / "audio" if source.path is None else source.path.absolute()
        if source.path is None:
            path.write_bytes(source.read_at(0, source.size))
        return ["-protocol_whitelist", "file,pipe", "-format_whitelist", _FORMATS, "-i", f"file:{path}"]

    def _start(self, executable: str, options: list[str]) -> "subprocess.Popen[bytes]":
        command = [executable, "-nostdin", "-hide_banner", "-nostats", "-loglevel", "level+info", *options]
        command += ["-map", "0:a:0", "-map_metadata", "-1", "-c:a", "pcm_f32be", "-f", "au", "pipe:1"]
        # Not through self._messages, whose position ffmpeg would move; "a": it goes on at the beginning when emptied.
        with open(self._folder / "messages", "ab") as messages:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=messages)

    @property
    def _output(self) -> io.BufferedReader:
        assert isinstance(self._process.stdout, io.BufferedReader)
        return self._process.stdout

    def _read(self, count: int, available: bool = False) -> bytes:
        """The next bytes; fewer at the end, and with `available`. Raises AudioError if they do not come in time."""
        late = threading.Event()

        def stop() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(self._timeout_s, stop)
        timer.daemon = True
        timer.start()
        try:
            content = self._output.read1(count) if available else self._output.read(count)
        finally:
            timer.cancel()
        if late.is_set():
            raise AudioError(f"{self._name}: ffmpeg did not answer for {self._timeout_s:g} s")
        return content

    def _read_header(self) -> tuple[int, int]:
        """Rate and channels."""
        head = self._read(24)
        if len(head) < 24 or head[:4] != b".snd":
            self._wait()
            error = self._first_error() or "ffmpeg gives no audio"
            error = "it has no audio track" if "matches no streams" in error else error
            raise AudioError(f"{self._name}: not readable as audio ({error})")
        offset, _, _, rate, channels = struct.unpack(">5I", head[4:])
        self._read(max(0, offset - 24))
        if not rate or not channels:
            raise AudioError(f"{self._name}: not readable as audio (ffmpeg gives no audio)")
        return rate, channels

    def read(self, count: int) -> np.ndarray:
        """Returns the next (count, channels) samples, float32; fewer at the end. All that remain if `count` is −1."""
        if count < 0:
            blocks = [np.zeros((0, self.channels), np.float32)]
            while len(block := self.read(_FRAMES)):
                blocks.append(block)
            return np.concatenate(blocks)
        width = 4 * self.channels
        content = self._read(count * width)
        if len(content) < count * width:
            self._end()
        return self._samples(content)

    def read_available(self, count: int) -> np.ndarray:
        """Returns the next 1 to `count` samples (…, channels), float32, as soon as there are some; none at the end."""
        width = 4 * self.channels
        while len(self._rest) < width:
            content = self._read(count * width - len(self._rest), available=True)
            if not content:
                self._end()
                return self._samples(b"")
            self._rest += content
        whole = len(self._rest) // width * width
        content, self._rest = self._rest[:whole], self._rest[whole:]
        if self._messages.seek(0, os.SEEK_END) > _MAX_MESSAGES:
            self._messages.truncate(0)
        return self._samples(content)

    def _samples(self, content: bytes) -> np.ndarray:
        samples = np.frombuffer(content, ">f4", len(content) // (4 * self.channels) * self.channels)
        return samples.astype(np.float32).reshape(-1, self.channels)

    def _end(self) -> None:
        """Notes the error that ended the audio."""
        self._wait()
        self.error = self._first_error()

    def _wait(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(self._timeout_s)

    def _text(self) -> bytes:
        """What ffmpeg has written to stderr, up to a megabyte."""
        self._messages.seek(0)
        return self._messages.read(1 << 20)

    def _first_error(self) -> str:
        """The first message of an error, without the name of the file."""
        for message in _ERROR.findall(self._text().decode("utf-8", "replace")):
            if not any(mark in message for mark in _HARMLESS):
                message = re.sub(r"^(?:file:.*|[a-z]+://\S+): ", "", message)
                return without_credentials(message).strip().rstrip(".")[:200]
        return ""

    def _stop(self) -> None:
        self._process.kill()
        self._output.close()
        self._process.wait()

    def close(self) -> None:
        """Ends ffmpeg and removes temporary files."""
        self._stack.close()
