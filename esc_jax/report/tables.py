"""What a report says of runs, as tables that Markdown and HTML write out alike."""

from collections.abc import Sequence
import dataclasses

import numpy as np

from esc_jax.evaluation import calibration, confidence
from esc_jax.report.runs import Run, listed_folds

# The write-ups that this project started from: method → accuracy on ESC-50, folds 1–4 for training, fold 5 for the
# test, the best epoch chosen on the test fold. Published figures, not measured here.
WRITE_UPS = (
    ("BEATs (AudioSet), fine-tuned, learning rates 1e-5 / 1e-3", 95.25),
    ("BEATs (AudioSet), frozen, classifier only", 94.50),
    ("ResNet-34 from scratch + TTA (5 views)", 83.50),
    ("SimCLR", 82.50),
    ("EfficientNet-B0, ImageNet transfer", 81.50),
    ("ResNet-34 from scratch", 80.50),
    ("Masked prediction, CNN encoder", 74.50),
    ("DistilHuBERT, 5 epochs", 46.80),
    ("Masked prediction, transformer", 40.00),
)
WRITE_UPS_NOTE = (
    "Published figures of the write-ups that this project started from, not measured here: a single fold (trained on"
    " folds 1–4, tested on fold 5), and † the epoch chosen on that test fold, which makes them optimistic."
)
COMPARISON_NOTE = (
    "Every run against the best one that was tested on the same clips, without TTA: difference in percentage points,"
    " paired bootstrap over source recordings; McNemar's exact test counts clips as independent. Both tell of the clips"
    " and not of the luck of a seed, and neither is corrected for the number of comparisons."
)
CALIBRATION_NOTE = (
    f"ECE: mean distance of confidence and accuracy over {calibration.BINS} bins of equal width, weighted by clips. NLL:"
    " mean −ln p of the true class, in nats. A temperature was fitted inside the training folds, by the run itself."
)
PAIRS = 8


@dataclasses.dataclass(frozen=True)
class Cell:
    """Text, and the number that it sorts by; None sorts by the text. `empty` cells sort last.

    `span` is (low, value, high), shares, where the cell is an accuracy with its interval.
    """

    text: str
    number: float | None = None
    empty: bool = False
    span: tuple[float, float, float] | None = None


@dataclasses.dataclass(frozen=True)
class Table:
    """Column names, which of them hold numbers, and rows of cells."""

    columns: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[Cell, ...], ...]


def percent(value: float, digits: int = 2) -> str:
    """A share in percent, without the sign."""
    return f"{100 * value:.{digits}f}"


def interval(found: confidence.ConfidenceInterval) -> str:
    """`90.00 (87.1–92.8)`."""
    return f"{percent(found.value)} ({percent(found.low, 1)}–{percent(found.high, 1)})"


def size(parameters: int) -> str:
    """A number of parameters in a few characters."""
    if parameters >= 1e6:
        return f"{parameters / 1e6:.1f} M"
    return f"{parameters / 1e3:.0f} k" if parameters >= 1e4 else str(parameters)


def _accuracy(found: confidence.ConfidenceInterval, std: float | None, suffix: str) -> Cell:
    spread = f" ± {percent(std)}" if std is not None else ""
    text = interval(found).replace(" (", f"{spread} (", 1) + suffix
    return Cell(text, found.value, span=(found.low, found.value, found.high))


def _folds(run: Run) -> Cell:
    text = listed_folds(run).removeprefix("folds ").removeprefix("fold ")
    return Cell(text + (f" × {run.seeds} seeds" if run.seeds > 1 else ""), len(run.folds) * run.seeds)


def leaderboard(runs: Sequence[Run]) -> Table:
    """A row for each run, in the order given."""
    missing = Cell("–", empty=True)
    rows = []
    for run in runs:
        mark = "" if run.predictions else " ‡"
        rows.append(
            (
                Cell(run.label),
                Cell(run.method) if run.method else missing,
                Cell(run.data_label),
                _accuracy(run.accuracy, run.std, mark),
                _accuracy(run.accuracy_tta, None, f" ×{run.tta_views}{mark}") if run.accuracy_tta else missing,
                Cell(run.protocol + (" †" if run.test_selected else "")),
                _folds(run),
                Cell(size(run.parameters), run.parameters),
                Cell(f"{run.seconds / 60:.1f}", run.seconds),
            )
        )
    columns = ("run", "method", "data", "accuracy, %", "with TTA, %", "protocol", "folds", "parameters", "minutes")
    return Table(columns, (False, False, False, True, True, False, True, True, True), tuple(rows))


def legend(runs: Sequence[Run]) -> list[str]:
    """Sentences that say what the leaderboard's numbers and marks are."""
    lines = [
        "In brackets: 95 % interval, percentile bootstrap over source recordings, since clips of one recording are not"
        " independent."
    ]
    if any(run.std is not None for run in runs):
        lines.append("±: standard deviation over folds, and over seeds where there are several.")
    if any(run.accuracy_tta for run in runs):
        lines.append("TTA ×n: probabilities averaged over n views of each clip.")
    if any(run.test_selected for run in runs):
        lines.append("† The epoch was chosen on the test fold: optimistic, and not comparable with the other rows.")
    if any(run.predictions is None for run in runs):
        lines.append("‡ Without usable predictions: Wilson's interval, which counts clips as independent (too narrow).")
    if len({run.data_key for run in runs}) > 1:
        lines.append("Rows of different data are not comparable.")
    return lines


