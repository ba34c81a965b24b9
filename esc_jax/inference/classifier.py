"""A trained model applied to waveforms and recordings of any length.

    classifier = esc_jax.load_classifier("runs/resnet34")
    classifier(waveform, sample_rate).labels[0]
    classifier.timeline("storm.ogg").probabilities

A recording is decoded, mixed to mono and resampled block by block. Its windows are classified in batches of one
compiled shape, so memory does not grow with the length of the recording."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
import os
import pathlib

import jax
import numpy as np

from esc_jax import build
from esc_jax.data import audio
from esc_jax.data.audio import AudioError
from esc_jax.data.stream import AudioStream, windows
from esc_jax.evaluation.calibration import Calibration
from esc_jax.inference.timeline import Prediction, Timeline
from esc_jax.runtime import devices, xla
from esc_jax.training.checkpoint import CheckpointError
from esc_jax.training.step import logits_step

# A window with a lower RMS is silence. The quietest of 800 clips of ESC-50, a keyboard, has −56 dB.
SILENCE_DB = -60.0


LONGEST_S = 600.0


# Seconds of audio on the device at a time. A CPU gains nothing from more, an accelerator does.
_BATCH_S = {"cpu": 40.0}


_ACCELERATOR_BATCH_S = 320.0


class SoundClassifier:
    """A finished run's model, to be called on waveforms and recordings.

    Attributes:
        classes: names, in the order of the probabilities.
        sample_rate: Hz that the model hears at; input of any rate is resampled to it.
        window_s: length of the clips it was trained on, and of a window if nothing else is said, s.
        calibration: temperature of the probabilities, and which sounds are unfamiliar, where the checkpoint says so.
    """

    def __init__(self, restored: build.Restored):
        self.classes = restored.classes
        self.sample_rate = restored.sample_rate
        self.window_s = restored.clip_s
        self.calibration = Calibration.read(restored.meta)
        self._masks = restored.mask_padding
        self._variables = restored.variables
        self._logits = logits_step(restored.model, restored.frontend)

    def __call__(self, waveform: np.ndarray, sample_rate: float) -> Prediction:
        """Classifies a waveform; a longer one than a clip by the average over windows half a clip apart.

        Args:
            waveform: (time,) or, as soundfile gives it, (time, channels); floating point in [−1, 1] or integers.
            sample_rate: Hz, 1,000 to 1,000,000.

        Raises:
            AudioError: there are no samples, or samples that are not numbers; another shape, type or rate.
        """
        audio.check_rate(sample_rate, "waveform")
        with np.errstate(over="ignore", invalid="ignore"):
            mono = audio.to_mono(_as_float(waveform), sample_rate, self.sample_rate)
        if not np.isfinite(mono).all():
            raise AudioError("waveform: holds samples that are not numbers")
        size = self._samples("window_s", self.window_s)
        _, probabilities, unfamiliar, _ = self._classify(windows([mono], size, max(1, size // 2)), size, "waveform")
        return Prediction.of(self.classes, probabilities, unfamiliar)

    def timeline(
        self,
        path: str | os.PathLike,
        window_s: float | None = None,
        hop_s: float = 1.0,
        *,
        smooth_s: float = 0.0,
        silence_db: float | None = SILENCE_DB,
        observe: Callable[[np.ndarray, AudioStream], None] | None = None,
    ) -> Timeline:
        """Classifies a recording of any length, window by window (`windows` says where they are).

        A window shorter than a clip of training is filled up with zeros at its end, as the clips were, and the model
        told so where it was in training (`data.mask_padding`).

        Args:
            path: any format that soundfile reads, any rate and number of channels.
            window_s: length of a window, s; None for that of a clip of training.
            hop_s: between the starts of windows, s.
            smooth_s: the probabilities become a moving average over this time; 0 leaves them.
            silence_db: windows with a lower RMS, in dB below full scale, are marked silent; None marks none.
            observe: called with every block of mono samples at the model's rate, in order, for progress and pictures.

        Raises:
            AudioError: the file cannot be used.
            ValueError: a length that is not above 0 and at most 600 s.
        """
        size = self._samples("window_s", self.window_s if window_s is None else window_s)
        hop = self._samples("hop_s", hop_s)
        stream = AudioStream(path, self.sample_rate)
        total = 0

        def blocks() -> Iterator[np.ndarray]:
            nonlocal total
            for block in stream:
                total += len(block)
                if observe:
                    observe(block, stream)
                yield block

        starts, probabilities, unfamiliar, level = self._classify(windows(blocks(), size, hop), size, stream.name)
        silent = level < silence_db if silence_db is not None else np.zeros(len(level), bool)
        ends = np.minimum(starts + size, total)
        rate = self.sample_rate
        found = Timeline(
            self.classes,
            starts / rate,
            ends / rate,
            probabilities,
            level,
            silent,
            unfamiliar & ~silent,
            total / rate,
            stream.note,
        )
        return found.smoothed(smooth_s) if smooth_s else found

    def _samples(self, name: str, seconds: float) -> int:
        if not 0 < seconds <= LONGEST_S:  # refuses NaN too
            raise ValueError(f"{name}={seconds:g}: must be above 0 and at most {LONGEST_S:g} seconds")
        return max(1, round(seconds * self.sample_rate))

    def _classify(
        self, cut: Iterable[tuple[int, np.ndarray]], size: int, name: str
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Starts, probabilities, whether unfamiliar, and RMS levels (dB) of windows of up to `size` samples."""
        shape = max(size, round(self.window_s * self.sample_rate))
        budget = _BATCH_S.get(jax.default_backend(), _ACCELERATOR_BATCH_S)
        rows = max(1, int(budget * self.sample_rate) // shape)
        starts, level, done, running = [], [], [], deque()
        batch, valid = np.zeros((rows, shape), np.int16), np.full(rows, shape, np.int32)

        def logits() -> jax.Array:
            padded = self._masks and (valid < shape).any()
            return self._logits(self._variables, *devices.to_device((batch, valid) if padded else (batch,)))

        for start, samples in cut:
            row = len(starts) % rows
            batch[row, : len(samples)] = audio.to_int16(samples)  # what training read: 16 bits
            valid[row] = len(samples)
            starts.append(start)
            level.append(float(np.mean(np.square(samples, dtype=np.float64))))
            if row == rows - 1:
                running.append(logits())
                batch, valid = np.zeros_like(batch), np.full_like(valid, shape)  # the device may still read the others
                if len(running) > 1:  # the device computes one while the host decodes the next
                    done.append(np.asarray(running.popleft()[0]))
        if len(starts) % rows:
            running.append(logits())
        done += [np.asarray(found[0]) for found in running]
        if not starts:
            raise AudioError(f"{name}: holds no samples")
        logits = np.concatenate(done)[: len(starts)]
        found = self.calibration.probabilities(logits), self.calibration.unfamiliar(logits)
        with np.errstate(divide="ignore"):
            return np.array(starts), *found, 10 * np.log10(level)


def _as_float(waveform: np.ndarray) -> np.ndarray:
    """(time,) or (time, channels) of any number type as (time, channels) float32 in [−1, 1]. Raises AudioError."""
    waveform = np.asarray(waveform)
    if waveform.ndim == 1:
        waveform = waveform[:, None]
    if waveform.ndim != 2 or (0 < waveform.shape[0] < waveform.shape[1]):
        raise AudioError(f"waveform: of shape {waveform.shape}; it must be (time,) or (time, channels)")
    if not waveform.size:
        raise AudioError("waveform: holds no samples")
    if waveform.dtype == np.uint8:  # 8-bit PCM is the one with an offset
        return (waveform.astype(np.float32) - 128.0) / 128.0
    if np.issubdtype(waveform.dtype, np.signedinteger):
        return (waveform / -float(np.iinfo(waveform.dtype).min)).astype(np.float32)
    if not np.issubdtype(waveform.dtype, np.floating):
        raise AudioError(f"waveform: holds {waveform.dtype}; it must be floating point or integers")
    return waveform.astype(np.float32)


def load_classifier(path: str | os.PathLike) -> SoundClassifier:
    """The classifier of a finished run: its workdir, its `checkpoints` folder or one step in it.

    Where no device was used before, XLA is set up as in training: on CPU it is several times faster so.

    Raises:
        CheckpointError: there is none, it is of another version of the format, or it cannot be read.
    """
    xla.initialize(guest=True)
    try:
        return SoundClassifier(build.restore(pathlib.Path(path)))
    except (AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: its config is not one of this version of esc_jax ({error})") from error
