"""A classifier on waveforms and recordings, against loops over the whole signal; and what the decoder makes of junk."""

import json
import pathlib
import shutil
import subprocess
import sys
import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
import soxr

from esc_jax import build
from esc_jax.data import audio
from esc_jax.data.audio import AudioError
from esc_jax.inference import classifier
from esc_jax.inference.classifier import SoundClassifier
from esc_jax.inference.timeline import Timeline
from esc_jax.training.checkpoint import CheckpointError
from tests.sounds import expected_starts, sound

RATE, CLASSES = 8000, ("a", "b", "c", "d")


class Quarters:
    """A model that needs no training: the logit of class i is 20 × the mean magnitude in the i-th quarter."""

    def __init__(self):
        self.shapes = []

    def apply(self, variables, waveform, padding):
        self.shapes.append(waveform.shape)  # once per compilation
        return 20.0 * jnp.abs(waveform).reshape(len(waveform), 4, -1).mean(-1)


class Told:
    """A model that needs no training: the logit of class 0 is the seconds that are said to be no padding, or 9."""

    def apply(self, variables, waveform, padding):
        seconds = jnp.full(len(waveform), 9.0) if padding is None else (~padding).sum(1).astype(jnp.float32) / RATE
        return jnp.zeros((len(waveform), 4)).at[:, 0].set(seconds)


def classifier_of(model, meta=None, mask_padding=False):
    """On waveforms of half a second as they are."""
    restored = build.Restored(
        config=None, classes=CLASSES, sample_rate=RATE, clip_s=0.5, mask_padding=mask_padding, model=model,
        frontend=lambda waveform, padding: waveform, variables={}, folder=pathlib.Path("x"), step=1, meta=meta or {},
    )  # fmt: skip
    return SoundClassifier(restored)


def quarters(window):
    """What Quarters makes of one window, in numpy."""
    logits = 20.0 * np.abs(np.rint(window.astype(np.float64) * 32768) / 32768).reshape(4, -1).mean(-1)
    return np.exp(logits) / np.exp(logits).sum()


@pytest.fixture(scope="module")
def classifier():
    model = Quarters()
    found = classifier_of(model)
    found.model = model
    return found


