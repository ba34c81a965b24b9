"""Formats that need ffmpeg: with a program in its place, with ffmpeg itself where it is installed, and without it."""

import os
import shutil
import struct
import subprocess
import time

import numpy as np
import pytest

from esc_jax.data import audio, ffmpeg
from esc_jax.data.audio import AudioError
from esc_jax.data.stream import AudioStream
from tests.data.audio_files import RATE, encode
from tests.inference.sounds import sound

MP4 = b"\0\0\0\x20ftypM4A \0\0\0\0M4A mp42isom" + bytes(200)
posix = pytest.mark.skipif(os.name != "posix", reason="scripts are programs on POSIX only")
real = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")


@pytest.fixture
def no_ffmpeg(monkeypatch, tmp_path):
    """An environment without ffmpeg."""
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))


@pytest.fixture
def program(monkeypatch, tmp_path):
    """Puts a shell script in the place of ffmpeg: `program(script)`. It finds the samples of `au(…)` in $AU."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("AU", str(tmp_path / "au"))

    def write(script, samples=None, rate=RATE):
        samples = sound(3.0, rate, 2) if samples is None else samples
        head = struct.pack(">4s5I8x", b".snd", 32, 0xFFFFFFFF, 6, rate, samples.shape[1])
        (tmp_path / "au").write_bytes(head + samples.astype(">f4").tobytes())
        (folder / "ffmpeg").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "ffmpeg").chmod(0o755)
        return samples

    return write


def read(source, name="x.m4a"):
    stream = AudioStream(source, RATE, name)
    return np.concatenate(list(stream)), stream


@pytest.mark.parametrize(
    "name, content, kind",
    [
        ("phone.m4a", MP4, "MPEG-4"),
        ("browser.webm", b"\x1a\x45\xdf\xa3" + bytes(99), "Matroska or WebM"),
        ("old.wma", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11" + bytes(99), "WMA"),
        ("phone.amr", b"#!AMR\n" + bytes(99), "AMR"),
        ("a.aac", b"\xff\xf1\x50\x80" + bytes(99), "AAC"),
        ("a.ac3", b"\x0b\x77" + bytes(99), "AC-3"),
        ("a.wv", b"wvpk" + bytes(99), "WavPack"),
        ("a.ape", b"MAC " + bytes(99), "Monkey's Audio"),
        ("wrong.wav", MP4, "MPEG-4"),
        ("unknown.m4a", b"something else" * 9, ".m4a"),
    ],
)
def test_one_sentence_says_that_ffmpeg_is_needed(no_ffmpeg, tmp_path, name, content, kind):
    path = tmp_path / name
    path.write_bytes(content)
    sentence = f"^{path}: {kind} needs ffmpeg, which is not installed$"
    for use in (lambda: AudioStream(path, RATE), lambda: audio.load(path, RATE)):
        with pytest.raises(AudioError, match=sentence):
            use()


@pytest.mark.parametrize("code", [b"\xff\0", b"\x45\0", b"\xac\xf1"])  # AAC, G.726, FLAC
def test_compressed_audio_in_wav_files_needs_ffmpeg(no_ffmpeg, code):
    content = encode(sound(0.5, RATE), "wav")
    place = content.index(b"fmt ") + 8
    content = content[:place] + code + content[place + 2 :]
    with pytest.raises(AudioError, match="^x: WAV with compressed audio needs ffmpeg, which is not installed$"):
        AudioStream(content, RATE, "x")


@posix
def test_samples_come_through_a_pipe(program, tmp_path):
    samples = program('cat "$AU"')
    (tmp_path / "-a b$(x).m4a").write_bytes(MP4)
    for source in (tmp_path / "-a b$(x).m4a", MP4):
        result, stream = read(source)
        np.testing.assert_array_equal(result, samples.mean(axis=1))
        assert stream.note == "" and (stream.rate, stream.channels) == (RATE, 2)
        np.testing.assert_array_equal(audio.load(source, RATE, "x"), result)


@posix
def test_the_command_line(program, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program('printf "%s\\n" "$@" > arguments; cat "$AU"')
    (tmp_path / "-i.m4a").write_bytes(MP4)
    read("-i.m4a")
    arguments = (tmp_path / "arguments").read_text().splitlines()
    assert arguments[arguments.index("-i") + 1] == f"file:{tmp_path}/-i.m4a"
    assert arguments[arguments.index("-protocol_whitelist") + 1] == "file,pipe" and "-nostdin" in arguments
    whitelist = arguments[arguments.index("-format_whitelist") + 1].split(",")
    assert not {"hls", "concat", "sdp", "image2", "lavfi", "rtsp", "dash"} & set(whitelist)


@posix
def test_the_length_in_the_header_is_compared(program):
    duration = "echo '[info]   Duration: 00:00:06.00, start: 0.000000, bitrate: 48 kb/s' >&2"
    program(f'{duration}; cat "$AU"')
    result, stream = read(MP4)
    assert len(result) == 3 * RATE and stream.announced_s == 6.0
    assert stream.note == "x.m4a: breaks off after 3.0 of 6.0 s; only what is there was classified"
    with pytest.raises(AudioError, match="^x: breaks off after 3.0 of 6.0 s$"):
        audio.load(MP4, RATE, "x")
    for inexact in (
        "[warning] Estimating duration from bitrate, this may be inaccurate",
        "[info] Stream #0:1: Video: h264",
    ):
        program(f"{duration}; echo '{inexact}' >&2; cat \"$AU\"")
        assert read(MP4)[1].note == ""


@posix
def test_errors_of_ffmpeg_are_noted(program):
    program('cat "$AU"; echo "[aac @ 0x55d] [error] Input buffer exhausted." >&2')
    result, stream = read(MP4)
    assert stream.defect == "breaks off after 3.0 s (Input buffer exhausted)" and len(result) == 3 * RATE
    program('cat "$AU"; echo "[au @ 0x1] [error] Application provided invalid, non monotonically increasing dts" >&2')
    assert read(MP4)[1].note == ""
    program(
        'echo "[mov,mp4 @ 0x1] [error] moov atom not found" >&2; echo "[error] file:/a: b: Invalid data" >&2; exit 1'
    )
    with pytest.raises(AudioError, match=r"^x: not readable as audio \(moov atom not found\)$"):
        AudioStream(MP4, RATE, "x")
    program('echo "[error] file:/a: b: Invalid data found" >&2; exit 1')
    with pytest.raises(AudioError, match=r"^x: not readable as audio \(Invalid data found\)$"):
        AudioStream(MP4, RATE, "x")
    program("exit 1")
    with pytest.raises(AudioError, match=r"^x: not readable as audio \(ffmpeg gives no audio\)$"):
        AudioStream(MP4, RATE, "x")


@posix
def test_ffmpeg_does_not_answer(program, monkeypatch):
    monkeypatch.setattr(ffmpeg, "_TIMEOUT_S", 0.5)
    for script in ("exec sleep 60", 'head -c 100000 "$AU"; exec sleep 60'):
        program(script)
        begin = time.monotonic()
        with pytest.raises(AudioError, match=r"^x: ffmpeg did not answer for 0\.5 s$"):
            list(AudioStream(MP4, RATE, "x"))
        assert time.monotonic() - begin < 10


@posix
def test_ffmpeg_ends_with_the_stream(program, tmp_path):
    program(f'echo $$ > "{tmp_path}/pid"; cat "$AU"; exec sleep 600')
    stream = AudioStream(MP4, RATE, "x")
    pid = int((tmp_path / "pid").read_text())
    os.kill(pid, 0)
    stream.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@posix
def test_no_temporary_file_remains_while_ffmpeg_decodes(program, tmp_path, monkeypatch):
    """A signal can end the process then, without any cleaning."""
    monkeypatch.setattr(ffmpeg.tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    program('cat "$AU"; echo "[aac @ 0x1] [error] damaged" >&2')
    stream = AudioStream(MP4, RATE, "x.m4a")
    assert list((tmp_path / "temporary").iterdir()) == []
    assert len(np.concatenate(list(stream))) == 3 * RATE and "damaged" in stream.defect


@posix
def test_messages_do_not_block(program):
    program('yes "[aac @ 0x1] [error] damaged" | head -c 3000000 >&2; cat "$AU"')
    result, stream = read(MP4)
    assert len(result) == 3 * RATE and "damaged" in stream.defect


def convert(tmp_path, name, *options):
    """A file that ffmpeg encodes: three seconds at 48 kHz. Skips where it has no such encoder."""
    wav = tmp_path / "source.wav"
    wav.write_bytes(encode(sound(3.0, 48_000, 2), "wav", 48_000))
    command = ["ffmpeg", "-nostdin", "-v", "error", "-y", "-i", str(wav), *options, str(tmp_path / name)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip(f"ffmpeg cannot write {name}")
    return tmp_path / name


@real
@pytest.mark.parametrize(
    "name, options",
    [
        ("a.m4a", []),
        ("lossless.m4a", ["-c:a", "alac"]),
        ("a.aac", []),
        ("a.mp4", []),
        ("a.mov", []),
        ("a.webm", ["-c:a", "libopus"]),
        ("a.mka", []),
        ("a.mkv", ["-c:a", "flac"]),
        ("a.wma", []),
        ("a.ac3", []),
        ("a.wv", []),
        ("a.tta", []),
        ("a.3gp", ["-ar", "8000", "-ac", "1", "-c:a", "aac"]),
        ("a.spx", ["-c:a", "libspeex", "-ac", "1", "-ar", "16000"]),
        ("alac.caf", ["-c:a", "alac"]),
        ("adpcm.wav", ["-c:a", "adpcm_yamaha"]),
        ("wide.wav", ["-c:a", "pcm_s64le"]),
        ("mp3.w64", ["-c:a", "libmp3lame"]),
        ("flac.oga", ["-c:a", "flac"]),
    ],
)
def test_real_files(tmp_path, name, options):
    path = convert(tmp_path, name, *options)
    result, stream = read(path, str(path))
    assert stream.note == "" and 2.9 < len(result) / RATE < 3.15
    expected = audio.load(tmp_path / "source.wav", RATE)
    assert 0.5 < np.sqrt(np.mean(result**2)) / np.sqrt(np.mean(expected**2)) < 1.5
    np.testing.assert_array_equal(audio.load(path, RATE), result)
    np.testing.assert_array_equal(audio.load(path.read_bytes(), RATE, name), result)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    try:
        result, stream = read(path, str(path))
    except AudioError as error:  # the table of contents is at the end of MPEG-4
        assert str(error).startswith(f"{path}: not readable as audio (")
    else:
        assert len(result) < 2.5 * RATE and "\n" not in stream.note
        assert "breaks off after" in stream.note or name.endswith((".aac", ".ac3"))  # these have no length


@real
def test_a_video_in_ogg(tmp_path):
    wav = tmp_path / "a.wav"
    wav.write_bytes(encode(sound(3.0, RATE), "wav"))
    command = [
        "ffmpeg",
        "-nostdin",
        "-v",
        "error",
        "-f",
        "lavfi",
        "-i",
        "testsrc=size=64x64:duration=3",
        "-i",
        str(wav),
    ]
    if subprocess.run([*command, "-c:v", "libtheora", "-c:a", "libvorbis", str(tmp_path / "a.ogg")]).returncode:
        pytest.skip("ffmpeg cannot write Theora")
    result, stream = read(tmp_path / "a.ogg")
    assert 2.9 < len(result) / RATE < 3.1 and stream.note == ""


@real
def test_a_playlist_names_no_other_file(tmp_path):
    (tmp_path / "secret.wav").write_bytes(encode(sound(1.0, RATE), "wav"))
    playlist = tmp_path / "list.m4a"
    for text in (f"ffconcat version 1.0\nfile {tmp_path}/secret.wav\n", "#EXTM3U\n#EXTINF:1,\nsecret.wav\n"):
        playlist.write_text(text)
        with pytest.raises(AudioError, match="not readable as audio"):
            AudioStream(playlist, RATE)


@real
def test_a_video_without_sound(tmp_path):
    command = ["ffmpeg", "-nostdin", "-v", "error", "-f", "lavfi", "-i", "color=size=64x64:duration=1", "-an"]
    subprocess.run([*command, str(tmp_path / "a.mkv")], check=True)
    with pytest.raises(AudioError, match="it has no audio track"):
        AudioStream(tmp_path / "a.mkv", RATE)


def test_files_that_are_counted_and_named(no_ffmpeg):
    assert audio.describe_unreadable(["a.wav", "b.txt"]) == ""
    assert audio.describe_unreadable(["a.wav", "b.M4A"]) == (
        "1 file is not read: it needs ffmpeg, which is not installed (b.M4A)"
    )
    names = [f"{letter}.webm" for letter in "edcba"]
    assert audio.describe_unreadable(names) == (
        "5 files are not read: they need ffmpeg, which is not installed (a.webm, b.webm, c.webm and 2 more)"
    )
    assert audio.is_audio_name("a.m4a") and not audio.is_readable_name("a.m4a") and audio.is_readable_name("a.WAV")


def test_options_for_cameras(monkeypatch, tmp_path):
    """RTSP over TCP and without pictures; other streams have neither option, which ffmpeg would refuse."""
    given = []

    def popen(command, **_):
        given.append(command)
        raise FileNotFoundError(2, "no such program")

    monkeypatch.setattr(ffmpeg.subprocess, "Popen", popen)
    for address in ("rtsp://user:secret@camera/live", "RTSPS://camera/live", "http://radio/live"):
        with pytest.raises(AudioError, match="cannot be run") as error:
            ffmpeg.FfmpegDecoder(address, "ffmpeg")
        assert "secret" not in str(error.value)
        command = given.pop()
        options = command[: command.index("-i")]
        network = ["-rtsp_transport", "tcp", "-allowed_media_types", "audio"]
        assert (options[-4:] == network) == (not address.startswith("http"))
        assert (
            command[command.index("-i") + 1] == address
            and "file" not in options[options.index("-protocol_whitelist") + 1]
        )
