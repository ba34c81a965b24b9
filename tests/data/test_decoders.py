"""Files with unknown lengths, joined files, and files that break off, in all formats."""

import io
import os
import pathlib
import re
import socket
import sys

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest
import soundfile

from esc_jax.data import audio
from esc_jax.data.audio import AudioError
from esc_jax.data.stream import AudioStream
from tests.data.audio_files import (
    FORMATS,
    RATE,
    cancelling,
    encode,
    flac_in_ogg,
    id3,
    noise_file,
    ogg_checksum,
    ogg_pages,
    original,
    patch,
    read,
    refused,
    with_sizes,
)
from tests.inference.sounds import sound

SIZED = ["wav", "wav_float", "wavex", "rf64", "w64", "aiff", "aifc", "caf", "au", "au_ulaw"]
FLAC = ["flac", "flac24"]


@pytest.mark.parametrize("name", FORMATS)
def test_a_whole_file_has_no_note(name):
    content = noise_file(name, 2.0, channels=2)
    samples, note = read(content)
    tolerance = 5e-7 if name == "mp3" else 0
    np.testing.assert_allclose(samples, original(name, content), rtol=0, atol=tolerance)
    np.testing.assert_allclose(audio.load(content, RATE), samples, rtol=0, atol=tolerance)
    assert note == ""


@pytest.mark.parametrize("name", [*SIZED, *FLAC])
@pytest.mark.parametrize("seconds", [0.8, 3.25])
def test_files_of_unknown_length_are_read_to_the_end(name, seconds):
    content = noise_file(name, seconds, channels=2)
    streamed = with_sizes(content, name, unknown=True)
    samples, note = read(streamed)
    np.testing.assert_array_equal(samples, original(name, content))
    np.testing.assert_array_equal(audio.load(streamed, RATE), samples)
    assert note == "" and AudioStream(streamed, RATE, "x").announced_s == pytest.approx(seconds)


@pytest.mark.parametrize("sizes", [(0x7FFFF024, 0x7FFFF000), (0x80000024, 0x80000000), (0x7FFFFFFF, 0x7FFFFFFF)])
def test_placeholders_of_recorders_are_no_lengths(sizes):
    riff, data = (size.to_bytes(4, "little") for size in sizes)
    content = noise_file("wav")
    samples, note = read(patch(content, RIFF=riff, data=data))
    np.testing.assert_array_equal(samples, original("wav", content))
    assert note == ""


def test_a_wav_file_of_unknown_length_above_four_gigabytes(tmp_path):
    path = tmp_path / "long.wav"
    path.write_bytes(with_sizes(noise_file("wav"), "wav", unknown=True))
    with open(path, "r+b") as file:  # without its blocks on the disk
        file.truncate((5 << 30) + 44)
    stream = AudioStream(path, RATE)
    assert stream.announced_s == (5 << 30) / 2 / RATE
    np.testing.assert_array_equal(next(iter(stream)), original("wav", noise_file("wav"))[:RATE])


def test_a_size_above_four_gigabytes_of_which_the_header_has_the_remainder(tmp_path):
    content = noise_file("wav")
    size, path = (5 << 30) + len(content) - 44, tmp_path / "long.wav"
    riff, data = ((number % (1 << 32)).to_bytes(4, "little") for number in (size + 36, size))
    path.write_bytes(patch(content, RIFF=riff, data=data))
    os.truncate(path, size + 44)
    stream = AudioStream(path, RATE)
    assert stream.announced_s == size / 2 / RATE
    np.testing.assert_array_equal(next(iter(stream)), original("wav", content)[:RATE])


@pytest.mark.parametrize("name, subtype", [("WAV", "GSM610"), ("AU", "G721_32")])
def test_encodings_in_which_libsndfile_cannot_seek(name, subtype):
    file = io.BytesIO()
    soundfile.write(file, sound(2.0, 8000), 8000, format=name, subtype=subtype)
    samples, note = read(file.getvalue(), 8000)
    assert len(samples) >= 16_000 and note == ""
    np.testing.assert_array_equal(audio.load(file.getvalue(), 8000), samples)


@pytest.mark.parametrize("name", SIZED)
def test_an_unfinished_header_is_noted(name):
    content = noise_file(name, 2.0, channels=2)
    unfinished = with_sizes(content, name, unknown=False)
    samples, note = read(unfinished)
    np.testing.assert_array_equal(samples, original(name, content))
    assert note == "x: the header was never completed; only what is there was classified"
    refused(unfinished, "the header was never completed")