@pytest.mark.parametrize(
    "seconds, window_s, hop_s", [(7.3, 0.5, 0.2), (3.0, 1.0, 1.3), (0.3, 0.5, 0.2), (2.0, 0.2, 0.1)]
)
def test_a_timeline_is_a_loop_over_the_whole_file(classifier, tmp_path, seconds, window_s, hop_s):
    path = tmp_path / "a.wav"
    soundfile.write(path, sound(seconds, 11_025, 2), 11_025, subtype="FLOAT")
    found = classifier.timeline(path, window_s, hop_s)
    samples, _ = soundfile.read(path, dtype="float32")
    whole = soxr.resample(samples.mean(axis=1), 11_025, RATE, quality="VHQ")
    size = round(window_s * RATE)
    starts = expected_starts(len(whole), size, round(hop_s * RATE))
    np.testing.assert_allclose(found.starts, np.array(starts) / RATE, rtol=1e-12)
    assert found.ends[-1] == found.duration_s == len(whole) / RATE
    assert found.probabilities.shape == (len(starts), 4)
    for row, start in enumerate(starts):
        window = whole[start : start + size]
        # A window is filled up to its length, and to that of a clip in training: 0.5 s.
        padded = np.pad(window, (0, max(size, RATE // 2) - len(window)))
        # float32 on the device against float64 here
        np.testing.assert_allclose(found.probabilities[row], quarters(padded), atol=1e-5)
        assert found.level_db[row] == pytest.approx(10 * np.log10(np.mean(window.astype(np.float64) ** 2)), abs=1e-6)
    if seconds > 1:
        assert np.ptp(found.probabilities, axis=0).min() > 0.1  # the windows are told apart


def test_one_program_serves_every_length(classifier, tmp_path):
    classifier.model.shapes.clear()
    for number, seconds in enumerate((0.05, 0.7, 5.1, 30.0)):
        soundfile.write(tmp_path / f"{number}.wav", sound(seconds, RATE), RATE)
        classifier.timeline(tmp_path / f"{number}.wav", 0.75, 0.3)
    assert len(classifier.model.shapes) == 1
    assert classifier.model.shapes[0][1] == 6000


def test_memory_does_not_grow_with_the_recording(classifier, tmp_path):
    peaks = []
    for minutes in (1, 12):
        path = tmp_path / f"{minutes}.wav"
        soundfile.write(path, np.tile(sound(20.0, RATE), (3 * minutes, 1)), RATE)
        classifier.timeline(path, 0.5, 0.25)  # what is compiled and cached is not of the recording
        tracemalloc.start()
        found = classifier.timeline(path, 0.5, 0.25)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(found.starts) == minutes * 240 - 1
    # The eleven minutes more are 21 MB as float32; their results, 2640 windows, some hundreds of bytes each.
    assert peaks[1] < peaks[0] + 2e6


def test_observers_get_every_sample(classifier, tmp_path):
    soundfile.write(tmp_path / "a.ogg", sound(3.2, 44_100), 44_100)
    heard = []
    classifier.timeline(tmp_path / "a.ogg", observe=lambda block, stream: heard.append((block, stream.announced_s)))
    np.testing.assert_array_equal(np.concatenate([b for b, _ in heard]), audio.load(tmp_path / "a.ogg", RATE))
    assert {announced for _, announced in heard} == {3.2}


def test_near_silence_is_marked_and_left_out_of_averages(classifier, tmp_path):
    signal = sound(10.0, RATE)[:, 0]
    signal[3 * RATE : 5 * RATE] = 0
    signal[7 * RATE : 8 * RATE] = 0.0009  # −60.9 dB
    soundfile.write(tmp_path / "a.wav", signal, RATE, subtype="FLOAT")
    found = classifier.timeline(tmp_path / "a.wav", 0.5, 0.5)
    assert np.flatnonzero(found.silent).tolist() == [6, 7, 8, 9, 14, 15]
    assert np.isneginf(found.level_db[6]) and found.level_db[14] == pytest.approx(20 * np.log10(0.0009), abs=1e-3)
    assert (found.leaders == -1).tolist() == found.silent.tolist()
    assert not classifier.timeline(tmp_path / "a.wav", 0.5, 0.5, silence_db=None).silent.any()
    assert classifier.timeline(tmp_path / "a.wav", 0.5, 0.5, silence_db=-61).silent.sum() == 4

    smooth = classifier.timeline(tmp_path / "a.wav", 0.5, 0.5, smooth_s=2.0)
    for row, centre in enumerate(found.times):
        near = [j for j, c in enumerate(found.times) if abs(c - centre) < 1.001 and not found.silent[j]]
        expected = found.probabilities[near].mean(axis=0) if near else found.probabilities[row]
        np.testing.assert_allclose(smooth.probabilities[row], expected, atol=1e-6)
    heard = found.probabilities[~found.silent].mean(axis=0)
    np.testing.assert_allclose(found.mean().vector, heard, atol=1e-6)
    assert found.mean(6, 10) is None


@pytest.fixture
def timeline():
    """Seven windows of 4 s every 2 s, and one that ends with the recording."""
    starts = np.array([0.0, 2, 4, 6, 8, 10, 12, 13])
    shares = np.full((8, 3), 0.1)
    shares[np.arange(8), [0, 0, 1, 1, 1, 2, 0, 0]] = 0.8
    silent = np.arange(8) == 4
    return Timeline(("x", "y", "z"), starts, starts + 4, shares, np.zeros(8), silent, np.zeros(8, bool), 17.0)


def test_passages_tile_the_recording(timeline):
    assert timeline.passages() == [(0, 2), (2, 4), (4, 5), (5, 6), (6, 8)]
    assert timeline.leaders.tolist() == [0, 0, 1, 1, -1, 2, 0, 0]
    assert timeline.edges.tolist() == [0, 3, 5, 7, 9, 11, 13, 14.5, 17]
    assert [timeline.at(w) for w in ("begin", "middle", "end")] == [0, 3, 7]  # 8.5 s is closest to 8 s, 6 to 10
    assert timeline.mean(5, 7).top(2) == [("x", pytest.approx(0.45)), ("z", pytest.approx(0.45))]


def test_a_waveform_of_any_shape_type_and_rate(classifier):
    wave = np.round(sound(0.5, RATE)[:, 0] * 32768) / 32768
    found = classifier(wave, RATE)
    np.testing.assert_allclose(found.vector, quarters(wave), atol=1e-5)
    order = sorted(range(4), key=lambda i: -found.vector[i])
    assert found.labels == tuple(CLASSES[i] for i in order)
    np.testing.assert_array_equal(found.probabilities, found.vector[order])
    assert found.top(2) == [(found.labels[0], found.probabilities[0]), (found.labels[1], found.probabilities[1])]
    same = [
        (wave * 32768).astype(np.int16),
        (wave * 2.0**31).astype(np.int32),
        wave.astype(np.float64),
        np.stack([wave * 1.5, wave * 0.5], axis=1),
        wave.tolist(),
    ]
    for other in same:
        # The mean of two channels may round another way, by one step of 16 bits.
        np.testing.assert_allclose(classifier(other, RATE).vector, found.vector, atol=1e-4)
    coarse = np.round(wave * 128)
    bytewise = classifier((coarse + 128).astype(np.uint8), RATE)
    np.testing.assert_allclose(bytewise.vector, quarters(coarse / 128), atol=1e-5)
    resampled = soxr.resample(wave, RATE, 44_100, quality="VHQ")
    # What the resampler's filters take away above 3.6 kHz, a tenth of white noise.
    np.testing.assert_allclose(classifier(resampled, 44_100).vector, found.vector, atol=0.1)
    np.testing.assert_allclose(classifier(wave[:400], RATE).vector, quarters(np.pad(wave[:400], (0, 3600))), atol=1e-5)


def test_a_long_waveform_is_the_average_of_half_overlapping_windows(classifier):
    wave = sound(1.3, RATE)[:, 0]
    cut = [wave[s : s + 4000] for s in (0, 2000, 4000, 6000, 6400)]
    np.testing.assert_allclose(classifier(wave, RATE).vector, np.mean([quarters(w) for w in cut], axis=0), atol=1e-5)


@pytest.mark.parametrize(
    "waveform, rate, sentence",
    [
        (np.zeros(0), RATE, "holds no samples"),
        (np.zeros((2, 8000)), RATE, r"of shape \(2, 8000\)"),
        (np.zeros((2, 2, 2)), RATE, "of shape"),
        (np.array(["a"]), RATE, "it must be floating point or integers"),
        (np.ones(100, complex), RATE, "it must be floating point or integers"),
        (np.array([0.1, np.nan]), RATE, "not numbers"),
        (np.full(100, np.inf), RATE, "not numbers"),
        (np.array([1e300] * 100), RATE, "not numbers"),
        (np.zeros(100), 0, "a sample rate of 0 Hz"),
        (np.zeros(100), float("nan"), "a sample rate of nan Hz"),
    ],
)
def test_a_waveform_that_is_none_is_one_sentence(classifier, waveform, rate, sentence):
    with pytest.raises(AudioError, match=sentence) as raised:
        classifier(waveform, rate)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("options", [{"window_s": 0.0}, {"hop_s": -1.0}, {"window_s": float("nan")}, {"hop_s": 1e9}])
def test_lengths_out_of_range(classifier, tmp_path, options):
    soundfile.write(tmp_path / "a.wav", sound(1.0, RATE), RATE)
    with pytest.raises(ValueError, match=f"{next(iter(options))}=.* must be above 0 and at most 600 seconds"):
        classifier.timeline(tmp_path / "a.wav", **options)


def wav(rate=RATE, samples=None, subtype="FLOAT"):
    """Bytes of a WAV file, half a second."""
    import io

    file = io.BytesIO()
    soundfile.write(file, sound(0.5, RATE) if samples is None else samples, RATE, format="WAV", subtype=subtype)
    content = bytearray(file.getvalue())
    content[24:28] = rate.to_bytes(4, "little")
    return bytes(content)


BAD = {
    "zero.wav": (b"", "the file is empty"),
    "text.wav": (b"this is a text, whatever its name says\n" * 30, "not readable as audio (Format not recognised)"),
    "headless.raw": (b"1234" * 100, "not readable as audio (samplerate must be specified)"),
    "head.wav": (wav()[:30], "not readable as audio"),
    "nosamples.wav": (wav(samples=np.zeros((0, 1))), "holds no samples"),
    "onesample.wav": (wav(48_000, np.ones((1, 1))), "holds no samples"),  # a sixth of one at 8 kHz
    "zero_hz.wav": (wav(rate=0), "not readable as audio (Internal error : SF_INFO struct incomplete)"),
    "slow.wav": (wav(rate=3), "a sample rate of 3 Hz; it must be 1000 to 1000000 Hz"),
    "nan.wav": (wav(samples=np.where(np.arange(30_000) == 20_000, np.nan, 0.1)), "holds samples that are not numbers"),
    "nan_end.wav": (wav(44_100, np.where(np.arange(30_000) == 29_999, np.nan, 0.1)), "samples that are not numbers"),
    "inf.wav": (wav(samples=np.full(9000, np.inf)), "holds samples that are not numbers"),
    "huge.wav": (wav(11_025, samples=np.full((9000, 2), 3e38, np.float32)), "holds samples that are not numbers"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", BAD)
def test_a_file_that_is_no_sound_is_one_sentence(classifier, tmp_path, name):
    content, sentence = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AudioError) as raised:
        classifier.timeline(tmp_path / name)
    assert str(raised.value).startswith(f"{tmp_path / name}: ") and sentence in str(raised.value)
    assert "\n" not in str(raised.value) and str(raised.value).count(name) == 1


def test_no_such_file(classifier, tmp_path):
    for path in (tmp_path / "none.wav", tmp_path, "a\0b"):
        with pytest.raises(AudioError, match="no such file"):
            classifier.timeline(path)


@pytest.mark.parametrize("name", ["a.mp3", "a.flac"])
def test_a_file_that_breaks_off_is_classified_that_far(classifier, tmp_path, name):
    path = tmp_path / name
    soundfile.write(path, sound(10.0, 44_100), 44_100)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    found = classifier.timeline(path)
    assert 2 < found.duration_s < 8
    assert found.note.startswith(f"{path}: breaks off after {found.duration_s:.1f} of 10.0 s")
    assert found.note.endswith("; only what is there was classified")
    np.testing.assert_array_equal(found.starts[:2], [0, 1])


def test_a_checkpoint_is_all_it_takes(untrained, monkeypatch):
    import esc_jax
    from esc_jax.training.step import predict_step

    monkeypatch.setattr(parallel, "initialize", lambda *_, **__: None)  # other tests of this process want XLA as it is
    classifier = esc_jax.load_classifier(str(untrained))
    assert (classifier.classes, classifier.sample_rate, classifier.window_s) == (
        ("rain", "sea_waves", "dog"),
        16_000,
        1.0,
    )
    wave = sound(1.0, 16_000)[:, 0]
    restored = build.restore(untrained)
    direct = predict_step(restored.model, restored.frontend)(restored.variables, audio.to_int16(wave)[None])[0, 0]
    # Another batch size, another order of sums.
    np.testing.assert_allclose(classifier(wave, 16_000).vector, direct, atol=1e-5)


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"format": 99}, "written in format 99, and this version of esc_jax reads"),
        ({"sample_rate": None}, "its config is not one of this version of esc_jax"),
        ({"classes": None}, "its config is not one of this version of esc_jax"),
        ({"config": {"seed": 1}}, "its config is not one of this version of esc_jax"),
        ({"classes": ["x", "y"]}, "its weights do not fit the model of its config"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_one_sentence(untrained, tmp_path, monkeypatch, change, sentence):
    monkeypatch.setattr(parallel, "initialize", lambda *_, **__: None)
    shutil.copytree(untrained, tmp_path / "run")
    path = tmp_path / "run/checkpoints/0/meta/metadata"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError) as raised:
        classifier.load_classifier(tmp_path / "run")
    assert sentence in str(raised.value) and "\n" not in str(raised.value)


def test_a_folder_without_a_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        classifier.load_classifier(tmp_path)
    with pytest.raises(CheckpointError, match="no such folder"):
        classifier.load_classifier(tmp_path / "none")


def test_importing_the_package_imports_no_jax():
    code = "import sys, esc_jax; print('jax' in sys.modules, hasattr(esc_jax, 'nothing'), esc_jax.load_classifier)"
    root = pathlib.Path(__file__).resolve().parents[1]
    found = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert found.stdout.startswith("False False <function load_classifier")


def test_a_model_is_told_of_padding_where_it_was_in_training(tmp_path):
    def logit(found):
        return np.log(found.vector[0] / found.vector[1])

    told, untold = (classifier_of(Told(), mask_padding=mask) for mask in (True, False))
    for seconds, expected in ((0.2, 0.2), (0.5, 9.0)):  # nothing is said of a batch without padding
        assert logit(told(sound(seconds, RATE), RATE)) == pytest.approx(expected, abs=1e-3)
        assert logit(untold(sound(seconds, RATE), RATE)) == pytest.approx(9.0, abs=1e-3)
    soundfile.write(tmp_path / "a.wav", sound(1.0, RATE), RATE)
    found = told.timeline(tmp_path / "a.wav", window_s=0.25, hop_s=0.25)  # shorter windows than clips
    np.testing.assert_allclose(np.log(found.probabilities[:, 0] / found.probabilities[:, 1]), 0.25, atol=1e-3)


def test_a_calibration_of_the_checkpoint_scales_the_probabilities(classifier):
    calibrated = classifier_of(Quarters(), {"calibration": {"temperature": 2.5}})
    waveform = sound(0.5, RATE)[:, 0]
    plain, scaled = (c(waveform, RATE).vector for c in (classifier, calibrated))
    expected = plain.astype(np.float64) ** (1 / 2.5)
    np.testing.assert_allclose(scaled, expected / expected.sum(), rtol=1e-4)


def test_a_sound_below_the_energy_of_the_calibration_is_unfamiliar(tmp_path):
    loud, quiet = np.full(RATE // 2, 0.5, np.float32), np.full(RATE // 2, 0.05, np.float32)
    energies = [np.log(4) + 20 * level for level in (0.5, 0.05)]  # of four equal logits
    marked = classifier_of(Quarters(), {"calibration": {"energy": float(np.mean(energies))}})
    assert marked(quiet, RATE).unfamiliar and not marked(loud, RATE).unfamiliar
    soundfile.write(tmp_path / "a.wav", np.concatenate([loud, quiet, np.zeros(RATE // 2)]), RATE)
    timeline = marked.timeline(tmp_path / "a.wav", hop_s=0.5)
    assert timeline.unfamiliar.tolist() == [False, True, False]  # silence is silence
    assert timeline.silent.tolist() == [False, False, True]
