"""A trained model applied to waveforms and to recordings of any length.

    classifier = esc_jax.load_classifier("runs/resnet34")
    classifier(waveform, sample_rate).labels[0]
    classifier.timeline("storm.ogg").probabilities

A recording is decoded, mixed to mono and resampled block by block. Its windows are classified in batches of one
compiled shape, so that memory does not grow with the length of the recording.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
import dataclasses
import itertools
import os
import pathlib

import jax
import numpy as np

from esc_jax.data import audio
from esc_jax.data.audio import AudioError
from esc_jax.data.stream import AudioStream, windows
from esc_jax.evaluation import novelty
from esc_jax.evaluation.calibration import Calibration
from esc_jax.inference import model_path
from esc_jax.inference.timeline import Prediction, Timeline
from esc_jax.pretrained import load
from esc_jax.runtime import devices, xla
from esc_jax.tasks import registry as tasks
from esc_jax.training import packed
from esc_jax.training.restore import MAX_CLIP_S, Restored, restore
from esc_jax.training.step import outputs_step

# Windows with a lower RMS level, without their constant offset, are silent. The quietest of 800 clips of ESC-50 (a
# keyboard) has −56 dB.
SILENCE_DB = -60.0
# A filter that resamples rings where a constant offset begins and ends.
_EDGE_S = 0.01

# Seconds of audio per batch. More does not make a CPU faster; it does make an accelerator faster.
_BATCH_S = {"cpu": 40.0}
_ACCELERATOR_BATCH_S = 320.0


class SoundClassifier:
    """A model that classifies, callable on waveforms and recordings.

    Args:
        restored: the model. The input of a published one is floating point, and is padded to whole seconds where it is
            shorter than a window. The input of a run has 16 bits and is padded to the length of a training clip, as in
            its training.

    Attributes:
        config: of the run.
        model: with its weights.
        task: what the classes of the model mean.
        classes: class names in the order of the probabilities.
        sample_rate: of the model, Hz. Input of any rate is resampled to it.
        window_s: length of a training clip, and the default length of a window, s.
        calibration: temperature of the probabilities, if the checkpoint has one.
        novelty: what marks unfamiliar sounds, if the checkpoint has it.
    """

    def __init__(self, restored: Restored):
        self.config = restored.config
        self.model = restored.model
        self.task = tasks.get(restored.config.task)
        self.classes = restored.model.classes
        self.sample_rate = restored.model.sample_rate
        self.window_s = restored.model.clip_s
        self.calibration = Calibration.read(restored.meta)
        self.novelty = novelty.restore(restored)
        self._outputs = outputs_step(restored.model)
        self._published = restored.published
        self._pad_to = self.sample_rate if self._published else restored.model.clip_samples

    @property
    def thresholds(self) -> np.ndarray | None:
        """(classes,) probabilities from which a class counts as present; None for the defaults of the task."""
        return None if self.calibration.thresholds is None else np.array(self.calibration.thresholds)

    def __call__(self, waveform: np.ndarray, sample_rate: float) -> Prediction:
        """Classifies a waveform.

        The prediction for a waveform longer than a training clip is the mean over windows of `window_s`, half a window
        apart; that of a multi-label model is their maximum.

        Args:
            waveform: (time,) or (time, channels), as soundfile returns it; floating point in [−1, 1], or
                integers that use the full scale of their type.
            sample_rate: of the waveform, 1,000 to 1,000,000 Hz.

        Raises:
            AudioError: the waveform has no samples, non-finite ones or some far above full scale, or an unsupported
                shape, type or sample rate, or is of wider integers than its samples.
        """
        audio.check_rate(sample_rate, "waveform")
        with np.errstate(over="ignore", invalid="ignore"):
            samples = _as_float(waveform)
            audio.check_level(samples, "waveform")
            mono = audio.to_mono(samples, sample_rate, self.sample_rate)
        if not np.isfinite(mono).all():
            raise AudioError("waveform: holds samples that are not numbers")
        size = self._samples("window_s", self.window_s)
        _, probabilities, unfamiliar, _ = self._classify(windows([mono], size, max(1, size // 2)), size, "waveform")
        return Prediction.of_recording(self.classes, probabilities, unfamiliar, self.task, self.thresholds)

    def timeline(
        self,
        path: str | os.PathLike[str],
        window_s: float | None = None,
        hop_s: float = 1.0,
        *,
        smooth_s: float = 0.0,
        silence_db: float | None = SILENCE_DB,
        observe: Callable[[np.ndarray, AudioStream], None] | None = None,
    ) -> Timeline:
        """Classifies a recording of any length, window by window. `data.stream.windows` defines where windows start.

        A window shorter than a training clip is padded with zeros at its end, as short clips are in training. The
        padding is masked if it was masked in training (`data.mask_padding`).

        Args:
            path: a recording of any format that libsndfile or ffmpeg reads, any sample rate and number of channels.
            window_s: length of a window, s; None for the length of a training clip.
            hop_s: time between the starts of consecutive windows, s.
            smooth_s: length of a moving average of the probabilities, s; 0 for none.
            silence_db: windows with a lower RMS level (without their mean), in dB relative to full scale, are marked
                silent; None for none.
            observe: called with each block of mono samples at the model's rate and with the stream, in order.

        Raises:
            AudioError: the file cannot be used.
            ValueError: window_s or hop_s is not in (0, 600].
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

        outputs = self._classify(windows(blocks(), size, hop), size, stream.name)
        timeline = self._timeline(outputs, size, total, silence_db)
        timeline = dataclasses.replace(timeline, note=stream.note, incomplete=bool(stream.defect))
        return timeline.smoothed(smooth_s) if smooth_s else timeline

    def live(
        self, blocks: Iterable[np.ndarray], window_s: float, hop_s: float, *, silence_db: float | None = SILENCE_DB
    ) -> Iterator[Timeline]:
        """Classifies a signal while it arrives. The windows are those that `timeline` has for the same signal.

        Args:
            blocks: (samples,) float32 each, at the model's rate.
            window_s, hop_s, silence_db: as of `timeline`.

        Yields:
            A timeline of one window, as soon as its last sample is there. A timeline ends with its window.

        Raises:
            ValueError: window_s or hop_s is not in (0, 600].
        """
        size, hop = self._samples("window_s", window_s), self._samples("hop_s", hop_s)
        for start, samples in windows(blocks, size, hop):
            outputs = self._classify([(start, samples)], size, "live sound", rows=1)
            yield self._timeline(outputs, size, start + len(samples), silence_db)

    def _timeline(
        self,
        outputs: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
        size: int,
        total: int,
        silence_db: float | None,
    ) -> Timeline:
        """The timeline of what `_classify` returns, for windows of `size` samples of a signal of `total` samples."""
        starts, probabilities, unfamiliar, level = outputs
        silent = level < silence_db if silence_db is not None else np.zeros(len(level), bool)
        return Timeline(
            classes=self.classes,
            starts=starts / self.sample_rate,
            ends=np.minimum(starts + size, total) / self.sample_rate,
            probabilities=probabilities,
            level_db=level,
            silent=silent,
            unfamiliar=unfamiliar & ~silent,
            duration_s=total / self.sample_rate,
            task=self.task,
            thresholds=self.thresholds,
        )

    def _samples(self, name: str, seconds: float) -> int:
        if not 0 < seconds <= MAX_CLIP_S:  # False for NaN
            raise ValueError(f"{name}={seconds:g}: must be above 0 and at most {MAX_CLIP_S:g} seconds")
        return max(1, round(seconds * self.sample_rate))

    def _classify(
        self, pieces: Iterable[tuple[int, np.ndarray]], size: int, name: str, rows: int = 0
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Classifies windows of up to `size` samples.

        Args:
            pieces: (start, samples) of each window.
            size: samples of a window.
            name: of the recording, for errors.
            rows: windows of a batch; 0 for as many as the device computes well.

        Returns:
            Starts (samples), probabilities, whether unfamiliar, and RMS levels (dB), each of the n windows.
        """
        pieces = iter(pieces)
        head = list(itertools.islice(pieces, 1))
        shape = max(size, self._pad_to)
        if self._published and head and len(head[0][1]) < size:  # the only window
            shape = -(-len(head[0][1]) // self._pad_to) * self._pad_to
        budget = _BATCH_S.get(jax.default_backend(), _ACCELERATOR_BATCH_S)
        rows = rows or max(1, int(budget * self.sample_rate) // shape)
        starts: list[int] = []
        power: list[float] = []
        done: list[tuple[np.ndarray, np.ndarray]] = []
        running: deque[tuple[jax.Array, jax.Array]] = deque()
        # A run computes with 16 bits, as in its training; published models were trained on floating point.
        batch = np.zeros((rows, shape), np.float32 if self._published else np.int16)
        valid = np.full(rows, shape, np.int32)
        for start, samples in itertools.chain(head, pieces):
            row = len(starts) % rows
            batch[row, : len(samples)] = samples if self._published else audio.to_int16(samples)
            valid[row] = len(samples)
            starts.append(start)
            power.append(_power(samples, round(_EDGE_S * self.sample_rate)))
            if row == rows - 1:
                running.append(self._run(batch, valid))
                batch, valid = np.zeros_like(batch), np.full_like(valid, shape)  # the device may still read the others
                if len(running) > 1:  # the device computes one batch while the host decodes the next
                    done.append(self._collect(running.popleft()))
        if not starts:
            raise AudioError(f"{name}: holds no samples")
        if len(starts) % rows:
            running.append(self._run(batch, valid))
        done += [self._collect(outputs) for outputs in running]
        logits, unfamiliar = (np.concatenate(parts)[: len(starts)] for parts in zip(*done, strict=True))
        probabilities = self.calibration.probabilities(self.task, logits)
        with np.errstate(divide="ignore"):
            return np.array(starts), probabilities, unfamiliar, 10 * np.log10(power)

    def _run(self, batch: np.ndarray, valid: np.ndarray) -> tuple[jax.Array, jax.Array]:
        """Logits (1, rows, classes) and embeddings (1, rows, D) of a batch.

        Args:
            batch: (rows, time) int16, or float32 for a published model.
            valid: (rows,) samples before the padding.
        """
        masked = self.model.mask_padding and bool((valid < batch.shape[1]).any())
        return self._outputs(self.model.variables, *devices.to_device((batch, valid) if masked else (batch,)))

    def _collect(self, outputs: tuple[jax.Array, jax.Array]) -> tuple[np.ndarray, np.ndarray]:
        """Logits (rows, classes) of the outputs of `_run`, and (rows,) whether the sound is unfamiliar."""
        logits, embeddings = (np.asarray(output[0]) for output in outputs)
        return logits, self.novelty.unfamiliar(embeddings) if self.novelty else np.zeros(len(logits), bool)


def _power(samples: np.ndarray, edge: int) -> float:
    """Mean power of a window without its mean; without `edge` samples at both ends, if the mean has more power."""
    power = float(np.var(samples, dtype=np.float64))
    if power < float(np.mean(samples, dtype=np.float64)) ** 2 and len(samples) > 4 * edge:
        power = min(power, float(np.var(samples[edge:-edge], dtype=np.float64)))
    return power


def _check_width(waveform: np.ndarray) -> None:
    """Raises AudioError for integers that fit into a narrower type: in their own, they would be below −90 dB."""
    low, high = int(waveform.min()), int(waveform.max())
    for width in (16, 32):
        limit = 1 << (width - 1)
        if waveform.dtype.itemsize * 8 > width and (low or high) and -limit <= low and high < limit:
            raise AudioError(
                f"waveform: {waveform.dtype} with values from {low} to {high}, which look like {width}-bit samples:"
                f" convert it with .astype(numpy.int{width}), or divide it by {limit}"
            )


def _as_float(waveform: np.ndarray) -> np.ndarray:
    """(time,) or (time, channels) of any number type as (time, channels) float32 in [−1, 1]. Raises AudioError."""
    waveform = np.asarray(waveform)
    if waveform.ndim == 1:
        waveform = waveform[:, None]
    if waveform.ndim != 2 or (0 < waveform.shape[0] < waveform.shape[1]):
        raise AudioError(f"waveform: of shape {waveform.shape}; it must be (time,) or (time, channels)")
    if not waveform.size:
        raise AudioError("waveform: holds no samples")
    if waveform.dtype == np.uint8:  # 8-bit PCM has an offset; the other integer types do not
        return (waveform.astype(np.float32) - 128.0) / 128.0
    if np.issubdtype(waveform.dtype, np.signedinteger):
        _check_width(waveform)
        return (waveform / -float(np.iinfo(waveform.dtype).min)).astype(np.float32)
    if not np.issubdtype(waveform.dtype, np.floating):
        raise AudioError(f"waveform: holds {waveform.dtype}; it must be floating point or integers")
    return waveform.astype(np.float32)


def restore_any(path: str | os.PathLike[str]) -> Restored:
    """A finished run, a packed classifier, or a published one.

    Args:
        path: as of `load_classifier`.

    Raises:
        CheckpointError, PretrainedError, ModelPathError: as `load_classifier`.
    """
    model_path.check_name(path)
    if file := model_path.packed_file(path):
        return packed.load(file)
    if not model_path.is_published(path):
        return restore(pathlib.Path(path))
    config, model = load.load_classifier(os.fspath(path))
    return Restored(model, config, pathlib.Path(path), 0, {}, published=True)


def load_classifier(path: str | os.PathLike[str]) -> SoundClassifier:
    """Loads the classifier of a finished run, or a published one.

    XLA is configured as in training if no device has been used in this process yet; on CPU this is several times
    faster than XLA's defaults.

    Args:
        path: the run's workdir, its `checkpoints` folder or one checkpoint in it; a packed classifier
            (`training.packed`) or its folder; or published weights that have classes of their own: a name in the
            catalog (`pretrained.catalog`), a file, a folder or a hub id.

    Raises:
        CheckpointError: there is no checkpoint, it has another format version, or it cannot be read.
        PretrainedError: the published weights cannot be used, or have no classes of their own.
        ModelPathError: nothing has this path, and published weights have a similar name.
    """
    xla.initialize(library=True)
    return SoundClassifier(restore_any(path))
