"""A labelled data set as training sees it: what is known of every clip, and random access to the audio.

`Clips` is the one type between the data sets (`data.datasets`) and everything that reads them.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools

import numpy as np

from esc_jax.data.folds import BACKGROUND_FOLD
from esc_jax.data.rows import DataError, Grouping

# Memory for decoded tracks that `Clips.windows` caches: all of GTZAN at 32 kHz.
_CACHE_BYTES = 2 << 30


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
        fetch: index → (samples,) int16 of any length.
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
    fetch: Callable[[int], np.ndarray]
    task: str = "single_label"
    grouping: Grouping = Grouping("column", "")
    mask_padding: bool = False
    background: "Clips | None" = None

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
        if self.labels.ndim > 1:
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
    def targets(self) -> list[tuple[int, ...]]:
        """Class indices of every clip."""
        if self.labels.ndim > 1:
            return [tuple(np.flatnonzero(row).tolist()) for row in self.labels]
        return [(label,) for label in self.labels.tolist()]

    def as_multi_label(self) -> "Clips":
        """Returns the clips of a single-label set with labels of the multi-label task: one class each."""
        one_hot = self.labels[:, None] == np.arange(len(self.classes), dtype=self.labels.dtype)[None]
        return dataclasses.replace(self, labels=one_hot, task="multi_label")

    def with_background(self) -> "Clips":
        """Returns the clips followed by the background clips: −1, or no class at all, are their labels."""
        if self.background is None:
            return self
        other, count = self.background, len(self)
        label = np.full_like(self.labels[:1], False if self.labels.ndim > 1 else -1)
        return dataclasses.replace(
            self,
            labels=np.concatenate([self.labels, np.repeat(label, len(other), axis=0)]),
            folds=self.folds + (BACKGROUND_FOLD,) * len(other),
            sources=self.sources + other.sources,
            filenames=self.filenames + other.filenames,
            samples=np.concatenate([self.samples, other.samples]),
            fetch=lambda index: self.fetch(index) if index < count else other.fetch(index - count),
            fingerprint=f"{self.fingerprint}+{other.fingerprint}",
            background=None,
        )

    def windows(self) -> "Clips":
        """Cuts every clip into consecutive windows of `length` samples, without overlap.

        The rest at the end of a clip is a window of its own if it is at least half a window long, and is dropped
        otherwise. A clip shorter than a window is one window. Fold and source are those of the clip. Names end in the
        second at which a window starts: `blues/blues.00000.wav@5s`.
        """
        starts: list[tuple[int, int]] = []  # (clip, first sample)
        for clip, count in enumerate(self.samples.tolist()):
            whole, rest = divmod(count, self.length)
            starts.extend((clip, i * self.length) for i in range(max(1, whole + (2 * rest >= self.length))))
        # A record is read as a whole, and shuffled windows would read each clip once per window: 14 ms at 32 kHz.
        fetch = functools.lru_cache(max(1, _CACHE_BYTES // (2 * int(max(self.samples)))))(self.fetch)

        def fetch_window(index: int) -> np.ndarray:
            clip, start = starts[index]
            return fetch(clip)[start : start + self.length]

        return dataclasses.replace(
            self,
            labels=self.labels[[clip for clip, _ in starts]],
            folds=tuple(self.folds[clip] for clip, _ in starts),
            sources=tuple(self.sources[clip] for clip, _ in starts),
            filenames=tuple(f"{self.filenames[c]}@{round(start / self.sample_rate, 3):.10g}s" for c, start in starts),
            samples=np.array([min(self.samples[clip] - start, self.length) for clip, start in starts]),
            fetch=fetch_window,
        )
