"""Live sound: the windows of predict, times without drift, gaps, and the clocks of sources that are not exact."""

from datetime import UTC, datetime
import itertools
import types

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest
import soundfile

from esc_jax.data import live as sources
from esc_jax.data.live import Capture, Chunk, LiveError
from esc_jax.data.source import AudioError
from esc_jax.inference import live
from esc_jax.inference.classifier import SoundClassifier
from esc_jax.inference.output import rows
from esc_jax.training.restore import restore
from tests.inference.sounds import sound

START = datetime(2026, 5, 11, 5, 30, tzinfo=UTC)


@pytest.fixture(scope="module")
def classifier(untrained):
    return SoundClassifier(restore(untrained))


class Fake:
    """A connection that gives prepared samples, in pieces, at the times of a sample clock.

    Args:
        samples: (n, channels).
        rate: Hz.
        begin: arrival of the first sample, seconds since the epoch.
        endless: as of `data.live.Connection`.
        piece: samples of a chunk.
        error: what ends it.
    """

    def __init__(self, samples, rate, begin=1000.0, endless=False, piece=777, error=None):
        self.rate, self.channels, self.endless, self._error = rate, samples.shape[1], endless, error
        ends = np.minimum(np.arange(piece, len(samples) + piece, piece), len(samples))
        self._chunks = iter([Chunk(samples[max(0, e - piece) : e], begin + e / rate) for e in ends.tolist()])
        if len(samples) % piece:
            last = len(samples) // piece * piece
            kept = [Chunk(samples[e - piece : e], begin + e / rate) for e in ends.tolist() if e % piece == 0]
            self._chunks = iter([*kept, Chunk(samples[last:], begin + len(samples) / rate)])

    def read(self):
        chunk = next(self._chunks, None)
        if chunk is None and self._error:
            raise self._error
        return chunk

    def close(self):
        pass


def capture_of(*connections, **options):
    remaining = iter(connections)

    def connect():
        connection = next(remaining, None)
        if connection is None:
            raise LiveError("source: gone")
        return connection

    return Capture("source", connect, **options)


@pytest.fixture(autouse=True)
def no_backoff(monkeypatch):
    monkeypatch.setattr(sources, "_BACKOFF_S", (0.0, 0.0))


