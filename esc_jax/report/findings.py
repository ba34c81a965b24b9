"""The content of a report, independent of its format."""

from collections.abc import Sequence
import dataclasses
import pathlib

from esc_jax.report import compare, ensemble, write_ups
from esc_jax.report import runs as finished
from esc_jax.report.calibration import RunCalibration, run_calibration
from esc_jax.report.mistakes import MistakeGroup, mistake_groups
from esc_jax.report.runs import Run


@dataclasses.dataclass(frozen=True)
class Findings:
    """The content of a report.

    Attributes:
        groups: comparable runs (same task, data and classes), in the order of `runs.find`.
        notes: sentences on runs that were skipped or are incomplete.
        comparisons: of each run with the first one of its group that was tested on some of its clips.
        incomparable: sentences on runs that cannot be compared.
        calibrations: of the runs with predictions.
        mistakes: for each group with predictions, its best run and the mistakes of that run.
    """

    groups: list[list[Run]]
    notes: list[str]
    comparisons: list[compare.Comparison]
    incomparable: list[str]
    calibrations: list[RunCalibration]
    mistakes: list[tuple[Run, list[MistakeGroup]]]

    @property
    def runs(self) -> list[Run]:
        """All runs, in the order of the groups."""
        return [run for group in self.groups for run in group]

    @property
    def tested(self) -> list[Run]:
        """The runs with a score."""
        return [run for run in self.runs if run.score]

    @property
    def leaderboards(self) -> list[tuple[str, list[Run]]]:
        """(title, runs) of each task."""
        tasks: dict[str, list[Run]] = {}
        for run in self.runs:
            tasks.setdefault(run.task.name, []).append(run)
        if len(tasks) == 1:
            return [("Leaderboard", self.runs)]
        return [(f"Leaderboard: {runs[0].task.metric_label} ({name})", runs) for name, runs in tasks.items()]

    @property
    def includes_write_up_data(self) -> bool:
        """Whether a run is of the task and data of the two write-ups."""
        return any((run.task.name, run.data) == (write_ups.TASK.name, write_ups.DATA) for run in self.runs)


def collect(runs_dir: pathlib.Path, members: Sequence[str] = (), average: str = "probabilities") -> Findings:
    """Reads the runs in a folder, compares them and computes their calibration.

    Args:
        runs_dir: folder of the runs.
        members: names of runs whose ensemble is one run more.
        average: of the ensemble, see `ensemble.ensemble`.

    Raises:
        RunError, ReportError: there is no run, or the members have no ensemble.
    """
    runs, notes = finished.find(runs_dir)
    if members:
        runs = finished.ordered([*runs, ensemble.ensemble(ensemble.choose(runs, members), average)])
    groups = finished.group_by_data(runs)
    findings = Findings(groups, notes, [], [], [], [])
    for group in groups:
        comparisons, problems = compare.against_best(group)
        findings.comparisons.extend(comparisons)
        findings.incomparable.extend(problems)
        with_predictions = [run for run in group if run.predictions is not None]
        if with_predictions:
            run = finished.best(with_predictions)
            assert run.predictions is not None
            findings.mistakes.append((run, mistake_groups(run, run.predictions)))
    for run in runs:
        if run.predictions is not None:
            findings.calibrations.append(run_calibration(run, run.predictions))
    return findings
