"""A classifier on waveforms and recordings, against loops over the whole signal, and on files that are not audio."""

import io
import json
import pathlib
import shutil
import subprocess
import sys
import tracemalloc

import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
import soundfile
import soxr

from esc_jax import files
from esc_jax.data import audio
from esc_jax.data.audio import AudioError
from esc_jax.evaluation.novelty import Novelty
from esc_jax.inference.classifier import SoundClassifier, load_classifier
from esc_jax.models.encoder import Encoded
from esc_jax.models.model import Model
from esc_jax.pretrained.published import PretrainedError
from esc_jax.tasks import registry as tasks
from esc_jax.training.checkpoint import CheckpointError
from esc_jax.training.restore import Restored, restore
from esc_jax.training.step import predict_step
from tests.inference.sounds import expected_starts, sound

RATE, CLASSES = 8000, ("a", "b", "c", "d")


class Quarters:
    """A model that needs no training: the embedding is the mean magnitude in each quarter, and 20 × it the logits."""

    def __init__(self):
        self.shapes = []

    def apply(self, variables, inputs, padding=None, *, method):
        if method == "classify":
            return 20.0 * inputs
        self.shapes.append(inputs.shape)  # once per compilation
        return Encoded(jnp.abs(inputs).reshape(len(inputs), 4, -1).mean(-1), inputs)


class UnpaddedSeconds:
    """A model that needs no training: the logit of class 0 is the unpadded length in seconds; 9 without a mask."""

    def apply(self, variables, inputs, padding=None, *, method):
        if method == "classify":
            return inputs
        seconds = jnp.full(len(inputs), 9.0) if padding is None else (~padding).sum(1).astype(jnp.float32) / RATE
        return Encoded(jnp.zeros((len(inputs), 4)).at[:, 0].set(seconds), inputs)


def make_classifier(module, meta=None, mask_padding=False, task="single_label", detector=None):
    """A classifier of waveforms of half a second, without a frontend."""
    model = Model(
        module=module, frontend=lambda waveform, padding: waveform, variables={}, classes=CLASSES, sample_rate=RATE,
        clip_s=0.5, mask_padding=mask_padding,
    )  # fmt: skip
    config = ml_collections.ConfigDict({"task": task})
    meta = (meta or {}) | ({"novelty": detector.to_dict()} if detector else {})
    return SoundClassifier(Restored(model, config, pathlib.Path("x"), 1, meta, detector and detector.arrays()))


def quarters(window):
    """The probabilities of Quarters for one window, in numpy."""
    logits = 20.0 * np.abs(np.rint(window.astype(np.float64) * 32768) / 32768).reshape(4, -1).mean(-1)
    return np.exp(logits) / np.exp(logits).sum()


@pytest.fixture(scope="module")
def classifier():
    return make_classifier(Quarters())