def test_a_header_before_the_first_sample_is_unfinished():
    """Recorders write the sizes of an empty file first."""
    content = noise_file("wav")
    samples, note = read(patch(content, RIFF=(36).to_bytes(4, "little"), data=bytes(4)))
    assert len(samples) == 2 * RATE and "never completed" in note
    empty = encode(np.zeros((0, 1)), "wav")
    refused(empty, "holds no samples")
    # A file without samples, and a chunk after them, is complete.
    listed = patch(empty, RIFF=(len(empty) + 12 - 8).to_bytes(4, "little")) + b"LIST\x04\x00\x00\x00abcd"
    refused(listed, "holds no samples")


def test_the_length_in_the_header_of_a_flac_file_need_not_be_right():
    content = noise_file("flac", 2.0)
    few = patch(content, at_21=bytes([content[21] & 0xF0]) + (1000).to_bytes(4, "big"))
    samples, note = read(few)
    np.testing.assert_array_equal(samples, original("flac", content))
    assert note == ""
    samples, note = read(id3() + content)
    assert len(samples) == 2 * RATE and note == ""
    tagged = with_sizes(content, "flac", unknown=True) + b"TAG".ljust(128, b" ")
    samples, note = read(tagged)
    assert len(samples) == 2 * RATE and note == ""


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_there_of_a_truncated_file_is_read(name):
    content = noise_file(name, 3.0, channels=2)
    whole = original(name, content)
    for fraction in (0.4, 0.75):
        cut = content[: int(fraction * len(content))]
        samples, note = read(cut)
        assert fraction * 3 - 1.2 < len(samples) / RATE < fraction * 3 + 0.1
        if name not in ("mp3", "ogg", "opus", "wav_adpcm"):
            np.testing.assert_array_equal(samples, whole[: len(samples)])
        length = f"{len(samples) / RATE:.1f}"
        expected = f"x: breaks off after {length}" + ("" if name in ("ogg", "opus") else r" of 3.\d") + " s"
        assert re.match(expected, note) and note.endswith("; only what is there was classified"), note
        refused(cut, "breaks off after")


@hypothesis.given(st.sampled_from(sorted(FORMATS)), st.floats(0, 1), st.booleans())
@hypothesis.settings(max_examples=300)
def test_no_truncation_passes_for_the_whole_file(name, fraction, unknown):
    content = WHOLE[name]
    if unknown and name in (*SIZED, *FLAC):
        content = with_sizes(content, name, unknown=True)
    cut = content[: int(fraction * len(content))]
    try:
        samples, note = read(cut)
    except AudioError as error:
        assert str(error).startswith("x: ") and "\n" not in str(error)
        return
    assert "\n" not in note
    if len(samples) == LENGTHS[name] and len(cut) < len(content):
        # Bytes after the samples may be missing; with an unknown length, so may the end of the last sample.
        assert note or len(content) - len(cut) < 4 or name in ("voc", "caf_alac"), (name, fraction)


WHOLE = {name: noise_file(name, 0.7, channels=2) for name in FORMATS}
LENGTHS = {name: len(read(content)[0]) for name, content in WHOLE.items()}


@pytest.mark.parametrize("name", ["wav", "rf64", "w64", "aiff", "caf", "au", "flac", "voc", "nist"])
def test_one_missing_sample_is_noted(name):
    content = noise_file(name, 1.0)
    cut = content[:-3] if name == "voc" else content[:-2]  # the block that ends a VOC file
    samples, note = read(cut)
    assert len(samples) < RATE and "breaks off" in note


def test_sizes_that_count_the_header_are_a_habit_of_writers():
    content = noise_file("wav")
    for size in (len(content), len(content) - 8):
        samples, note = read(patch(content, data=size.to_bytes(4, "little")))
        assert len(samples) == 2 * RATE and note == ""


