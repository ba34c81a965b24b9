"""What a report contains: runs, comparisons, calibration, confusions."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # --help answers before numpy is imported
    from esc_jax.report.compare import Comparison
    from esc_jax.report.runs import Run
    from esc_jax.report.tables import Calibration, Confusion


@dataclasses.dataclass(frozen=True)
class Findings:
    """What a report says.

    Attributes:
        groups: runs of each data set, the best first.
        notes: on what was skipped.
        comparisons: of each run with the best one on its data; `apart` are those that cannot be compared.
        apart: sentences.
        calibrations: of the runs with predictions.
        confusions: (best run of a data set, its confused pairs), for each data set with predictions.
    """

    groups: list[list[Run]]
    notes: list[str]
    comparisons: list[Comparison]
    apart: list[str]
    calibrations: list[Calibration]
    confusions: list[tuple[Run, list[Confusion]]]

    @property
    def runs(self) -> list[Run]:
        """All of them, in the order of the leaderboard."""
        return [run for group in self.groups for run in group]


def collect(runs_dir: pathlib.Path) -> Findings:
    """Reads the runs and works out everything that is told of them. Raises RunError and ReportError."""
    from esc_jax.report import compare as report_compare
    from esc_jax.report import runs as report_runs
    from esc_jax.report import tables as report_tables

    runs, notes = report_runs.find(runs_dir)
    groups = report_runs.by_data(runs)
    comparisons, apart, confusions = [], [], []
    for group in groups:
        found, left = report_compare.against_best(group)
        comparisons += found
        apart += left
        if able := [run for run in group if run.predictions]:
            confusions.append((top := report_runs.best(able), report_tables.confusions(top)))
    calibrations = [report_tables.calibration(run) for run in runs if run.predictions]
    return Findings(groups, notes, comparisons, apart, calibrations, confusions)
