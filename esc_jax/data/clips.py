"""A labelled data set as training sees it: what is known of every clip, and random access to the audio.

`Clips` is the one type between the data sets (`data.datasets`) and everything that reads them.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import re

from absl import logging
import numpy as np

from esc_jax.data.folds import BACKGROUND_FOLD
from esc_jax.data.rows import DataError, Grouping
from esc_jax.errors import counted

# Longest part of a recording that is stored, read and cached as one, seconds.
PART_S = 60
# Memory for the parts of recordings that `Clips.windows` caches: all of GTZAN at 32 kHz, nine hours of it.
_CACHE_BYTES = 2 << 30
_START = re.compile(r"@(\d+(?:\.\d+)?)s$")  # of a window; the name of a file ends in its extension
# Encoders may add up to this to the end of a clip, seconds.
CODEC_S = 0.1


class Recording:
    """Samples of a long recording, which are read where a slice is taken.

    Args:
        read: number of a part → its samples, (part,) int16; the last part may be shorter.
        part: samples per part.
        samples: of the recording.
    """

    def __init__(self, read: Callable[[int], np.ndarray], part: int, samples: int):
        self._read, self._part, self._samples = read, part, samples

    def __len__(self) -> int:
        return self._samples

    def __getitem__(self, place: slice) -> np.ndarray:
        """Samples of a slice without a step: (n,) int16."""
        start, stop, step = place.indices(self._samples)
        assert step == 1
        numbers = range(start // self._part, -(-stop // self._part) if stop > start else 0)
        parts = [self._read(k)[max(0, start - k * self._part) : stop - k * self._part] for k in numbers]
        return parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, np.int16), *parts])

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        """All samples."""
        return self[:].astype(dtype or np.int16)


@dataclasses.dataclass(frozen=True)
class Clips:
    """N labelled clips.

    Attributes:
        labels: (N,) int32 class indices; (N, classes) bool for multi-label data.
        folds: fold of every clip.
        sources: source recording of every clip.
        filenames: name of every clip.
        classes: class names by index.
        sample_rate: Hz.
        samples: (N,) number of samples that `fetch` returns for every clip.
        length: number of samples that `read` returns for every clip.
        fingerprint: hash of the data; it does not depend on the folder they lie in.
        bad: file → reason, of files that were left out because they cannot be decoded.
        fetch: index → (samples,) int16 of any length, or a Recording.
        task: name of the task that the labels are for.
        grouping: how the source recordings are known.
        mask_padding: whether batches say which samples are padding.
        background: clips that are none of the classes, for training only; their labels do not count.
    """

    labels: np.ndarray
    folds: tuple[int, ...]
    sources: tuple[str, ...]
    filenames: tuple[str, ...]
    classes: tuple[str, ...]
    sample_rate: int
    samples: np.ndarray
    length: int
    fingerprint: str
    bad: dict[str, str]
    fetch: Callable[[int], np.ndarray | Recording]
    task: str = "single_label"
    grouping: Grouping = Grouping("column", "")
    mask_padding: bool = False
    background: "Clips | None" = None

    @property
    def identity(self) -> str:
        """Hash of everything that a run trains on: the data and the background."""
        return f"{self.fingerprint}+{self.background.fingerprint}" if self.background else self.fingerprint

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """(len(indices), length) int16: clips cut, or padded with zeros at the end, to `length` samples."""
        out = np.zeros((len(indices), self.length), np.int16)
        for row, index in enumerate(indices):
            samples = self.fetch(int(index))[: self.length]
            out[row, : len(samples)] = samples
        return out

    @property
    def masked(self) -> bool:
        """Whether batches carry the number of samples that are not padding: `mask_padding`, and a clip is padded."""
        return self.mask_padding and bool((self.samples < self.length).any())

    def valid(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """(len(indices),) int32: number of samples in the rows of `read` that are not padding; at least one."""
        return np.clip(self.samples[indices], 1, self.length).astype(np.int32)

    def subset(self, targets: Sequence[int], name: str) -> "Clips":
        """Returns the clips that have some of these classes, relabelled 0 … len(targets)-1 in that order."""
        if max(targets) >= len(self.classes):
            raise DataError(f"data.name={name}: the data set has only {len(self.classes)} classes")
        if self.multi_hot:
            keep = np.flatnonzero(self.labels[:, list(targets)].any(axis=1))
            labels = self.labels[keep][:, list(targets)]
        else:
            keep = np.flatnonzero(np.isin(self.labels, targets))
            renumber = {t: i for i, t in enumerate(targets)}
            labels = np.array([renumber[t] for t in self.labels[keep]], np.int32)
        return dataclasses.replace(
            self,
            labels=labels,
            folds=tuple(self.folds[i] for i in keep),
            sources=tuple(self.sources[i] for i in keep),
            filenames=tuple(self.filenames[i] for i in keep),
            classes=tuple(self.classes[t] for t in targets),
            samples=self.samples[keep],
            fingerprint=f"{self.fingerprint}-{name}",
            fetch=lambda index: self.fetch(keep[index]),
        )

    @property
    def multi_hot(self) -> bool:
        """Whether labels are (N, classes) bool, and not class indices."""
        return self.labels.ndim > 1

    @property
    def targets(self) -> list[tuple[int, ...]]:
        """Class indices of every clip."""
        if self.multi_hot:
            return [tuple(np.flatnonzero(row).tolist()) for row in self.labels]
        return [(label,) for label in self.labels.tolist()]

    @property
    def starts_s(self) -> np.ndarray:
        """(N,) start of every clip in its file, seconds: that in the names of `windows`, and 0 for other clips."""
        matches = (_START.search(name) for name in self.filenames)
        return np.array([float(match[1]) if match else 0.0 for match in matches])

    def as_multi_label(self) -> "Clips":
        """Returns the clips of a single-label set with labels of the multi-label task: one class each."""
        one_hot = self.labels[:, None] == np.arange(len(self.classes), dtype=self.labels.dtype)[None]
        return dataclasses.replace(self, labels=one_hot, task="multi_label")

    def with_background(self) -> "Clips":
        """Returns the clips followed by the background clips: −1, or no class at all, are their labels."""
        if self.background is None:
            return self
        other, count = self.background, len(self)
        label = np.full_like(self.labels[:1], False if self.multi_hot else -1)
        return dataclasses.replace(
            self,
            labels=np.concatenate([self.labels, np.repeat(label, len(other), axis=0)]),
            folds=self.folds + (BACKGROUND_FOLD,) * len(other),
            sources=self.sources + other.sources,
            filenames=self.filenames + other.filenames,
            samples=np.concatenate([self.samples, other.samples]),
            fetch=lambda index: self.fetch(index) if index < count else other.fetch(index - count),
            fingerprint=self.identity,
            background=None,
        )

    def windows(self, name_all: bool = False) -> "Clips":
        """Cuts every clip into consecutive windows of `length` samples, without overlap.

        The rest at the end of a clip is a window of its own if it is at least half a window long, and is dropped
        otherwise; the log says how much is dropped. A clip shorter than a window is one window. Fold and source are
        those of the clip. Names of windows end in the second at which they start: `blues/blues.00000.wav@5s`.

        Args:
            name_all: also change the names of clips that are one window.
        """
        whole, rest = np.divmod(self.samples, self.length)
        counts = np.maximum(1, whole + (2 * rest >= self.length))
        self._log_windows(counts)
        if not name_all and not (counts > 1).any():
            return self
        clips = np.repeat(np.arange(len(self)), counts).tolist()
        starts = [i * self.length for count in counts.tolist() for i in range(count)]

        def name(clip: int, start: int) -> str:
            if counts[clip] == 1 and not name_all:
                return self.filenames[clip]
            return f"{self.filenames[clip]}@{round(start / self.sample_rate, 3):.10g}s"

        # A part of a recording is read as a whole: without a cache, shuffled windows would read it once each, and take
        # 14 ms for half a minute at 32 kHz.
        part = PART_S * self.sample_rate
        size = max(1, _CACHE_BYTES // (2 * min(part, int(max(self.samples)))))
        read_part = functools.lru_cache(size)(lambda clip, k: self.fetch(clip)[k * part : (k + 1) * part])

        def fetch(index: int) -> np.ndarray:
            clip, start = clips[index], starts[index]
            if counts[clip] == 1:  # every epoch reads it once
                return self.fetch(clip)[: self.length]
            recording = Recording(functools.partial(read_part, clip), part, int(self.samples[clip]))
            return recording[start : start + self.length]

        return dataclasses.replace(
            self,
            labels=self.labels[clips],
            folds=tuple(self.folds[clip] for clip in clips),
            sources=tuple(self.sources[clip] for clip in clips),
            filenames=tuple(map(name, clips, starts)),
            samples=np.minimum(self.samples[clips] - starts, self.length),
            fingerprint=f"{self.fingerprint}-windows",  # whoever caches by it must not take the windows for the clips
            fetch=fetch,
        )

    def _log_windows(self, counts: np.ndarray) -> None:
        """Logs how many clips are cut into `counts` windows, and what is dropped at their ends."""
        seconds, cut = self.length / self.sample_rate, counts > 1
        dropped = np.maximum(0, self.samples - counts * self.length) / self.sample_rate
        dropped[dropped <= CODEC_S] = 0
        if cut.any():
            logging.info(
                "%d of %d files are longer than data.clip_s=%g s and are cut into %d windows",
                cut.sum(), len(self), seconds, counts[cut].sum(),
            )  # fmt: skip
        if dropped.any():
            logging.info(
                "%.1f s at the ends of %s are not used: rests of less than half of data.clip_s=%g s",
                dropped.sum(), counted(int((dropped > 0).sum()), "file"), seconds,
            )  # fmt: skip
