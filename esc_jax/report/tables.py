"""Tables of a report, written by Markdown and HTML alike."""

from collections.abc import Sequence
import dataclasses

from esc_jax.augment.views import ROTATIONS
from esc_jax.evaluation.confidence import ConfidenceInterval
from esc_jax.report.calibration import RunCalibration
from esc_jax.report.runs import Run

COMPARISON_NOTE = (
    "Each run is compared, on the clips that both were tested on and without TTA, with the best of the runs that were"
    " tested on the most folds. The difference is in percentage points, with a paired bootstrap over source recordings."
    " McNemar's exact test, for metrics that count correct clips, treats clips as independent. Both account for the"
    " choice of clips, not for the random seed of the training. Neither is corrected for multiple comparisons."
)


@dataclasses.dataclass(frozen=True)
class Cell:
    """A table cell.

    Attributes:
        text: of the cell.
        number: sort key; None sorts by the text.
        empty: whether there is no value. Empty cells are sorted last.
        span: (low, value, high), shares of a score with its interval, drawn as a bar; None for other cells.
    """

    text: str
    number: float | None = None
    empty: bool = False
    span: tuple[float, float, float] | None = None


@dataclasses.dataclass(frozen=True)
class Table:
    """Column names, whether each column is numeric, and rows of cells."""

    columns: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[Cell, ...], ...]


_MISSING = Cell("–", empty=True)


def percent(value: float, digits: int = 2) -> str:
    """A share in percent, without the sign."""
    return f"{100 * value:.{digits}f}"


def interval_text(interval: ConfidenceInterval, std: float | None = None) -> str:
    """`90.00 (87.1–92.8)`, or with a standard deviation `90.00 ± 1.20 (87.1–92.8)`."""
    spread = f" ± {percent(std)}" if std is not None else ""
    return f"{percent(interval.value)}{spread} ({percent(interval.low, 1)}–{percent(interval.high, 1)})"


def count_text(parameters: int) -> str:
    """A number of parameters in a few characters: `1.2 M`, `340 k`, `850`."""
    if parameters >= 1e6:
        return f"{parameters / 1e6:.1f} M"
    return f"{parameters / 1e3:.0f} k" if parameters >= 1e4 else str(parameters)


def _score(interval: ConfidenceInterval | None, std: float | None = None, suffix: str = "") -> Cell:
    if interval is None:
        return _MISSING
    span = (interval.low, interval.value, interval.high)
    return Cell(interval_text(interval, std) + suffix, interval.value, span=span)


def _other(value: float | None) -> Cell:
    return _MISSING if value is None else Cell(percent(value), value)


def _folds(run: Run) -> Cell:
    if not run.folds:
        return _MISSING
    text = run.folds_text.removeprefix("folds ").removeprefix("fold ")
    return Cell(text + (f" × {run.seeds} seeds" if run.seeds > 1 else ""), len(run.folds) * run.seeds)


def leaderboard(runs: Sequence[Run]) -> Table:
    """A row for each run, in the given order.

    Args:
        runs: of one task.
    """
    others = tuple(runs[0].task.other_metrics.values())
    rows = [
        (
            Cell(run.label),
            Cell(run.method) if run.method else _MISSING,
            Cell(run.data_label),
            _score(run.score, run.std),
            _score(run.score_tta, suffix=_views(run)),
            *(_other(run.other_metrics.get(name)) for name in others),
            Cell(run.protocol + (" †" if run.test_selected else "")),
            _folds(run),
            Cell(count_text(run.parameters), run.parameters),
            Cell(f"{run.seconds / 60:.1f}", run.seconds),
        )
        for run in runs
    ]
    metric = f"{runs[0].task.metric_label}, %"
    columns = ("run", "method", "data", metric, "with TTA, %", *(f"{name}, %" for name in others))
    columns += ("protocol", "folds", "parameters", "minutes")
    numeric = (False, False, False, True, True, *(True for _ in others), False, True, True, True)
    return Table(columns, numeric, tuple(rows))


def _views(run: Run) -> str:
    """Number of averaged views, and their kind where they are not rotations: " ×5", " ×10 crops"."""
    return f" ×{run.tta_views}" + (f" {run.tta_kind}" if run.tta_kind != ROTATIONS else "")


def legend(runs: Sequence[Run]) -> list[str]:
    """Sentences that explain the numbers and marks of the leaderboard."""
    lines = [
        "In brackets: 95 % interval over source recordings (docs/protocols.md), since clips of one recording are not"
        " independent."
    ]
    if any(run.std is not None for run in runs):
        lines.append("±: standard deviation over folds, and over seeds where there are several.")
    if any(run.score_tta for run in runs):
        lines.append(
            "TTA ×n: probabilities averaged over n views of each clip, which are rotations in time unless named."
        )
    if any(run.test_selected for run in runs):
        lines.append("† The epoch was selected on the test fold: optimistic, not comparable with the other rows.")
    if any(run.other_metrics for run in runs):
        lines.append("Metrics without brackets: mean over folds.")
    if any(run.score is None for run in runs):
        lines.append("Protocol all: trained on every clip and not tested.")
    if len({run.data_key for run in runs}) > 1:
        lines.append("Rows of different data are not comparable.")
    return lines


def calibration_table(calibrations: Sequence[RunCalibration]) -> Table:
    """A row for each run."""
    rows = []
    for one in calibrations:
        temperatures = sorted(set(one.run.temperatures.values()))
        limits = "–".join(dict.fromkeys(f"{t:.2f}" for t in temperatures[:1] + temperatures[-1:]))
        after = (_MISSING,) * 4
        if one.after and one.nll_after is not None:
            after = (
                Cell(limits, temperatures[0]),
                Cell(percent(one.after.ece, 1), one.after.ece),
                Cell(f"{one.nll_after:.3f}", one.nll_after),
                Cell(one.run.fitted_on) if one.run.fitted_on else _MISSING,
            )
        rows.append(
            (
                Cell(one.run.label),
                Cell(percent(one.before.ece, 1), one.before.ece),
                Cell(f"{one.nll_before:.3f}", one.nll_before),
                *after,
            )
        )
    columns = ("run", "ECE, %", "NLL", "temperature", "ECE after, %", "NLL after", "fitted on")
    return Table(columns, (False, True, True, True, True, True, False), tuple(rows))
