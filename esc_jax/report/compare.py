"""Two runs on the same clips: which is better, by how much, and how sure that is."""

from collections.abc import Sequence
import dataclasses

import numpy as np

from esc_jax.evaluation import confidence
from esc_jax.report.runs import Predictions, ReportError, Run, listed_folds


def points(value: float) -> str:
    """A difference of shares in percentage points, with a real minus sign."""
    return f"{100 * value:.1f}".replace("-", "−").replace("−0.0", "0.0")


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two runs on the clips that both were tested on.

    Attributes:
        ahead, behind: names; which is which where they are level does not matter.
        difference: accuracy of the one minus that of the other, not negative.
        clips: that both were tested on.
        only_ahead, only_behind: clips that just one of them has right; None with several seeds.
        p: of McNemar's exact test; None with several seeds, where a clip has no single answer.
    """

    ahead: str
    behind: str
    difference: confidence.ConfidenceInterval
    clips: int
    only_ahead: int | None
    only_behind: int | None
    p: float | None

    @property
    def sentence(self) -> str:
        """Which is better, by how much, and how sure that is."""
        d = self.difference
        interval = f"95 % interval {points(d.low)} to {points(d.high)}"
        if d.value == 0:
            text = f"{self.ahead} and {self.behind} are right equally often, {interval}"
        elif d.low > 0:
            text = f"{self.ahead} beats {self.behind} by {points(d.value)} points, {interval}"
        else:
            text = f"{self.ahead} is {points(d.value)} points ahead of {self.behind}, {interval}: too close to call"
        if self.p is not None:
            p = "p<0.001" if self.p < 0.001 else f"p={self.p:.3f}" if self.p < 0.1 else f"p={self.p:.2f}"
            text += f", McNemar {p}"
        return text

    @property
    def basis(self) -> str:
        """What the sentence rests on."""
        text = f"{self.clips:,} clips of {self.difference.clusters:,} recordings"
        if self.p is None:
            return text + "; no McNemar test, as with several seeds a clip has no single answer"
        return text + f"; {self.only_ahead} right with {self.ahead} alone, {self.only_behind} with {self.behind} alone"


def _by_clip(found: Predictions, correct: np.ndarray) -> dict[str, list[tuple[int, str, bool]]]:
    """Clip → its rows: class, recording, right or wrong."""
    rows: dict[str, list[tuple[int, str, bool]]] = {}
    for clip, true, recording, right in zip(found.clips, found.true, found.recordings, correct, strict=True):
        rows.setdefault(clip, []).append((int(true), recording, bool(right)))
    return rows


def compare(one: Run, other: Run, *, tta: bool = False) -> Comparison:
    """Paired comparison on the clips that both runs were tested on.

    Args:
        one, other: with predictions.
        tta: compare the averages over views.

    Raises:
        ReportError: other data, another order of the classes, no clip in common, no predictions.
    """
    for run in (one, other):
        if run.predictions is None:
            raise ReportError(run.notes[0] if run.notes else f"{run.name} has no predictions")
    pair = f"{one.name} and {other.name} cannot be compared:"
    if one.fingerprint != other.fingerprint:
        raise ReportError(f"{pair} they are of different data ({one.data_label}; {other.data_label})")
    if one.classes != other.classes:
        place = next(
            (i for i, (a, b) in enumerate(zip(one.classes, other.classes, strict=False)) if a != b),
            min(len(one.classes), len(other.classes)),
        )
        names = [r.classes[place] if place < len(r.classes) else "missing" for r in (one, other)]
        raise ReportError(f"{pair} their classes are in different order (class {place} is {names[0]}; {names[1]})")
    first, second = (
        _by_clip(r.predictions, r.predictions.correct_tta if tta else r.predictions.correct) for r in (one, other)
    )
    shared = sorted(first.keys() & second.keys())
    if not shared:
        tested = "; ".join(listed_folds(r) for r in (one, other))
        raise ReportError(f"{pair} they were tested on different clips ({tested})")
    if any(first[clip][0][:2] != second[clip][0][:2] for clip in shared):
        raise ReportError(f"{pair} they give a clip different classes or recordings")
    shares = [np.array([np.mean([right for *_, right in rows[clip]]) for clip in shared]) for rows in (first, second)]
    if shares[1].mean() > shares[0].mean():
        one, other, shares = other, one, shares[::-1]
    single = all(len(rows[clip]) == 1 for rows in (first, second) for clip in shared)
    alone = (int((shares[0] > shares[1]).sum()), int((shares[0] < shares[1]).sum())) if single else (None, None)
    return Comparison(
        ahead=one.label,
        behind=other.label,
        difference=confidence.difference_interval(*shares, [first[clip][0][1] for clip in shared]),
        clips=len(shared),
        only_ahead=alone[0],
        only_behind=alone[1],
        p=confidence.mcnemar(*alone) if single else None,
    )


def against_best(runs: Sequence[Run]) -> tuple[list[Comparison], list[str]]:
    """Every run against the best one that was tested on some of its clips, and sentences on those with none.

    Args:
        runs: of one data set, the best first.
    """
    done, left = [], []
    able = [run for run in runs if run.predictions]
    for place, run in enumerate(able[1:], 1):
        for better in able[:place]:
            if set(better.predictions.clips) & set(run.predictions.clips):
                try:
                    done.append(compare(better, run))
                except ReportError as error:
                    left.append(str(error))
                break
        else:
            left.append(f"{run.name} shares no test clip with a better run ({listed_folds(run)})")
    return done, left
