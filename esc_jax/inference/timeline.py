"""Class probabilities of a sound, and of a recording over time."""

from collections.abc import Callable, Sequence
import dataclasses
import functools

import numpy as np

from esc_jax.tasks.base import Task


def clock(seconds: float, decimals: bool = False) -> str:
    """Formats a time as m:ss or h:mm:ss, with tenths where it is not a whole number, or always with `decimals`."""
    whole, tenths = divmod(round(seconds * 10), 10)
    minutes = f"{whole // 3600}:{whole // 60 % 60:02}" if whole >= 3600 else f"{whole // 60}"
    return f"{minutes}:{whole % 60:02}" + (f".{tenths}" if tenths or decimals else "")


def span(start_s: float, end_s: float) -> str:
    """Formats a part of a recording for a table: begin and end, with tenths, in columns of equal width."""
    return f"{clock(start_s, True):>9} –{clock(end_s, True):>9}"


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Class probabilities of a sound.

    Attributes:
        labels: all classes, most probable first.
        probabilities: (classes,) in the order of `labels`.
        vector: (classes,) the same probabilities in the order of the classifier's `classes`.
        unfamiliar: whether the sound is unlike any class (`evaluation.calibration`). For several windows:
            whether most of them are.
        detected: the classes that the task decides for, most probable first.
        nearest: (class, probability, threshold) of the class that is closest to its threshold, by the difference of
            their log-odds, where no class is detected; else None.
    """

    labels: tuple[str, ...]
    probabilities: np.ndarray
    vector: np.ndarray
    unfamiliar: bool = False
    detected: tuple[str, ...] = ()
    nearest: tuple[str, float, float] | None = None

    @classmethod
    def average(
        cls,
        classes: Sequence[str],
        probabilities: np.ndarray,
        unfamiliar: np.ndarray,
        task: Task,
        thresholds: np.ndarray | None = None,
    ) -> "Prediction":
        """The mean over windows.

        Args:
            classes: class names.
            probabilities: (windows, classes) in the order of `classes`.
            unfamiliar: (windows,) bool.
            task: decides for the classes of the mean.
            thresholds: (classes,) of the decision, as of `Task.decide`.
        """
        return cls._decided(classes, probabilities.mean(axis=0), unfamiliar, task, thresholds)

    @classmethod
    def of_recording(
        cls,
        classes: Sequence[str],
        probabilities: np.ndarray,
        unfamiliar: np.ndarray,
        task: Task,
        thresholds: np.ndarray | None = None,
    ) -> "Prediction":
        """The mean over the windows of a recording if every decision is one class, else their maximum.

        The maximum detects the classes that are detected in any window. Arguments are those of `average`.
        """
        vector = probabilities.mean(axis=0) if task.exclusive else probabilities.max(axis=0)
        return cls._decided(classes, vector, unfamiliar, task, thresholds)

    @classmethod
    def _decided(
        cls, classes: Sequence[str], vector: np.ndarray, unfamiliar: np.ndarray, task: Task,
        thresholds: np.ndarray | None,
    ) -> "Prediction":  # fmt: skip
        ranking = np.argsort(-vector, kind="stable")
        active = task.active(vector, thresholds)
        nearest = None
        if not active.any():
            limits = np.full(len(vector), task.default_threshold if thresholds is None else thresholds, np.float64)
            closest = int((task.logits(vector) - task.logits(limits)).argmax())
            nearest = classes[closest], float(vector[closest]), float(limits[closest])
        return cls(
            labels=tuple(classes[i] for i in ranking),
            probabilities=vector[ranking],
            vector=vector,
            unfamiliar=bool(unfamiliar.mean() > 0.5),
            detected=tuple(classes[i] for i in ranking if active[i]),
            nearest=nearest,
        )

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
        level_db: (n,) RMS level of each window without its mean, in dB relative to full scale: −3 for a sine of full
            scale, −∞ for constant samples.
        silent: (n,) true where the level is below the silence threshold.
        unfamiliar: (n,) true where the sound is unlike any class (`evaluation.calibration`).
        duration_s: length of the recording, s.
        task: decides for the classes of each window.
        note: a sentence on a file that breaks off, whose header was never completed, or whose channels cancel each
            other; else empty.
        thresholds: (classes,) of these decisions, as of `Task.decide`; None for its defaults.
        incomplete: whether the file breaks off, or its header was never completed.
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
    thresholds: np.ndarray | None = None
    incomplete: bool = False

    @property
    def times(self) -> np.ndarray:
        """(n,) centres of the windows, s."""
        return (self.starts + self.ends) / 2

    @property
    def edges(self) -> np.ndarray:
        """(n + 1,) boundaries, s, half way between the centres: they divide the recording into one piece per window."""
        middles = (self.times[1:] + self.times[:-1]) / 2
        return np.concatenate([[0.0], middles, [self.duration_s]])

    @functools.cached_property
    def active(self) -> np.ndarray:
        """(n, classes) bool: the classes that the task decides for; none in silent windows."""
        return self.task.active(self.probabilities, self.thresholds) & ~self.silent[:, None]

    def passages(self) -> list[tuple[int, int]]:
        """Runs of consecutive windows with the same active classes, as (first, stop). Together they cover all windows.

        Silent windows are runs of their own.
        """
        changes = (self.active[1:] != self.active[:-1]).any(axis=1) | (self.silent[1:] != self.silent[:-1])
        cuts = [0, *(np.flatnonzero(changes) + 1).tolist(), len(self.starts)]
        return list(zip(cuts[:-1], cuts[1:], strict=True))

    def mean(self, first: int = 0, stop: int | None = None) -> Prediction | None:
        """The mean over the windows first … stop − 1 without the silent ones; None if all of them are silent."""
        return self._pooled(Prediction.average, first, stop)

    def whole(self) -> Prediction | None:
        """The prediction for the recording without its silent windows; None if all of them are silent.

        The mean over windows if every decision is one class. Else the maximum: a class is detected in the recording if
        it is detected in any window.
        """
        return self._pooled(Prediction.of_recording, 0, None)

    def _pooled(self, pool: Callable[..., Prediction], first: int, stop: int | None) -> Prediction | None:
        audible = np.flatnonzero(~self.silent[first:stop]) + first
        if not len(audible):
            return None
        return pool(self.classes, self.probabilities[audible], self.unfamiliar[audible], self.task, self.thresholds)

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
