"""Recordings block by block and in windows, against the whole at once; and what the decoder makes of junk."""

import pathlib
import time
import weakref

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest
import soundfile
import soxr

from esc_jax.data import audio, decoders
from esc_jax.data.audio import AudioError
from esc_jax.data.stream import AudioStream, Excerpt, cut, windows
from tests.data.audio_files import FORMATS, encode
from tests.inference.sounds import expected_starts, sound

RATE = 8000


FILES = [
    ("a.wav", 96_000, 8, "FLOAT"),
    ("a.mp3", 44_100, 1, None),
    ("a.mp3", 48_000, 2, None),
    ("a.ogg", 48_000, 2, None),
    ("a.flac", 22_050, 1, None),
    ("a.aiff", 8_000, 2, None),
    ("a.wav", 11_025, 1, "PCM_U8"),
]


@pytest.mark.parametrize("seconds", [0.05, 2.345])
@pytest.mark.parametrize("name, rate, channels, subtype", FILES)
def test_a_stream_is_the_whole_file(tmp_path, name, rate, channels, subtype, seconds):
    path = tmp_path / name
    soundfile.write(path, sound(seconds, rate, channels), rate, subtype=subtype)
    stream = AudioStream(path, RATE)
    blocks = list(stream)
    samples, file_rate = soundfile.read(path, dtype="float32", always_2d=True)
    mono = samples.mean(axis=1)
    # The MP3 decoder rounds the last of 24 bits differently from one read to the next; all else is equal to the bit.
    tolerance = 5e-7 if name == "a.mp3" else 0
    resampled = soxr.resample(mono, file_rate, RATE, quality="VHQ")
    np.testing.assert_allclose(np.concatenate(blocks), resampled, rtol=0, atol=tolerance)
    np.testing.assert_allclose(np.concatenate(blocks), audio.load(path, RATE), rtol=0, atol=tolerance)
    assert stream.note == "" and stream.channels == channels and stream.rate == rate
    assert stream.announced_s == pytest.approx(seconds, abs=1 / rate)
    assert len(blocks) >= seconds  # it does come in pieces of a second at most


def mutants(count, seed):
    """(number, name, content): sound files of many formats, with bytes changed, cut out, put in, or cut off."""
    import io

    rng = np.random.default_rng(seed)
    kinds = [
        ("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAV", "IMA_ADPCM"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"),
        ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"), ("AIFF", "PCM_24"), ("AU", "ULAW"), ("CAF", "ALAC_16"),
        ("W64", "PCM_16"), ("VOC", "PCM_16"), ("RF64", "PCM_16"), ("NIST", "PCM_16"),
        ("MAT5", "FLOAT"),
    ]  # fmt: skip
    originals = []
    for kind, subtype in kinds:
        file = io.BytesIO()
        soundfile.write(file, sound(0.3, 16_000, 2), 16_000, format=kind, subtype=subtype)
        originals.append((kind, file.getvalue()))
    for number in range(count):
        kind, content = originals[number % len(originals)]
        content = bytearray(content)
        for _ in range(rng.integers(1, 9)):
            # Most of what can go wrong is in the header.
            reach = len(content) if rng.random() < 0.4 else min(len(content), 128)
            place = int(rng.integers(0, max(reach, 1)))
            match rng.integers(0, 5):
                case 0 | 1:
                    content[place : place + 1] = rng.integers(0, 256, 1, np.uint8).tobytes()
                case 2:
                    word = rng.choice([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, int(rng.integers(0, 2**32))])
                    content[place : place + 4] = int(word).to_bytes(4, "little" if rng.random() < 0.5 else "big")
                case 3:
                    content[place:place] = rng.integers(0, 256, int(rng.integers(1, 40)), np.uint8).tobytes()
                case 4:
                    del content[place : place + int(rng.integers(1, 40 if rng.random() < 0.8 else len(content) + 2))]
        yield number, f"{number}-{kind}", bytes(content)


def fuzz(folder, count, seed=0):
    """Decodes mutants; returns how many were sound, and the longest time one took, s."""
    whole, slowest = 0, 0.0
    path = pathlib.Path(folder) / "mutant"
    for _, name, content in mutants(count, seed):
        path.write_bytes(content)
        began = time.monotonic()
        try:
            stream = AudioStream(path, RATE)
            for block in stream:
                assert block.dtype == np.float32 and block.ndim == 1 and np.isfinite(block).all(), name
            whole += 1
            assert "\n" not in stream.note, name
        except AudioError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error), name
        slowest = max(slowest, time.monotonic() - began)
    return whole, slowest


@pytest.mark.filterwarnings("error")
def test_mutated_files_are_sound_or_one_sentence(tmp_path):
    whole, slowest = fuzz(tmp_path, 480)
    assert 50 < whole < 400  # the mutations leave some files readable, and spoil some
    assert slowest < 20  # hangs; a second of time is possible on a busy machine