@pytest.mark.parametrize(
    "seconds, window_s, hop_s", [(7.3, 0.5, 0.2), (3.0, 1.0, 1.3), (0.3, 0.5, 0.2), (2.0, 0.2, 0.1)]
)
def test_a_timeline_is_a_loop_over_the_whole_file(classifier, tmp_path, seconds, window_s, hop_s):
    path = tmp_path / "a.wav"
    soundfile.write(path, sound(seconds, 11_025, 2), 11_025, subtype="FLOAT")
    timeline = classifier.timeline(path, window_s, hop_s)
    samples, _ = soundfile.read(path, dtype="float32")
    whole = soxr.resample(samples.mean(axis=1), 11_025, RATE, quality="VHQ")
    size = round(window_s * RATE)
    starts = expected_starts(len(whole), size, round(hop_s * RATE))
    np.testing.assert_allclose(timeline.starts, np.array(starts) / RATE, rtol=1e-12)
    assert timeline.ends[-1] == timeline.duration_s == len(whole) / RATE
    assert timeline.probabilities.shape == (len(starts), 4)
    for row, start in enumerate(starts):
        window = whole[start : start + size]
        # A window is padded to its length, and to that of a training clip, 0.5 s.
        padded = np.pad(window, (0, max(size, RATE // 2) - len(window)))
        # float32 on the device against float64 here
        np.testing.assert_allclose(timeline.probabilities[row], quarters(padded), atol=1e-5)
        assert timeline.level_db[row] == pytest.approx(10 * np.log10(np.var(window.astype(np.float64))), abs=1e-6)
    if seconds > 1:
        assert np.ptp(timeline.probabilities, axis=0).min() > 0.1  # the windows differ


def test_the_classes_of_a_multi_label_model_have_thresholds_of_their_own(tmp_path):
    """They apply to calibrated probabilities, of recordings and of waveforms."""
    fitted = {"temperature": 2.0, "thresholds": [0.3, 0.9, 0.6, 0.5]}
    tagger = make_classifier(Quarters(), {"calibration": fitted}, task="multi_label")
    wave = sound(3.0, RATE)[:, 0]
    soundfile.write(tmp_path / "a.wav", wave, RATE, subtype="FLOAT")
    timeline = tagger.timeline(tmp_path / "a.wav", 0.5, 0.25)
    magnitudes = [
        20.0 * np.abs(wave[start : start + RATE // 2]).reshape(4, -1).mean(-1)
        for start in expected_starts(len(wave), 4000, 2000)
    ]
    expected = 1 / (1 + np.exp(-np.array(magnitudes) / 2))
    np.testing.assert_allclose(timeline.probabilities, expected, atol=1e-3)  # 16 bits
    np.testing.assert_array_equal(timeline.active, timeline.probabilities >= fitted["thresholds"])
    prediction = tagger(wave[: RATE // 2], RATE)
    assert set(prediction.detected) == {CLASSES[i] for i in np.flatnonzero(timeline.active[0])} != set()
    plain = make_classifier(Quarters(), task="multi_label")
    assert plain.thresholds is None and plain(wave, RATE).detected == plain(wave, RATE).labels  # all are above ½


def test_one_program_serves_every_length(classifier, tmp_path):
    classifier.model.module.shapes.clear()
    for number, seconds in enumerate((0.05, 0.7, 5.1, 30.0)):
        soundfile.write(tmp_path / f"{number}.wav", sound(seconds, RATE), RATE)
        classifier.timeline(tmp_path / f"{number}.wav", 0.75, 0.3)
    assert len(classifier.model.module.shapes) == 1
    assert classifier.model.module.shapes[0][1] == 6000


def test_memory_does_not_grow_with_the_recording(classifier, tmp_path):
    peaks = []
    for minutes in (1, 12):
        path = tmp_path / f"{minutes}.wav"
        soundfile.write(path, np.tile(sound(20.0, RATE), (3 * minutes, 1)), RATE)
        classifier.timeline(path, 0.5, 0.25)  # compiles the program
        tracemalloc.start()
        timeline = classifier.timeline(path, 0.5, 0.25)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(timeline.starts) == minutes * 240 - 1
    # Eleven more minutes are 21 MB as float32; their results are 2640 windows of some hundreds of bytes.
    assert peaks[1] < peaks[0] + 2e6


def test_observers_get_every_sample(classifier, tmp_path):
    soundfile.write(tmp_path / "a.ogg", sound(3.2, 44_100), 44_100)
    calls = []
    classifier.timeline(tmp_path / "a.ogg", observe=lambda block, stream: calls.append((block, stream.announced_s)))
    np.testing.assert_array_equal(np.concatenate([b for b, _ in calls]), audio.load(tmp_path / "a.ogg", RATE))
    assert {announced for _, announced in calls} == {3.2}


def test_near_silence_is_marked_and_left_out_of_averages(classifier, tmp_path):
    signal = sound(10.0, RATE)[:, 0]
    signal[3 * RATE : 5 * RATE] = 0
    signal[3 * RATE : 5 * RATE] += 0.02  # a constant offset
    signal[7 * RATE : 8 * RATE] = 0.02 + 0.0009 * np.where(np.arange(RATE) % 2, 1, -1)  # −60.9 dB
    soundfile.write(tmp_path / "a.wav", signal, RATE, subtype="FLOAT")
    timeline = classifier.timeline(tmp_path / "a.wav", 0.5, 0.5)
    assert np.flatnonzero(timeline.silent).tolist() == [6, 7, 8, 9, 14, 15]
    assert timeline.level_db[6] < -150 and timeline.level_db[14] == pytest.approx(20 * np.log10(0.0009), abs=1e-3)
    assert (~timeline.active.any(axis=1)).tolist() == timeline.silent.tolist()
    assert not classifier.timeline(tmp_path / "a.wav", 0.5, 0.5, silence_db=None).silent.any()
    assert classifier.timeline(tmp_path / "a.wav", 0.5, 0.5, silence_db=-61).silent.sum() == 4

    smooth = classifier.timeline(tmp_path / "a.wav", 0.5, 0.5, smooth_s=2.0)
    for row, centre in enumerate(timeline.times):
        near = [j for j, c in enumerate(timeline.times) if abs(c - centre) < 1.001 and not timeline.silent[j]]
        expected = timeline.probabilities[near].mean(axis=0) if near else timeline.probabilities[row]
        np.testing.assert_allclose(smooth.probabilities[row], expected, atol=1e-6)
    audible = timeline.probabilities[~timeline.silent].mean(axis=0)
    np.testing.assert_allclose(timeline.mean().vector, audible, atol=1e-6)
    assert timeline.mean(6, 10) is None


def test_a_waveform_of_any_shape_type_and_rate(classifier):
    wave = np.round(sound(0.5, RATE)[:, 0] * 32768) / 32768
    prediction = classifier(wave, RATE)
    np.testing.assert_allclose(prediction.vector, quarters(wave), atol=1e-5)
    order = sorted(range(4), key=lambda i: -prediction.vector[i])
    assert prediction.labels == tuple(CLASSES[i] for i in order)
    np.testing.assert_array_equal(prediction.probabilities, prediction.vector[order])
    assert prediction.top(2) == [
        (prediction.labels[0], prediction.probabilities[0]),
        (prediction.labels[1], prediction.probabilities[1]),
    ]
    same = [
        (wave * 32768).astype(np.int16),
        (wave * 2.0**31).astype(np.int32),
        wave.astype(np.float64),
        np.stack([wave * 1.5, wave * 0.5], axis=1),
        wave.tolist(),
    ]
    for other in same:
        # The mean of two channels may round another way, by one step of 16 bits.
        np.testing.assert_allclose(classifier(other, RATE).vector, prediction.vector, atol=1e-4)
    classifier(np.zeros(400, np.int64), RATE)  # silence of any width
    coarse = np.round(wave * 128)
    bytewise = classifier((coarse + 128).astype(np.uint8), RATE)
    np.testing.assert_allclose(bytewise.vector, quarters(coarse / 128), atol=1e-5)
    resampled = soxr.resample(wave, RATE, 44_100, quality="VHQ")
    # The resampler removes what is above 3.6 kHz, a tenth of white noise.
    np.testing.assert_allclose(classifier(resampled, 44_100).vector, prediction.vector, atol=0.1)
    np.testing.assert_allclose(classifier(wave[:400], RATE).vector, quarters(np.pad(wave[:400], (0, 3600))), atol=1e-5)


def test_a_long_waveform_is_the_average_of_half_overlapping_windows(classifier):
    wave = sound(1.3, RATE)[:, 0]
    windows = [wave[s : s + 4000] for s in (0, 2000, 4000, 6000, 6400)]
    expected = np.mean([quarters(window) for window in windows], axis=0)
    np.testing.assert_allclose(classifier(wave, RATE).vector, expected, atol=1e-5)


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
        (np.arange(-100, 0, dtype=np.int32), RATE, r"from -100 to -1, which look like 16-bit samples: convert it with"),
        ([0, 32_767] * 50, RATE, r"waveform: int64 with values from 0 to 32767, which look like 16-bit"),
        ([0, 1 << 30] * 50, RATE, r"which look like 32-bit samples: convert it with .astype\(numpy.int32\), or divide"),
        (np.zeros(100), 1_000_001, "a sample rate of 1000001 Hz; it must be 1000 to 1000000 Hz"),
        (np.full(100, 30_000.0), RATE, "samples of up to 30000, where full scale is 1"),
        (np.zeros(100), 0, "a sample rate of 0 Hz"),
        (np.zeros(100), float("nan"), "a sample rate of nan Hz"),
    ],
)
def test_an_unusable_waveform_is_an_error_of_one_sentence(classifier, waveform, rate, sentence):
    with pytest.raises(AudioError, match=sentence) as raised:
        classifier(waveform, rate)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("options", [{"window_s": 0.0}, {"hop_s": -1.0}, {"window_s": float("nan")}, {"hop_s": 1e9}])
def test_lengths_out_of_range(classifier, tmp_path, options):
    soundfile.write(tmp_path / "a.wav", sound(1.0, RATE), RATE)
    with pytest.raises(ValueError, match=f"{next(iter(options))}=.* must be above 0 and at most 600 seconds"):
        classifier.timeline(tmp_path / "a.wav", **options)


def wav(rate=RATE, samples=None, subtype="FLOAT"):
    """Bytes of a WAV file of half a second."""
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
    "huge.wav": (wav(11_025, samples=np.full((9000, 2), 3e38, np.float32)), "samples of up to 3e+38, where full scale"),
    "integers.wav": (wav(samples=20_000 * np.ones((9000, 1))), "samples of up to 20000, where full scale is 1"),
    "folder.wav": (None, "is a folder, not an audio file"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", BAD)
def test_an_unusable_file_is_an_error_of_one_sentence(classifier, tmp_path, name):
    content, sentence = BAD[name]
    (tmp_path / name).mkdir() if content is None else (tmp_path / name).write_bytes(content)
    with pytest.raises(AudioError) as raised:
        classifier.timeline(tmp_path / name)
    assert str(raised.value).startswith(f"{tmp_path / name}: ") and sentence in str(raised.value)
    assert "\n" not in str(raised.value) and str(raised.value).count(name) == 1


def test_no_such_file(classifier, tmp_path):
    for path in (tmp_path / "none.wav", "a\0b"):
        with pytest.raises(AudioError, match="no such file"):
            classifier.timeline(path)


@pytest.mark.parametrize("name", ["a.mp3", "a.flac"])
def test_a_file_that_breaks_off_is_classified_that_far(classifier, tmp_path, name):
    path = tmp_path / name
    soundfile.write(path, sound(10.0, 44_100), 44_100)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    timeline = classifier.timeline(path)
    assert 2 < timeline.duration_s < 8
    assert timeline.note.startswith(f"{path}: breaks off after {timeline.duration_s:.1f} of 10.0 s")
    assert timeline.note.endswith("; only what is there was classified") and timeline.incomplete
    np.testing.assert_array_equal(timeline.starts[:2], [0, 1])


@pytest.mark.parametrize("rate", [RATE, 44_100])
@pytest.mark.parametrize(
    "name, offset", [("a.wav", -1.0), ("a.wav", 0.3), ("a.flac", 0.02), ("a.ogg", 0.02), ("a.mp3", 0.0)]
)
def test_a_constant_is_silence(classifier, tmp_path, name, offset, rate):
    soundfile.write(tmp_path / name, np.full((3 * rate, 2), offset), rate)
    assert classifier.timeline(tmp_path / name, window_s=1.0).silent.all()
    soundfile.write(tmp_path / name, 0.1 * sound(3.0, rate, 1) + 0.8 * offset, rate)
    assert not classifier.timeline(tmp_path / name, window_s=1.0).silent.any()


def test_channels_that_cancel_are_no_silence(classifier, tmp_path):
    wave = sound(3.0, RATE)
    soundfile.write(tmp_path / "a.wav", np.concatenate([wave, -wave], axis=1), RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "mono.wav", wave, RATE, subtype="FLOAT")
    timeline, expected = classifier.timeline(tmp_path / "a.wav"), classifier.timeline(tmp_path / "mono.wav")
    assert timeline.note.endswith(": its channels cancel each other, and one of them was used")
    assert not timeline.incomplete and not timeline.silent.any()
    np.testing.assert_array_equal(timeline.probabilities, expected.probabilities)
    opposite = np.concatenate([wave[: RATE // 2], -wave[: RATE // 2]], axis=1)
    np.testing.assert_array_equal(classifier(opposite, RATE).vector, classifier(wave[: RATE // 2], RATE).vector)


def test_a_checkpoint_is_sufficient(untrained, no_xla_setup):
    import esc_jax

    classifier = esc_jax.load_classifier(str(untrained))
    assert classifier.classes == ("rain", "sea_waves", "dog")
    assert (classifier.sample_rate, classifier.window_s, classifier.task.name) == (16_000, 1.0, "single_label")
    wave = sound(1.0, 16_000)[:, 0]
    model = restore(untrained).model
    step = predict_step(model, tasks.get("single_label"))
    direct = step(model.variables, audio.to_int16(wave)[None])[0, 0]
    # Another batch size sums in another order.
    np.testing.assert_allclose(classifier(wave, 16_000).vector, direct, atol=1e-5)


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"format": 99}, "has format 99, but this version of esc_jax reads"),
        ({"classes": None}, "classes is None, and must be a list of names"),
        ({"config": {"seed": 1}}, "its config is not one of this version of esc_jax"),
        ({"classes": ["x", "y"]}, "do not match the model of its config"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_an_error_of_one_sentence(
    untrained, tmp_path, no_xla_setup, change, sentence
):
    shutil.copytree(untrained, tmp_path / "run")
    path = tmp_path / "run/checkpoints/0/meta/metadata"
    meta = json.loads(path.read_text()) | change
    del meta["crc32"]  # as another version would have written it, with a checksum that matches
    path.write_text(json.dumps(meta | {"crc32": files.json_checksum(meta)}))
    with pytest.raises(CheckpointError) as raised:
        load_classifier(tmp_path / "run")
    assert sentence in str(raised.value) and "\n" not in str(raised.value)


def test_a_folder_without_a_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="contains no checkpoint"):
        load_classifier(tmp_path)
    with pytest.raises(CheckpointError, match="no such folder"):
        load_classifier(tmp_path / "none")


def test_a_damaged_file_of_published_weights_is_refused(tmp_path):
    (tmp_path / "weights.pt").write_bytes(b"")
    with pytest.raises(PretrainedError, match=r"weights\.pt is empty: download it again"):
        load_classifier(tmp_path / "weights.pt")


def test_importing_the_package_imports_no_jax():
    code = "import sys, esc_jax; print('jax' in sys.modules, hasattr(esc_jax, 'nothing'), esc_jax.load_classifier)"
    root = pathlib.Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("False False <function load_classifier")


def test_the_padding_is_masked_if_it_was_in_training(tmp_path):
    def logit(prediction):
        return np.log(prediction.vector[0] / prediction.vector[1])

    masked, unmasked = (make_classifier(UnpaddedSeconds(), mask_padding=mask) for mask in (True, False))
    for seconds, expected in ((0.2, 0.2), (0.5, 9.0)):  # there is no mask for a batch without padding
        assert logit(masked(sound(seconds, RATE), RATE)) == pytest.approx(expected, abs=1e-3)
        assert logit(unmasked(sound(seconds, RATE), RATE)) == pytest.approx(9.0, abs=1e-3)
    soundfile.write(tmp_path / "a.wav", sound(1.0, RATE), RATE)
    timeline = masked.timeline(tmp_path / "a.wav", window_s=0.25, hop_s=0.25)  # windows shorter than clips
    logits = np.log(timeline.probabilities[:, 0] / timeline.probabilities[:, 1])
    np.testing.assert_allclose(logits, 0.25, atol=1e-3)


def test_a_calibration_of_the_checkpoint_scales_the_probabilities(classifier):
    calibrated = make_classifier(Quarters(), {"calibration": {"temperature": 2.5}})
    waveform = sound(0.5, RATE)[:, 0]
    plain, scaled = (c(waveform, RATE).vector for c in (classifier, calibrated))
    expected = plain.astype(np.float64) ** (1 / 2.5)
    np.testing.assert_allclose(scaled, expected / expected.sum(), rtol=1e-4)


def test_a_sound_that_is_far_from_all_classes_is_unfamiliar(tmp_path):
    """The classes are sounds in the first and in the last quarter."""
    rows = np.float32([[0.5, 0, 0, 0], [0, 0, 0, 0.5], [0, 0.9, 0.9, 0]])
    early, late, middle = np.repeat(rows, RATE // 8, axis=1)
    detector = Novelty.fit(0.5 * np.eye(4, dtype=np.float32)[[0, 3]], np.eye(2, dtype=bool))
    marked = make_classifier(Quarters(), detector=detector.with_threshold(np.array([0.9]), "two clips"))
    assert [marked(waveform, RATE).unfamiliar for waveform in (early, late, middle)] == [False, False, True]
    soundfile.write(tmp_path / "a.wav", np.concatenate([early, middle, np.zeros(RATE // 2)]), RATE)
    timeline = marked.timeline(tmp_path / "a.wav", hop_s=0.5)
    assert timeline.unfamiliar.tolist() == [False, True, False]  # silence is not unfamiliar
    assert timeline.silent.tolist() == [False, False, True]
