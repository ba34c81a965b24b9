"""Decoding with ffmpeg, as a process, of formats that libsndfile does not read."""

import contextlib
import os
import pathlib
import re
import shutil
import struct
import subprocess
import tempfile
import threading
from typing import IO

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
_TIMEOUT_S = 60.0  # for the next second of audio; the first includes the start of the program
_FRAMES = 1 << 16  # samples that are read at a time where all are asked for
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


class FfmpegDecoder:
    """Decodes the first audio track of a file.

    Samples arrive through a pipe as float32, in the format AU, whose header has the rate and the number of channels.

    Args:
        source: the file. One in memory is written to a temporary folder: many formats need random access.
        executable: path of ffmpeg.

    Attributes:
        rate: Hz.
        channels: their number.
        announced_s: duration in the header, s; 0 if there is none that is exact.
        error: message of the first error of ffmpeg, after the last block; or empty.

    Raises:
        AudioError: ffmpeg cannot read the file, or does not answer.
    """

    def __init__(self, source: Source, executable: str):
        self._name, self.error = source.name, ""
        self._stack = contextlib.ExitStack()
        try:
            name = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="esc_jax_", ignore_cleanup_errors=True))
            self._folder = pathlib.Path(name)
            self._process = self._start(executable, self._path(source))
            self._stack.callback(self._stop)
            self.rate, self.channels = self._read_header()
        except OSError as error:
            self.close()
            raise AudioError(f"{source.name}: ffmpeg cannot be run ({error.strerror})") from None
        except BaseException:
            self.close()
            raise
        text = self._text()
        match = None if any(mark in text for mark in _INEXACT) else _DURATION.search(text)
        self.announced_s = int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3]) if match else 0.0

    def _path(self, source: Source) -> pathlib.Path:
        if source.path is not None:
            return source.path.absolute()
        path = self._folder / "audio"
        path.write_bytes(source.read_at(0, source.size))
        return path

    @property
    def _messages(self) -> pathlib.Path:
        """The file that ffmpeg's stderr is written to."""
        return self._folder / "messages"

    def _start(self, executable: str, path: pathlib.Path) -> "subprocess.Popen[bytes]":
        command = [executable, "-nostdin", "-hide_banner", "-nostats", "-loglevel", "level+info"]
        command += ["-protocol_whitelist", "file,pipe", "-format_whitelist", _FORMATS, "-i", f"file:{path}"]
        command += ["-map", "0:a:0", "-map_metadata", "-1", "-c:a", "pcm_f32be", "-f", "au", "pipe:1"]
        with open(self._messages, "wb") as messages:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=messages)

    @property
    def _output(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    def _read(self, count: int) -> bytes:
        """The next bytes; fewer at the end. Raises AudioError if they do not come in time."""
        late = threading.Event()

        def stop() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(_TIMEOUT_S, stop)
        timer.daemon = True
        timer.start()
        try:
            content = self._output.read(count)
        finally:
            timer.cancel()
        if late.is_set():
            raise AudioError(f"{self._name}: ffmpeg did not answer for {_TIMEOUT_S:g} s")
        return content

    def _read_header(self) -> tuple[int, int]:
        """Rate and channels."""
        head = self._read(24)
        if len(head) < 24 or head[:4] != b".snd":
            self._wait()
            raise AudioError(f"{self._name}: not readable as audio ({self._first_error() or 'ffmpeg gives no audio'})")
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
            self._wait()
            self.error = self._first_error()
        samples = np.frombuffer(content, ">f4", len(content) // width * self.channels)
        return samples.astype(np.float32).reshape(-1, self.channels)

    def _wait(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_TIMEOUT_S)

    def _text(self) -> bytes:
        """What ffmpeg has written to stderr, up to a megabyte."""
        with open(self._messages, "rb") as file:
            return file.read(1 << 20)

    def _first_error(self) -> str:
        """The first message of an error, without the name of the file."""
        for message in _ERROR.findall(self._text().decode("utf-8", "replace")):
            if not any(mark in message for mark in _HARMLESS):
                return re.sub(r"^file:.*: ", "", message).strip().rstrip(".")[:200]
        return ""

    def _stop(self) -> None:
        self._process.kill()
        self._output.close()
        self._process.wait()

    def close(self) -> None:
        """Ends ffmpeg and removes temporary files."""
        self._stack.close()