@pytest.mark.parametrize(
    "length, size, hop, starts",
    [
        (10, 4, 2, [0, 2, 4, 6]),
        (11, 4, 2, [0, 2, 4, 6, 7]),
        (3, 4, 2, [0]),
        (4, 4, 9, [0]),
        (5, 4, 9, [0, 1]),
        (20, 4, 9, [0, 9, 16]),
        (22, 4, 9, [0, 9, 18]),
    ],
)
def test_windows_cover_the_ragged_tail(length, size, hop, starts):
    signal = np.arange(length, dtype=np.float32)
    assert [start for start, _ in windows([signal], size, hop)] == starts
    assert expected_starts(length, size, hop) == starts  # the loop that the other tests trust


@hypothesis.given(
    st.lists(st.integers(0, 40), max_size=8), st.integers(1, 30), st.integers(1, 50), st.integers(0, 2**32 - 1)
)
def test_windows_of_blocks_are_those_of_the_whole(lengths, size, hop, seed):
    blocks = [np.random.default_rng(seed).standard_normal(n).astype(np.float32) for n in lengths]
    signal = np.concatenate([np.zeros(0, np.float32), *blocks])
    pieces = list(windows(iter(blocks), size, hop))
    if not len(signal):
        assert pieces == []
        return
    assert [start for start, _ in pieces] == expected_starts(len(signal), size, hop)
    for start, samples in pieces:
        np.testing.assert_array_equal(samples, signal[start : start + size])


class Counted:
    """A stream of ten blocks that counts how many of them are in memory."""

    def __init__(self):
        self.blocks, self.most = [], 0

    def __iter__(self):
        for number in range(10):
            block = np.arange(100 * number, 100 * number + 100, dtype=np.float32)
            self.blocks.append(weakref.ref(block))
            yield block
            del block
            self.most = max(self.most, sum(reference() is not None for reference in self.blocks))

    def skip(self, count):
        return 0

    def close(self):
        pass


def decoded_samples(monkeypatch):
    """List of the number of samples of each block that is decoded from now on."""
    counts, read = [], decoders.SndfileDecoder.read

    def counted(self, count):
        samples = read(self, count)
        counts.append(len(samples))
        return samples

    monkeypatch.setattr(decoders.SndfileDecoder, "read", counted)
    return counts


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_before_a_part_is_skipped_where_the_samples_are_equal(monkeypatch, name):
    """The channels cancel each other in the middle third, so that blocks are mixed in two ways."""
    samples = sound(30.0, RATE, 2)
    samples[10 * RATE : 20 * RATE, 1] = -samples[10 * RATE : 20 * RATE, 0]
    content = encode(samples, name, RATE)
    whole = audio.load(content, RATE, "x")
    for parts in ([(18.3, 21.2)], [(27.1, 99.0), (3.01, 3.5), (12.9, 13.1), (13.0, 14.0)], [(31.0, 32.0)]):
        spans = [(round(start * RATE), round(stop * RATE)) for start, stop in parts]
        decoded = decoded_samples(monkeypatch)
        for piece, (start, stop) in zip(cut(AudioStream(content, RATE, "x"), spans), spans, strict=True):
            np.testing.assert_allclose(piece, whole[start:stop], rtol=0, atol=5e-7 if name == "mp3" else 0)
        exact = FORMATS[name][1].startswith(("PCM", "FLOAT", "ULAW"))
        assert (sum(decoded) < 10 * RATE) == exact
        monkeypatch.undo()
    excerpt = Excerpt(AudioStream(content, RATE, "x"), 18.3, 21.2)
    expected = whole[round(18.3 * RATE) : round(21.2 * RATE)]
    np.testing.assert_allclose(np.concatenate(list(excerpt)), expected, rtol=0, atol=5e-7 if name == "mp3" else 0)
    with pytest.raises(AudioError, match=f"ends after {len(whole) / RATE:.1f} s, before the part at 40.0 s"):
        list(Excerpt(AudioStream(content, RATE, "x"), 40.0))


def test_nothing_is_skipped_where_a_file_is_resampled_or_breaks_off(monkeypatch):
    content = encode(sound(30.0, RATE), "wav", RATE)
    for broken, rate in ((content, RATE // 2), (content[:-2000], RATE)):
        decoded = decoded_samples(monkeypatch)
        (piece,) = cut(AudioStream(broken, rate, "x"), [(20 * rate, 21 * rate)])
        assert len(piece) == rate and sum(decoded) >= 21 * RATE
        np.testing.assert_array_equal(piece, audio.load(content, rate, "x")[20 * rate : 21 * rate])
        monkeypatch.undo()


def test_parts_of_a_recording_do_not_keep_it_in_memory():
    stream = Counted()
    parts = cut(stream, [(50, 150), (120, 130), (700, 701), (990, 2000)])
    for part, (start, stop) in zip(parts, [(50, 150), (120, 130), (700, 701), (990, 1000)], strict=True):
        np.testing.assert_array_equal(part, np.arange(start, stop))
    assert stream.most == 1  # the block that the loop has
