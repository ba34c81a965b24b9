"""MP3 files without a header, with a wrong one, with tags between their parts, and with damaged frames."""

import numpy as np
import pytest

from tests.data.audio_files import RATE, encode, id3, noise_file, original, patch, read, refused
from tests.inference.sounds import sound


def test_tags_between_the_parts_of_an_mp3_file():
    parts = [noise_file("mp3", 1.0, seed=number) for number in range(3)]
    tag1, ape = b"TAG".ljust(128, b" "), b"APETAGEX" + bytes([208, 7, 0, 0, 32, 0, 0, 0]) + bytes(16)
    joined = id3() + parts[0] + tag1 + id3() + parts[1] + ape + tag1 + id3(31) + id3() + parts[2] + tag1
    samples, note = read(joined)
    np.testing.assert_allclose(samples, np.concatenate([read(part)[0] for part in parts]), rtol=0, atol=5e-7)
    assert note == ""


def plain_mp3(content):
    """The file without its first frame, a Xing header."""
    marks = [place for mark in (b"Xing", b"Info") if (place := content.find(mark)) >= 0]
    assert marks, "libsndfile writes a Xing header"
    return content[content.index(content[:2], min(marks)) :]


def test_an_mp3_file_of_variable_bitrate_without_a_length():
    loud = sound(2.0, RATE, 2)
    quiet = 1e-3 * np.sin(np.arange(4 * RATE) / 9)[:, None].repeat(2, 1).astype(np.float32)
    content = encode(np.concatenate([quiet, loud, quiet, loud]), "mp3")
    frames = plain_mp3(content)
    samples, note = read(frames)
    assert 12.0 <= len(samples) / RATE < 12.2 and note == ""
    samples, note = read(frames[: len(frames) // 2 - 7])
    assert 4.0 < len(samples) / RATE < 9.0 and "its last frame is cut short" in note


def test_too_few_frames_in_the_header_of_an_mp3_file():
    content = noise_file("mp3", 3.0)
    field = max(content.find(b"Xing"), content.find(b"Info")) + 8
    expected = original("mp3", content)
    for frames in (0, 1, 20):
        samples, note = read(patch(content, **{f"at_{field}": frames.to_bytes(4, "big")}))
        np.testing.assert_allclose(samples, expected, rtol=0, atol=5e-7)
        assert note == ""
    # A second file without a header is taken for more frames of the first.
    samples, note = read(content + plain_mp3(content))
    assert len(samples) >= 6 * RATE and note == ""
    np.testing.assert_allclose(samples[: 2 * RATE], expected[: 2 * RATE], rtol=0, atol=5e-7)


def test_an_mp3_file_of_variable_bitrate_that_begins_within_a_frame():
    loud = sound(4.0, RATE, 2)
    quiet = 1e-3 * np.sin(np.arange(4 * RATE) / 9)[:, None].repeat(2, 1).astype(np.float32)
    frames = plain_mp3(encode(np.concatenate([loud, quiet]), "mp3"))
    whole, _ = read(frames)
    assert 8.0 <= len(whole) / RATE < 8.2
    for junk in (frames[50:100], bytes(3000), id3() + frames[50:100]):
        samples, note = read(junk + frames)
        np.testing.assert_allclose(samples, whole, rtol=0, atol=5e-7)
        assert note == ""


@pytest.mark.parametrize("plain", [False, True])
def test_a_damaged_part_within_an_mp3_file(plain):
    content = encode(sound(8.0, RATE, 2), "mp3")
    content = plain_mp3(content) if plain else content
    whole, _ = read(content)
    place = len(content) // 2
    damaged = content[:place] + bytes(4000) + content[place + 4000 :]
    samples, note = read(damaged)
    lost = (len(whole) - len(samples)) / RATE
    assert 0 < lost < 1.2
    np.testing.assert_allclose(samples[: 3 * RATE], whole[: 3 * RATE], rtol=0, atol=5e-7)
    if plain:  # the header of the file says how much of the last frame is padding, which the second part has not
        np.testing.assert_allclose(samples[-3 * RATE :], whole[-3 * RATE :], rtol=0, atol=1e-5)
    assert note.startswith("x: part 1 of 2 is damaged (" if plain else "x: part 1 of 2 breaks off after"), note
    refused(damaged, "part 1 of 2")