def test_a_streamed_flac_file_that_is_cut_is_noted():
    streamed = with_sizes(noise_file("flac", 3.0), "flac", unknown=True)
    cut = streamed[: len(streamed) // 2]
    samples, note = read(cut)
    assert 1.0 < len(samples) / RATE < 1.6
    assert note.startswith(f"x: breaks off after {len(samples) / RATE:.1f} s (its last frame is cut short)")
    refused(cut, "its last frame is cut short")


def test_an_ogg_file_ends_with_the_last_page_of_its_stream():
    pages = ogg_pages(noise_file("ogg", 3.0))
    assert pages[-1][5] & 4
    unmarked = pages[-1][:5] + bytes([pages[-1][5] & 3]) + pages[-1][6:]
    content = b"".join([*pages[:-1], ogg_checksum(unmarked)])
    samples, note = read(content)
    assert len(samples) == 3 * RATE
    assert note.startswith("x: breaks off after 3.0 s (the end of its stream is missing)")
    refused(b"".join(pages[:-1]), "the end of its stream is missing")


@pytest.mark.parametrize("name", ["ogg", "opus"])
def test_damaged_and_missing_pages_of_an_ogg_file(name):
    pages = ogg_pages(noise_file(name, 6.0))
    assert len(pages) > 5 and all(page == ogg_checksum(page) for page in pages)
    assert read(b"".join(pages))[1] == ""
    place = len(pages) // 2
    flipped = bytearray(pages[place])
    flipped[-20] ^= 4
    damaged = b"".join([*pages[:place], flipped, *pages[place + 1 :]])
    _, note = read(damaged)
    assert note.startswith("x: is damaged (1 page of its stream)")
    refused(damaged, r"is damaged \(1 page of its stream\)")
    _, note = read(b"".join(pages[:place] + pages[place + 2 :]))
    assert note.startswith("x: is damaged (2 pages of its stream)")


PARTS = [(RATE, 1), (44_100, 2), (RATE, 2), (48_000, 1)]


@pytest.mark.parametrize("name", ["ogg", "opus", "mp3", "flac", "wav", "aiff", "au"])
def test_all_parts_of_a_joined_file_are_read(name):
    parts = []
    for number, (rate, channels) in enumerate(PARTS):
        rate = 48_000 if name == "opus" and rate == 44_100 else rate
        parts.append(noise_file(name, 1.0 + 0.25 * number, rate, channels, seed=number))
    expected = np.concatenate([audio.load(part, RATE, "x") for part in parts])
    joined = b"".join(parts)
    samples, note = read(joined)
    tolerance = 5e-7 if name == "mp3" else 0
    np.testing.assert_allclose(samples, expected, rtol=0, atol=tolerance)
    np.testing.assert_allclose(audio.load(joined, RATE), expected, rtol=0, atol=tolerance)
    assert note == ""
    samples, note = read(b"".join(parts[:2]) + parts[2][: len(parts[2]) * 9 // 10])
    assert "part 3 of 3 breaks off after" in note


def test_joined_wav_files_with_chunks_after_the_samples():
    content = noise_file("wav", 1.0)
    for chunk in (b"LIST\x04\x00\x00\x00abcd", b"guan\x03\x00\x00\x00abc\x00"):
        size = (len(content) + len(chunk) - 8).to_bytes(4, "little")
        samples, note = read(2 * (patch(content, RIFF=size) + chunk))
        np.testing.assert_array_equal(samples, np.tile(original("wav", content), 2))
        assert note == ""


@pytest.mark.parametrize("name", ["ogg", "opus"])
@pytest.mark.parametrize("fraction", [0.5, 0.999])
def test_a_file_after_one_that_breaks_off(name, fraction):
    content, following = noise_file(name, 3.0), noise_file(name, 2.0, seed=1)
    cut = content[: int(fraction * len(content))]
    samples, note = read(cut + following)
    length = len(read(cut)[0])
    assert RATE // 2 < length <= 3 * RATE and len(samples) == length + 2 * RATE
    np.testing.assert_array_equal(samples[length:], read(following)[0])
    assert note.startswith("x: part 1 of 2 breaks off after") and "the end of its stream is missing" in note


@pytest.mark.parametrize("name", ["ogg", "mp3"])
def test_the_same_file_twice(name):
    content = noise_file(name, 1.5)
    once, twice = (audio.load(content * count, RATE, "x") for count in (1, 2))
    np.testing.assert_allclose(twice, np.concatenate([once, once]), rtol=0, atol=5e-7)


def test_a_file_without_audio_that_is_named_as_one(tmp_path):
    for number, content in enumerate(
        (b"<html>no such page</html>\n", id3(), id3()[:300], b"TAG".ljust(128), bytes(9000))
    ):
        path = tmp_path / f"{number}.mp3"
        path.write_bytes(content)
        with pytest.raises(AudioError, match=rf"{number}\.mp3: not readable as audio \(Format not recognised\)"):
            AudioStream(path, RATE)


def test_flac_in_ogg():
    parts = [noise_file("flac", 1.0 + number, channels=number + 1, seed=number) for number in range(2)]
    expected = [read(part)[0] for part in parts]
    streamed = [with_sizes(part, "flac", unknown=True) for part in parts]
    samples, note = read(flac_in_ogg(streamed[0]))
    np.testing.assert_array_equal(samples, expected[0])
    assert note == ""
    samples, note = read(flac_in_ogg(parts[0]) + flac_in_ogg(streamed[1], serial=8))
    np.testing.assert_array_equal(samples, np.concatenate(expected))
    assert note == ""
    samples, note = read(flac_in_ogg(streamed[1])[:-3000])
    assert "breaks off after" in note


def test_samples_in_the_range_of_integers_are_refused():
    wave = sound(1.0, RATE, 2)
    for scale in (32768.0, 8388608.0, 20.0):
        content = encode(scale * wave, "wav_float")
        refused(content, r"samples of up to [\d.e+]+, where full scale is 1: integers in the place of floating-point")
        with pytest.raises(AudioError, match="where full scale is 1"):
            read(content)
    over = encode(np.full((RATE, 1), 7.9, np.float32), "wav_float")
    np.testing.assert_array_equal(read(over)[0], np.float32(7.9))


@pytest.mark.parametrize("name", ["wav", "flac", "ogg", "opus", "mp3"])
@pytest.mark.parametrize("gain", [-1.0, -0.9])
def test_channels_that_cancel_each_other(name, gain):
    # Vorbis does not keep the phase of noise at high frequencies.
    wave = 3 * np.convolve(sound(3.0, RATE)[:, 0], np.hanning(32) / 16, "same")[:, None]
    content = encode(cancelling(wave, gain), name)
    samples, note = read(content)
    assert note == "x: its channels cancel each other, and one of them was used"
    level, expected = np.sqrt(np.mean(samples**2)), np.sqrt(np.mean(wave**2))
    assert 0.9 < level / expected < 1.1
    np.testing.assert_allclose(audio.load(content, RATE), samples, rtol=0, atol=5e-7 if name == "mp3" else 0)
    if name in ("wav", "flac"):
        np.testing.assert_allclose(samples, wave[:, 0], atol=1e-4)


def test_other_channels_are_averaged():
    rng = np.random.default_rng(0)
    wave = 0.1 * rng.standard_normal((3 * RATE, 8)).astype(np.float32)
    one = np.concatenate([wave[:, :1], np.zeros((len(wave), 7), np.float32)], 1)  # seven channels without sound
    opposite = cancelling(np.full((RATE, 1), 0.1, np.float32)) + 1e-4 * wave[:RATE, :2]  # offsets, not sounds
    partly = cancelling(wave[:, :1], -0.6)
    for samples in (wave, wave[:, :2], one, opposite, partly, 1e-6 * cancelling(wave[:, :1])):
        content = encode(samples, "wav_float")
        mixed, note = read(content)
        np.testing.assert_array_equal(mixed, samples.mean(axis=1, dtype=np.float32))
        assert note == ""


def test_a_part_of_a_recording_may_cancel():
    wave = sound(4.0, RATE, 2)
    wave[2 * RATE : 3 * RATE, 1] = -wave[2 * RATE : 3 * RATE, 0]
    content = encode(wave, "wav_float")
    samples, note = read(content)
    expected = wave.mean(axis=1, dtype=np.float32)
    expected[2 * RATE : 3 * RATE] = wave[2 * RATE : 3 * RATE, 0]
    np.testing.assert_array_equal(samples, expected)
    np.testing.assert_array_equal(audio.load(content, RATE), expected)
    assert "cancel" in note


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX")
def test_pipes_sockets_devices_and_folders_are_not_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.wav")
    os.mkdir("folder.wav")
    os.symlink("pipe.wav", "link.wav")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.wav")
        kinds = {"pipe.wav": "a named pipe", "link.wav": "a named pipe", "folder.wav": "a folder"}
        kinds |= {"socket.wav": "a socket", "/dev/zero": "a device"}
        for path, kind in kinds.items():
            for use in (lambda path: AudioStream(path, RATE), lambda path: audio.load(path, RATE)):
                with pytest.raises(AudioError, match=f"^{path}: is {kind}, not an audio file$"):
                    use(path)


@pytest.mark.skipif(sys.platform != "linux", reason="file names are any bytes on Linux only")
def test_a_file_name_that_is_not_utf8(tmp_path):
    content = encode(sound(1.0, RATE), "wav")
    path = os.fsdecode(os.fsencode(tmp_path) + b"/st\xffrm.wav")
    with open(path, "wb") as file:
        file.write(content)
    np.testing.assert_array_equal(audio.load(path, RATE), audio.load(content, RATE, "x"))


def test_a_file_is_read_from_its_path_and_from_its_bytes(tmp_path):
    for name in ("joined.ogg", "streamed.flac", "-cut.wav"):
        kind = name.rpartition(".")[2]
        content = noise_file(kind, 1.0)
        content = {"ogg": content * 2, "flac": with_sizes(content, "flac", True), "wav": content[:-1000]}[kind]
        path = pathlib.Path(tmp_path / name)
        path.write_bytes(content)
        stream = AudioStream(path, RATE, "x")
        np.testing.assert_array_equal(np.concatenate(list(stream)), read(content)[0])
        assert stream.note == read(content)[1]