@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (44_100, 1), (44_100, 2), (8_000, 3)])
@pytest.mark.parametrize(("seconds", "window_s", "hop_s"), [(5.3, None, 1.0), (5.3, 2.0, 0.7), (0.2, 2.0, 1.0)])
def test_windows_are_those_of_predict(classifier, tmp_path, rate, channels, seconds, window_s, hop_s):
    """For every rate, number of channels, window and hop, and a recording shorter than a window."""
    samples = sound(seconds, rate, channels)
    samples[: len(samples) // 2, -1] *= -1  # channels that cancel each other in part of the recording
    soundfile.write(tmp_path / "a.wav", samples, rate, subtype="FLOAT")
    expected = classifier.timeline(tmp_path / "a.wav", window_s, hop_s)
    with capture_of(Fake(samples, rate)) as capture:
        items = list(live.listen(classifier, capture, window_s, hop_s, start=START))
    np.testing.assert_allclose([item.start_s for item in items], expected.starts, atol=1e-9)
    np.testing.assert_allclose([item.end_s for item in items], expected.ends, atol=1e-9)
    got = np.concatenate([item.timeline.probabilities for item in items])
    np.testing.assert_allclose(got, expected.probabilities, atol=1e-6)
    assert [rows(item.timeline, 3)[0]["level_db"] for item in items] == [row["level_db"] for row in rows(expected, 3)]
    assert [(item.time - START).total_seconds() for item in items] == pytest.approx(expected.starts, abs=1e-6)


def test_a_window_arrives_with_its_last_sample(classifier):
    """The arrival of a window is that of the chunk with its last sample, whatever the resampler delays."""
    rate, piece = 44_100, 441
    with capture_of(Fake(sound(4.0, rate), rate, piece=piece)) as capture:
        items = list(live.listen(classifier, capture, 1.0, 0.37))
    for item in items:
        assert 1000.0 + item.end_s - 1e-3 <= item.arrived <= 1000.0 + item.end_s + piece / rate + 1e-3
    assert items[0].time.timestamp() == pytest.approx(1000.0)


def test_a_break_is_a_gap_and_no_window_contains_it(classifier, tmp_path):
    """Positions and times go on by the clock; the segments are classified like recordings of their own."""
    notes = []
    first, second, third = (sound(3.3, 16_000, seed=0), sound(2.6, 8_000, seed=1), sound(2.0, 16_000, seed=2))
    connections = [
        Fake(first, 16_000, 1000.0, endless=True, error=AudioError("source: reset by peer")),
        Fake(np.zeros((0, 1), np.float32), 16_000, 0.0, endless=True),  # accepts, and gives nothing
        Fake(second, 8_000, 1010.0, endless=True),
        Fake(third, 16_000, 1012.5, endless=False),  # begins before the end of the other: clocks of sources
    ]
    with capture_of(*connections, notify=notes.append) as capture:
        items = list(live.listen(classifier, capture, 1.0, 1.0, start=START))
    gaps = [item for item in items if isinstance(item, live.Gap)]
    assert [(gap.start_s, gap.end_s, gap.reason) for gap in gaps] == [
        (pytest.approx(3.3), pytest.approx(10.0), "reset by peer"),
        (pytest.approx(12.6), pytest.approx(12.6), "the stream ended"),
    ]
    assert [(gap.time - START).total_seconds() for gap in gaps] == pytest.approx([3.3, 12.6])
    windows = [item for item in items if isinstance(item, live.Window)]
    starts = [0, 1, 2, 2.3, 10, 11, 11.6, 12.6, 13.6]
    assert [window.start_s for window in windows] == pytest.approx(starts)
    assert [(window.time - START).total_seconds() for window in windows] == pytest.approx(starts, abs=1e-5)
    soundfile.write(tmp_path / "b.wav", second, 8_000, subtype="FLOAT")
    expected = classifier.timeline(tmp_path / "b.wav", 1.0).probabilities
    got = np.concatenate([window.timeline.probabilities for window in windows[4:7]])
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert notes[0] == "source: reset by peer; connecting again"


def test_a_stream_that_does_not_come_back(classifier, monkeypatch):
    with capture_of(Fake(sound(1.0, 16_000), 16_000, endless=True), give_up_s=0.0) as capture:
        with pytest.raises(LiveError, match=r"source: did not come back for \d+ s \(gone\)"):
            list(live.listen(classifier, capture))


def test_sources_without_usable_sound(classifier):
    with capture_of(Fake(np.zeros((0, 1), np.float32), 16_000)) as capture:
        with pytest.raises(AudioError, match="source: holds no samples"):
            list(live.listen(classifier, capture))
    with capture_of(Fake(np.full((100, 1), 3000.0, np.float32), 16_000)) as capture:
        with pytest.raises(AudioError, match="source: samples of up to 3000, where full scale is 1"):
            list(live.listen(classifier, capture))
    with capture_of(Fake(sound(1.0, 16_000), 16_000)) as capture:
        with pytest.raises(AudioError, match="source: has no channel 2, only 1"):
            list(live.listen(classifier, capture, channel=1))
    with capture_of() as capture, pytest.raises(LiveError, match="source: gone"):
        list(live.listen(classifier, capture))


def clocked(rate, seconds, error, jitter, origin=5000.0, lost=()):
    """A sample clock after `seconds` of chunks of 1 s, of a source whose rate has a relative error.

    Returns:
        The clock, and the sum of its corrections.
    """
    clock = live.SampleClock(rate)
    corrections, late = 0.0, 0.0
    samples = np.zeros((rate, 1), np.float32)
    for number in range(round(seconds)):
        late += sum(duration for place, duration in lost if place == number)
        end = (number + 1) / (1 + error) + late
        clock.add(Chunk(samples, origin + end + jitter[number % len(jitter)]))
        clock.arrived(max(0.0, clock.duration_s - 10))
        if number == 20:
            clock.fix()
        corrections += clock.correction()
    return clock, corrections


@hypothesis.given(error=st.floats(-2e-4, 2e-4), delays=st.lists(st.floats(0.0, 2.0), min_size=19, max_size=19))
@hypothesis.settings(max_examples=10)
def test_times_follow_the_clock_of_the_machine(error, delays):
    """Whatever the delays of single chunks, the time of a sample stays right to 0.3 s, the limit of corrections."""
    clock, corrections = clocked(10, 3600.0, error, [*delays, 0.0])
    assert clock.duration_s == 3600.0
    assert abs(clock.origin + clock.duration_s - (5000.0 + 3600.0 / (1 + error))) < 0.3
    assert corrections == pytest.approx(clock.origin - 5000.0, abs=0.01)


def test_an_exact_clock_is_not_corrected_and_lost_sound_is():
    _, corrections = clocked(10, 600.0, 0.0, [0.0, 0.2, 0.1])
    assert corrections == 0.0
    _, corrections = clocked(10, 600.0, 0.0, [0.0, 0.2, 0.1], lost=[(200, 3.0)])
    assert corrections == pytest.approx(3.0)
    _, corrections = clocked(10, 600.0, 59.0, [0.0])  # a file that is piped at sixty times real time
    assert corrections == 0.0


class Devices(types.ModuleType):
    """Stands for sounddevice: a microphone that records a ramp, 1 s in 20 blocks, then `silent` or loses samples."""

    class PortAudioError(Exception):
        pass

    def __init__(self, present=True, overflow_at=None):
        super().__init__("sounddevice")
        self.present, self.overflow_at = present, overflow_at
        self.opened = 0

    def query_devices(self, device=None, kind=None):
        if not self.present:
            raise self.PortAudioError("Error querying device -1")
        return {"default_samplerate": 8000.0}

    def InputStream(self, samplerate, blocksize, device, channels, dtype, callback):
        self.opened += 1
        module = self

        class Stream:
            def start(self):
                for number in itertools.count() if module.overflow_at is None else range(20):
                    if number >= 20:
                        break
                    block = np.full((blocksize, channels), number / 100, np.float32)
                    times = types.SimpleNamespace(
                        inputBufferAdcTime=50.0, currentTime=50.0 + blocksize / samplerate + 0.02
                    )
                    callback(
                        block, blocksize, times, types.SimpleNamespace(input_overflow=number == module.overflow_at)
                    )

            def close(self):
                pass

        return Stream()


def test_the_microphone(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sounddevice", Devices())
    microphone = sources.Microphone(None, None, 1)
    assert (microphone.rate, microphone.channels, microphone.endless) == (8000, 1, True)
    chunks = [microphone.read() for _ in range(20)]
    np.testing.assert_allclose([chunk.samples[0, 0] for chunk in chunks], np.arange(20) / 100, atol=1e-7)
    monkeypatch.setattr(sources, "_ANSWER_S", 0.5)
    with pytest.raises(LiveError, match="no sound arrives"):
        microphone.read()


def test_samples_that_the_microphone_loses_are_a_break(monkeypatch):
    """What was recorded before is read first; what comes after the loss is not appended to it."""
    monkeypatch.setitem(__import__("sys").modules, "sounddevice", Devices(overflow_at=3))
    microphone = sources.Microphone(2, 8000, 2)
    assert [microphone.read().samples.shape for _ in range(3)] == [(400, 2)] * 3
    with pytest.raises(LiveError, match="samples were lost: this machine is too slow"):
        microphone.read()


def test_a_missing_microphone_is_one_sentence(monkeypatch):
    modules = __import__("sys").modules
    monkeypatch.setitem(modules, "sounddevice", None)
    with pytest.raises(LiveError, match=r'the microphone needs sounddevice: pip install "esc-jax\[live\]"'):
        sources.Microphone(None, None, 1)
    monkeypatch.setitem(modules, "sounddevice", Devices(present=False))
    with pytest.raises(LiveError, match=r"the microphone cannot be opened \(Error querying device -1\)"):
        sources.Microphone(None, None, 1)
    with pytest.raises(LiveError, match=r"--device=3 cannot be opened"):
        sources.Microphone(3, None, 1)


@hypothesis.given(sizes=st.lists(st.integers(1, 999), min_size=1, max_size=30), channels=st.integers(1, 3))
def test_pcm_pipes_keep_samples_whole(sizes, channels):
    """However the bytes arrive, even in the middle of a sample."""
    import os

    values = np.random.default_rng(len(sizes)).integers(-32768, 32767, (700, channels)).astype("<i2")
    content = values.tobytes() + b"x"  # an incomplete sample
    reading, writing = os.pipe()
    position, pipe = 0, None
    got = []
    pipe = sources.PcmPipe(f"/dev/fd/{reading}", 8000, channels, "s16le")
    for size in itertools.cycle(sizes):
        os.write(writing, content[position : position + size])
        position += size
        if position >= len(content):
            break
        if position >= 2 * channels * (sum(map(len, got)) + 1):
            got.append(pipe.read().samples)
    os.close(writing)
    while chunk := pipe.read():
        got.append(chunk.samples)
    pipe.close()
    os.close(reading)
    np.testing.assert_array_equal(np.concatenate(got), values / np.float32(32768))
