"""Class probabilities of a sound, and of a recording over time."""

from collections.abc import Sequence
import dataclasses

import numpy as np

from esc_jax.tasks.base import Task


def clock(seconds: float, decimals: bool = False) -> str:
    """Formats a time as m:ss or h:mm:ss, with tenths where it is not a whole number, or always with `decimals`."""
    whole, tenths = divmod(round(seconds * 10), 10)
    minutes = f"{whole // 3600}:{whole // 60 % 60:02}" if whole >= 3600 else f"{whole // 60}"
    return f"{minutes}:{whole % 60:02}" + (f".{tenths}" if tenths or decimals else "")


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Class probabilities of a sound.

    Attributes:
        labels: all classes, most probable first.
        probabilities: (classes,) in the order of `labels`.
        vector: (classes,) the same probabilities in the order of the classifier's `classes`.
        unfamiliar: whether the sound is unlike the training data (`evaluation.calibration`). For several windows:
            whether most of them are.
    """

    labels: tuple[str, ...]
    probabilities: np.ndarray
    vector: np.ndarray
    unfamiliar: bool = False

    @classmethod
    def average(cls, classes: Sequence[str], probabilities: np.ndarray, unfamiliar: np.ndarray) -> "Prediction":
        """The mean over windows.

        Args:
            classes: class names.
            probabilities: (windows, classes) in the order of `classes`.
            unfamiliar: (windows,) bool.
        """
        vector = probabilities.mean(axis=0)
        ranking = np.argsort(-vector, kind="stable")
        return cls(tuple(classes[i] for i in ranking), vector[ranking], vector, bool(unfamiliar.mean() > 0.5))

    def top(self, k: int) -> list[tuple[str, float]]:
        """The k most probable classes with their probabilities."""
        return list(zip(self.labels[:k], self.probabilities[:k].tolist(), strict=True))


@dataclasses.dataclass(frozen=True)
class Timeline:
    """Class probabilities of a recording in n windows, in the order of time.

    Attributes:
        classes: class names in the order of the columns.
        starts: (n,) start of each window, s.
        ends: (n,) end of each window, s. The last window ends with the recording.
        probabilities: (n, classes). Rows of silent windows are the model's output on silence.
        level_db: (n,) RMS level of each window in dB relative to full scale: −3 for a sine of full scale, −∞ for zeros.
        silent: (n,) true where the level is below the silence threshold.
        unfamiliar: (n,) true where the sound is unlike the training data (`evaluation.calibration`).
        duration_s: length of the recording, s.
        task: decides for the class of each window.
        note: a sentence if the file ended before its announced length, else empty.
    """

    classes: tuple[str, ...]
    starts: np.ndarray
    ends: np.ndarray
    probabilities: np.ndarray
    level_db: np.ndarray
    silent: np.ndarray
    unfamiliar: np.ndarray
    duration_s: float
    task: Task
    note: str = ""

    @property
    def times(self) -> np.ndarray:
        """(n,) centres of the windows, s."""
        return (self.starts + self.ends) / 2

    @property
    def edges(self) -> np.ndarray:
        """(n + 1,) boundaries, s, half way between the centres: they divide the recording into one piece per window."""
        middles = (self.times[1:] + self.times[:-1]) / 2
        return np.concatenate([[0.0], middles, [self.duration_s]])

    @property
    def leaders(self) -> np.ndarray:
        """(n,) index of the class that the task decides for; −1 for silent windows and where it decides for none."""
        return np.where(self.silent, -1, self.task.decide(self.probabilities))

    def passages(self) -> list[tuple[int, int]]:
        """Runs of consecutive windows with the same leader, as (first, stop). Together they cover all windows."""
        cuts = [0, *(np.flatnonzero(np.diff(self.leaders)) + 1).tolist(), len(self.starts)]
        return list(zip(cuts[:-1], cuts[1:], strict=True))

    def mean(self, first: int = 0, stop: int | None = None) -> Prediction | None:
        """The mean over the windows first … stop − 1 without the silent ones; None if all of them are silent."""
        audible = np.flatnonzero(~self.silent[first:stop]) + first
        if not len(audible):
            return None
        return Prediction.average(self.classes, self.probabilities[audible], self.unfamiliar[audible])

    def window_at(self, position: str) -> int:
        """Index of a window.

        Args:
            position: "begin" for the first window, "middle" for the one closest to the centre of the recording, "end"
                for the last.
        """
        middle = int(np.abs(self.times - self.duration_s / 2).argmin())
        return {"begin": 0, "middle": middle, "end": len(self.starts) - 1}[position]

    def smoothed(self, seconds: float) -> "Timeline":
        """A moving average of the probabilities, over the audible windows with centres within ± seconds / 2.

        A window without audible windows in that range keeps its probabilities.
        """
        weights = (~self.silent).astype(np.float64)
        sums = np.cumsum(np.pad(self.probabilities * weights[:, None], ((1, 0), (0, 0))), axis=0, dtype=np.float64)
        counts = np.cumsum(np.pad(weights, (1, 0)))
        reach = seconds / 2 + 1e-6  # include centres at exactly seconds / 2 in spite of rounding
        first = np.searchsorted(self.times, self.times - reach)
        stop = np.searchsorted(self.times, self.times + reach, side="right")
        number = (counts[stop] - counts[first])[:, None]
        averages = (sums[stop] - sums[first]) / np.maximum(number, 1.0)
        probabilities = np.where(number > 0, averages, self.probabilities).astype(np.float32)
        return dataclasses.replace(self, probabilities=probabilities)