@dataclasses.dataclass(frozen=True)
class Calibration:
    """How far a run's confidence is from its accuracy, before and after its temperature.

    Attributes:
        run: whose.
        before, after: reliability; after is None where the run has no temperature.
        nll_before, nll_after: mean −ln p of the true class, nats.
    """

    run: Run
    before: calibration.Reliability
    after: calibration.Reliability | None
    nll_before: float
    nll_after: float | None


def calibration(run: Run) -> Calibration:
    """Of a run with predictions; its temperatures were fitted by the run, away from its test clips."""
    found = run.predictions
    logits = calibration.log_probabilities(found.probabilities)
    before = calibration.reliability(found.confidence, found.correct)
    nll_before = calibration.nll(logits, found.true)
    if not run.temperatures or not set(found.folds) <= set(run.temperatures):
        return Calibration(run, before, None, nll_before, None)
    scaled = logits / np.array([run.temperatures[fold] for fold in found.folds])[:, None]
    confidence = calibration.tempered(scaled, 1.0)[np.arange(len(scaled)), found.predicted]
    after = calibration.reliability(confidence, found.correct)
    return Calibration(run, before, after, nll_before, calibration.nll(scaled, found.true))


def calibration_table(found: Sequence[Calibration]) -> Table:
    """A row for each run."""
    missing, rows = Cell("–", empty=True), []
    for one in found:
        temperatures = sorted(set(one.run.temperatures.values())) if one.after else []
        shown = "–".join(dict.fromkeys(f"{t:.2f}" for t in (temperatures[:1] + temperatures[-1:])))
        rows.append(
            (
                Cell(one.run.label),
                Cell(percent(one.before.ece, 1), one.before.ece),
                Cell(f"{one.nll_before:.3f}", one.nll_before),
                Cell(shown, temperatures[0]) if one.after else missing,
                Cell(percent(one.after.ece, 1), one.after.ece) if one.after else missing,
                Cell(f"{one.nll_after:.3f}", one.nll_after) if one.after else missing,
                Cell(one.run.fitted_on) if one.after and one.run.fitted_on else missing,
            )
        )
    columns = ("run", "ECE, %", "NLL", "temperature", "ECE after, %", "NLL after", "fitted on")
    return Table(columns, (False, True, True, True, True, True, False), tuple(rows))


@dataclasses.dataclass(frozen=True)
class Mistake:
    """A clip that a run has wrong.

    Attributes:
        clip: file name.
        fold, recording: of it.
        true, predicted: class names.
        confidence: probability of the predicted class.
        share: probability of the true class.
    """

    clip: str
    fold: int
    recording: str
    true: str
    predicted: str
    confidence: float
    share: float


@dataclasses.dataclass(frozen=True)
class Confusion:
    """Two classes taken for each other.

    Attributes:
        classes: their names.
        counts: clips of the first taken for the second, and of the second taken for the first.
        totals: clips of each.
        mistakes: those clips, the most confident first.
    """

    classes: tuple[str, str]
    counts: tuple[int, int]
    totals: tuple[int, int]
    mistakes: tuple[Mistake, ...]

    @property
    def sentence(self) -> str:
        """`3 of 8 rain taken for sea waves, 1 of 8 the other way`."""
        one, other = (name.replace("_", " ") for name in self.classes)
        if not self.counts[1]:
            return f"{self.counts[0]} of {self.totals[0]} “{one}” taken for “{other}”, none the other way"
        back = f"{self.counts[1]} of {self.totals[1]} the other way"
        return f"{self.counts[0]} of {self.totals[0]} “{one}” taken for “{other}”, {back}"


def confusions(run: Run) -> list[Confusion]:
    """Every pair of classes that a run confuses, the worst first: by number of clips, then by confidence.

    With several seeds a clip counts each time that a seed has it wrong, and is listed once.
    """
    found, classes = run.predictions, run.classes
    totals = np.bincount(found.true, minlength=len(classes))
    pairs: dict[tuple[int, int], list[int]] = {}
    for row in np.flatnonzero(~found.correct):
        pair = tuple(sorted((int(found.true[row]), int(found.predicted[row]))))
        pairs.setdefault(pair, []).append(row)
    done = []
    for (a, b), rows in pairs.items():
        rows = sorted(rows, key=lambda r: (-found.confidence[r], found.clips[r]))
        forward = int((found.true[rows] == a).sum())
        counts = (forward, len(rows) - forward)
        if counts[1] > counts[0]:  # the worse direction is told first
            a, b, counts = b, a, counts[::-1]
        first = {found.clips[r]: r for r in reversed(rows)}  # the most confident row of each clip
        mistakes = tuple(
            Mistake(
                clip=found.clips[r],
                fold=found.folds[r],
                recording=found.recordings[r],
                true=classes[found.true[r]],
                predicted=classes[found.predicted[r]],
                confidence=float(found.confidence[r]),
                share=float(found.probabilities[r, found.true[r]]),
            )
            for r in rows
            if first[found.clips[r]] == r
        )
        done.append(Confusion((classes[a], classes[b]), counts, (int(totals[a]), int(totals[b])), mistakes))
    done.sort(key=lambda c: (-sum(c.counts), -c.mistakes[0].confidence, c.classes))
    return done
