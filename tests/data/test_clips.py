"""Windows of long clips, and what is dropped."""

import dataclasses

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from esc_jax.data import clips as module
from esc_jax.data.clips import Clips, Recording

RATE = 100


def make(lengths, length=100, fetch=None) -> Clips:
    """Clips of these numbers of samples, at 100 Hz: sample k of clip i is 1000 i + k."""
    audio = [np.arange(n, dtype=np.int16) + np.int16(1000 * i) for i, n in enumerate(lengths)]
    return Clips(
        labels=np.arange(len(lengths), dtype=np.int32),
        folds=tuple(range(len(lengths))),
        sources=tuple(f"r{i}" for i in range(len(lengths))),
        filenames=tuple(f"{i}.wav" for i in range(len(lengths))),
        classes=tuple(f"c{i}" for i in range(len(lengths))),
        sample_rate=RATE,
        samples=np.array(lengths),
        length=length,
        fingerprint="x",
        bad={},
        fetch=fetch or audio.__getitem__,
    )


def test_only_files_of_several_windows_change_their_names():
    windows = make([100, 149, 150, 30, 260]).windows()
    assert windows.filenames == ("0.wav", "1.wav", "2.wav@0s", "2.wav@1s", "3.wav", *(f"4.wav@{i}s" for i in range(3)))
    assert windows.folds == (0, 1, 2, 2, 3, 4, 4, 4) and windows.sources[-1] == "r4"
    assert windows.labels.tolist() == [0, 1, 2, 2, 3, 4, 4, 4]
    assert windows.samples.tolist() == [100, 100, 100, 50, 30, 100, 100, 60]
    assert [len(windows.fetch(i)) for i in range(8)] == windows.samples.tolist()
    np.testing.assert_array_equal(windows.read([7])[0], [*range(4200, 4260), *[0] * 40])
    assert windows.starts_s.tolist() == [0, 0, 0, 1, 0, 0, 1, 2] and make([100, 30]).starts_s.tolist() == [0, 0]
    assert make([100, 30]).windows(name_all=True).filenames == ("0.wav@0s", "1.wav@0s")


def test_clips_without_windows_stay_as_they_are(caplog):
    clips = make([100, 30, 109])
    with caplog.at_level("INFO"):
        assert clips.windows() is clips
    assert not caplog.messages  # 0.09 s is what a codec adds


def test_what_is_dropped_is_logged(caplog):
    with caplog.at_level("INFO"):
        make([100, 149, 105, 230, 300]).windows()
    assert caplog.messages == [
        "2 of 5 files are longer than data.clip_s=1 s and are cut into 5 windows",
        "0.8 s at the ends of 2 files are not used: rests of less than half of data.clip_s=1 s",
    ]


@hypothesis.given(lengths=st.lists(st.integers(1, 400), min_size=1, max_size=8), length=st.integers(1, 150))
def test_windows_cover_the_files(lengths, length):
    clips = make(lengths, length)
    windows = clips.windows()
    for i, name in enumerate(clips.filenames):
        mine = [j for j, other in enumerate(windows.filenames) if other.split("@")[0] == name]
        audio = np.concatenate([windows.fetch(j)[:length] for j in mine])
        np.testing.assert_array_equal(audio, clips.fetch(i)[: len(audio)])
        assert lengths[i] - len(audio) < max(1, length / 2)  # what is dropped
        assert len(windows.fetch(mine[-1])) * 2 >= length or len(mine) == 1


def counting(lengths, part):
    """Clips that are read in parts, and the number of every part that is read, in order."""
    whole, reads = make(lengths), []

    def fetch(i):
        def read(k):
            reads.append((i, k))
            return whole.fetch(i)[k * part : (k + 1) * part]

        return Recording(read, part, lengths[i])

    return dataclasses.replace(whole, fetch=fetch), reads


@pytest.mark.parametrize("cached", [1, 2, 100])
def test_parts_are_read_once_if_the_cache_holds_them(cached, monkeypatch):
    """60 windows in 10 parts; the cache never holds more than it may."""
    monkeypatch.setattr(module, "PART_S", 6)
    monkeypatch.setattr(module, "_CACHE_BYTES", cached * 2 * 6 * RATE)
    clips, reads = counting([6000], 6 * RATE)
    windows = clips.windows()
    for i in range(60):
        windows.fetch(i)
    assert reads == [(0, k) for k in range(10)]
    for i in range(60):
        windows.fetch(i)
    assert len(reads) == (10 if cached == 100 else 20)


@hypothesis.given(
    samples=st.integers(1, 300), part=st.integers(1, 100), start=st.integers(0, 310), size=st.integers(0, 310)
)
def test_a_slice_of_a_recording_reads_its_parts_only(samples, part, start, size):
    clips, reads = counting([samples], part)
    recording = clips.fetch(0)
    expected = np.arange(samples)[start : start + size]
    np.testing.assert_array_equal(recording[start : start + size], expected)
    assert {k for _, k in reads} == {int(s) // part for s in expected}
    assert len(recording) == samples
    np.testing.assert_array_equal(np.asarray(recording), np.arange(samples))
