"""Opus files whose granule positions contradict their packets, which libsndfile refuses."""

import io
import shutil
import struct
import subprocess

import numpy as np
import pytest
import soundfile

from esc_jax.data import audio
from esc_jax.data.audio import AudioError
from esc_jax.data.containers.opus import GranulePositions, packet_samples
from tests.data.audio_files import RATE, encode, noise_file, ogg_pages, opus_file, read, with_positions
from tests.inference.sounds import sound

WHOLE = noise_file("opus", 5.3, channels=2)
EXPECTED = audio.load(WHOLE, RATE, "x")
PAGES = len(ogg_pages(WHOLE))
PADDING = RATE // 50  # at most a packet, where its length is lost


def check_whole(content, padding=0):
    """libsndfile refuses the file; it is read, without a note, with the samples of WHOLE."""
    with pytest.raises(soundfile.LibsndfileError, match="malformed"):
        soundfile.read(io.BytesIO(content))
    samples, note = read(content)
    assert note == "" and len(EXPECTED) <= len(samples) <= len(EXPECTED) + padding
    count = len(EXPECTED) - (200 if padding else 0)  # resampling spreads what follows
    np.testing.assert_array_equal(samples[:count], EXPECTED[:count])
    np.testing.assert_array_equal(audio.load(content, RATE, "x"), samples)


@pytest.mark.parametrize(
    "changes",
    [
        {3: 488},  # as ffmpeg writes it after a jump of 10 ms in Vorbis
        {2: 488},
        dict.fromkeys(range(2, PAGES), -700),  # the stream begins before zero
        {2: 100_000, 3: 100_000, 4: 100_488} | dict.fromkeys(range(5, PAGES), 100000),  # and long after it
    ],
)
def test_a_page_before_its_time_or_after_it(changes, tmp_path):
    content = with_positions(WHOLE, lambda number, position: position + changes.get(number, 0))
    check_whole(content)
    path = tmp_path / "late.opus"
    path.write_bytes(content)
    np.testing.assert_array_equal(audio.load(path, RATE), EXPECTED)


def test_the_length_of_the_last_packet_may_be_lost():
    check_whole(with_positions(WHOLE, lambda number, position: position - 100 * (number == 2)), PADDING)
    check_whole(with_positions(WHOLE, lambda number, position: 0), PADDING)


def test_a_single_page_after_its_time():
    short = noise_file("opus", 0.5, channels=2)
    assert len(ogg_pages(short)) == 3
    content = with_positions(short, lambda number, position: position + 700 * (number == 2))
    with pytest.raises(soundfile.LibsndfileError, match="malformed"):
        soundfile.read(io.BytesIO(content))
    samples, note = read(content)
    assert note == "" and 0 <= len(samples) - RATE // 2 <= PADDING
    count = RATE // 2 - 200
    np.testing.assert_array_equal(samples[:count], audio.load(short, RATE, "x")[:count])


@pytest.mark.parametrize("segments", [1, 3, 8])
def test_packets_that_continue_on_the_next_page(segments):
    """Pages of few segments: a packet of more than 254 bytes has several."""
    whole = noise_file("opus", 1.2, 48_000, channels=2)
    paged = opus_file(whole, segments)
    positions = [struct.unpack_from("<q", page, 6)[0] for page in ogg_pages(paged)]
    late = next(number for number in range(len(positions) // 2, len(positions)) if positions[number] > 0)
    assert any(page[5] & 1 for page in ogg_pages(paged))
    content = with_positions(paged, lambda number, position: position + 300 * (number == late))
    with pytest.raises(soundfile.LibsndfileError, match="malformed"):
        soundfile.read(io.BytesIO(content))
    expected = audio.load(whole, RATE, "x")
    for readable in (paged, content):
        samples, note = read(readable)
        assert note == ""
        np.testing.assert_array_equal(samples, expected)


def test_joined_files():
    late = with_positions(WHOLE, lambda number, position: position + 488 * (number == 3))
    first, last = noise_file("opus", 1.0), noise_file("ogg", 1.2)
    samples, note = read(first + late + last)
    np.testing.assert_array_equal(
        samples, np.concatenate([audio.load(part, RATE, "x") for part in (first, WHOLE, last)])
    )
    assert note == ""


def test_damaged_and_truncated_files_are_refused_as_before():
    late = with_positions(WHOLE, lambda number, position: position + 488 * (number == 3))
    pages = ogg_pages(late)
    flipped = bytearray(pages[4])
    flipped[-20] ^= 4
    cases = {
        b"".join([*pages[:4], flipped, *pages[5:]]): r"is damaged \(1 page of its stream\)",
        b"".join([*pages[:3], *pages[4:]]): r"is damaged \(1 page of its stream\)",
        late[: len(late) * 3 // 4]: r"breaks off after \d\.\d s \(the end of its stream is missing\)",
        b"".join(pages[:-1]): r"breaks off after \d\.\d s \(the end of its stream is missing\)",
    }
    for content, message in cases.items():
        with pytest.raises(AudioError, match=f"^x: {message}$"):
            audio.load(content, RATE, "x")
        samples, note = read(content)
        assert note.startswith("x: ") and RATE < len(samples) <= len(EXPECTED)


@pytest.mark.parametrize("rate, channels", [(8000, 1), (24_000, 2), (48_000, 6)])
def test_positions_that_libsndfile_writes(rate, channels):
    positions = GranulePositions()
    for page in ogg_pages(encode(sound(2.7, rate, channels), "opus", rate)):
        assert positions.add(page) == struct.unpack_from("<q", page, 6)[0]
    assert positions.readable


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
@pytest.mark.parametrize("options", ["voip 60 12k", "audio 40 24k", "lowdelay 2.5 64k", "voip 10 24k"])
def test_positions_that_ffmpeg_writes(tmp_path, options):
    """Packets of other lengths, of SILK, hybrid and CELT."""
    source, path = tmp_path / "a.wav", tmp_path / "a.opus"
    source.write_bytes(encode(sound(1.5, 48_000), "wav", 48_000))
    application, length, bitrate = options.split()
    line = f"-c:a libopus -application {application} -frame_duration {length} -b:a {bitrate}".split()
    line = ["ffmpeg", "-nostdin", "-loglevel", "error", "-i", source, *line, path]
    if subprocess.run(line, capture_output=True).returncode:
        pytest.skip("ffmpeg without libopus")
    positions = GranulePositions()
    for page in ogg_pages(path.read_bytes()):
        assert positions.add(page) == struct.unpack_from("<q", page, 6)[0]
    assert positions.readable


def test_lengths_of_packets():
    """RFC 6716, section 3.1: numbers of configurations and codes of the number of frames."""
    heads = {b"\x18": 2880, b"\x61": 2 * 480, b"\x82": 2 * 120, b"\xfb\x85": 5 * 960, b"\x1b\x02": 2 * 2880}
    invalid = {b"": 0, b"\x1b": 0, b"\x1b\x03": 0, b"\xfb\x00": 0}
    assert {head: packet_samples(head) for head in heads | invalid} == heads | invalid
