"""The files of ESC_JAX_SHARED/faults against the table in its README."""

import shutil

import numpy as np
import pytest

from esc_jax.data import audio, prepare, prepared
from esc_jax.data.audio import AudioError
from esc_jax.data.layouts.esc50 import Esc50Layout
from esc_jax.data.stream import AudioStream
from tests.inference.test_classifier import Quarters, make_classifier

# File → seconds, and what its note contains; an empty note is none.
READ = {
    "streamed.flac": (6.0, ""),
    "streamed_short.flac": (0.8, ""),
    "joined.ogg": (6.0, ""),
    "joined.opus": (6.0, ""),
    "cut.wav": (3.0, "breaks off after 3.0 of 6.0 s"),
    "cut.ogg": (2.0, "breaks off after 2.0 s"),
    "unfinished.wav": (6.0, "the header was never completed"),
    "opposite_phase.flac": (6.0, "its channels cancel each other"),
    "offset_silence.flac": (3.0, ""),
    "phone.m4a": (6.0, ""),
    "browser.webm": (6.0, ""),
}
NEED_FFMPEG = ("phone.m4a", "browser.webm")


@pytest.fixture(scope="module")
def faults(shared):
    if not (shared / "faults").is_dir():
        pytest.skip("needs the folder faults in ESC_JAX_SHARED")
    return shared / "faults"


@pytest.mark.parametrize("name", READ)
def test_what_is_there_is_read(faults, name):
    seconds, note = READ[name]
    if name in NEED_FFMPEG and shutil.which("ffmpeg") is None:
        with pytest.raises(AudioError, match="needs ffmpeg, which is not installed"):
            AudioStream(faults / name, 16_000)
        return
    stream = AudioStream(faults / name, 16_000)
    samples = np.concatenate(list(stream))
    assert len(samples) / 16_000 == pytest.approx(seconds, abs=0.03)
    assert note in stream.note if note else stream.note == ""
    timeline = make_classifier(Quarters()).timeline(faults / name)
    assert timeline.duration_s == pytest.approx(seconds, abs=0.03) and bool(timeline.note) == bool(note)
    assert timeline.silent.all() == (name == "offset_silence.flac")
    assert not timeline.silent.any() or name == "offset_silence.flac"


@pytest.mark.parametrize("name", READ)
def test_as_training_clips(faults, name):
    if name in NEED_FFMPEG and shutil.which("ffmpeg") is None:
        pytest.skip("needs ffmpeg")
    if name in ("cut.wav", "cut.ogg", "unfinished.wav"):
        with pytest.raises(AudioError, match="breaks off|never completed"):
            audio.load(faults / name, 16_000)
    else:
        assert len(audio.load(faults / name, 16_000)) / 16_000 == pytest.approx(READ[name][0], abs=0.03)


def test_integers_as_floats_are_refused(faults):
    for use in (lambda path: audio.load(path, 16_000), lambda path: list(AudioStream(path, 16_000))):
        with pytest.raises(AudioError, match="where full scale is 1"):
            use(faults / "sixteen_bit_scale.wav")


def test_decomposed_names(faults, tmp_path):
    source = Esc50Layout(faults / "decomposed_names.zip")
    folder = prepare.prepared_dir(source, 16_000, tmp_path)
    clips = prepared.open_prepared(folder, 8000, source)
    assert len(clips) == 6 and clips.classes == ("Bär", "Möwe") and clips.bad == {}
