"""Class probabilities of a sound, and of a recording over time."""

from collections.abc import Sequence
import dataclasses

import numpy as np


def clock(seconds: float, decimals: bool = False) -> str:
    """A time as m:ss or h:mm:ss, with tenths where it is not whole, or always."""
    whole, tenths = divmod(round(seconds * 10), 10)
    minutes = f"{whole // 3600}:{whole // 60 % 60:02}" if whole >= 3600 else f"{whole // 60}"
    return f"{minutes}:{whole % 60:02}" + (f".{tenths}" if tenths or decimals else "")


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Class probabilities of a sound.

    Attributes:
        labels: all classes, likeliest first.
        probabilities: (classes,) in the order of `labels`.
        vector: (classes,) in the order of the classifier's `classes`.
        unfamiliar: it is unlike anything in training (`calibration`), whatever the probabilities say; of several
            windows, most are.
    """

    labels: tuple[str, ...]
    probabilities: np.ndarray
    vector: np.ndarray
    unfamiliar: bool = False

    @classmethod
    def of(cls, classes: Sequence[str], vectors: np.ndarray, unfamiliar: np.ndarray) -> "Prediction":
        """The average of windows, (n, classes) in the order of `classes` and (n,)."""
        vector = vectors.mean(axis=0)
        order = np.argsort(-vector, kind="stable")
        return cls(tuple(classes[i] for i in order), vector[order], vector, bool(unfamiliar.mean() > 0.5))

    def top(self, k: int) -> list[tuple[str, float]]:
        """The k likeliest classes with their probabilities."""
        return list(zip(self.labels[:k], self.probabilities[:k].tolist(), strict=True))


@dataclasses.dataclass(frozen=True)
class Timeline:
    """Class probabilities of a recording over time, in n windows.

    Attributes:
        classes: names, in the order of the columns.
        starts, ends: (n,) of the windows, s. The end of the last is the end of the recording.
        probabilities: (n, classes). Those of silent windows are what the model made of silence.
        level_db: (n,) RMS of the windows, dB below full scale (a full sine has −3); −inf for zeros.
        silent: (n,) true where the level is below the gate.
        unfamiliar: (n,) true where the sound is unlike anything in training (`calibration`).
        duration_s: of the recording.
        note: a sentence if the file broke off before its announced length; else empty.
    """

    classes: tuple[str, ...]
    starts: np.ndarray
    ends: np.ndarray
    probabilities: np.ndarray
    level_db: np.ndarray
    silent: np.ndarray
    unfamiliar: np.ndarray
    duration_s: float
    note: str = ""

    @property
    def times(self) -> np.ndarray:
        """(n,) centres of the windows, s."""
        return (self.starts + self.ends) / 2

    @property
    def edges(self) -> np.ndarray:
        """(n + 1,) s: the recording cut half way between the centres, a piece per window."""
        middles = (self.times[1:] + self.times[:-1]) / 2
        return np.concatenate([[0.0], middles, [self.duration_s]])

    @property
    def leaders(self) -> np.ndarray:
        """(n,) index of the likeliest class; −1 where silent."""
        return np.where(self.silent, -1, self.probabilities.argmax(axis=1))

    def passages(self) -> list[tuple[int, int]]:
        """Runs of windows with the same leader, as (first, stop); together they are all windows."""
        cuts = [0, *(np.flatnonzero(np.diff(self.leaders)) + 1).tolist(), len(self.starts)]
        return list(zip(cuts[:-1], cuts[1:], strict=True))

    def mean(self, first: int = 0, stop: int | None = None) -> Prediction | None:
        """Average over the windows first … stop − 1 that are not silent; None where all are."""
        heard = np.flatnonzero(~self.silent[first:stop]) + first
        return Prediction.of(self.classes, self.probabilities[heard], self.unfamiliar[heard]) if len(heard) else None

    def at(self, where: str) -> int:
        """Index of the first window ("begin"), the last ("end") or the one closest to the "middle"."""
        middle = int(np.abs(self.times - self.duration_s / 2).argmin())
        return {"begin": 0, "middle": middle, "end": len(self.starts) - 1}[where]

    def smoothed(self, seconds: float) -> "Timeline":
        """With the average over the windows whose centres are within seconds / 2, silent ones left out."""
        weights = (~self.silent).astype(np.float64)
        sums = np.cumsum(np.pad(self.probabilities * weights[:, None], ((1, 0), (0, 0))), axis=0, dtype=np.float64)
        counts = np.cumsum(np.pad(weights, (1, 0)))
        reach = seconds / 2 + 1e-6  # centres a whole number of hops away are within it, whatever the rounding
        first = np.searchsorted(self.times, self.times - reach)
        stop = np.searchsorted(self.times, self.times + reach, side="right")
        number = (counts[stop] - counts[first])[:, None]
        averages = (sums[stop] - sums[first]) / np.maximum(number, 1.0)
        found = np.where(number > 0, averages, self.probabilities).astype(np.float32)
        return dataclasses.replace(self, probabilities=found)
