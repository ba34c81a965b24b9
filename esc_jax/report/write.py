"""Writing a report, and comparing two runs."""

from collections.abc import Sequence
import pathlib

from esc_jax.report import compare, plots, tables, write_ups
from esc_jax.report import runs as finished
from esc_jax.report.errors import ReportError
from esc_jax.report.findings import Findings, collect
from esc_jax.report.markdown import markdown
from esc_jax.report.page import page

# Pictures show the best runs of a large sweep. The tables contain all runs.
_MAX_SCORES = 40
_MAX_DIAGRAMS = 6


def draw(findings: Findings, out: pathlib.Path) -> None:
    """Writes scores.png, if there are tested runs, and reliability.png, if there are predictions, into `out`."""
    panels: dict[str, plots.ScorePanel] = {}
    published_done = False
    for group in findings.groups:
        first = group[0]
        # Two data sets may have the same name and size.
        title = first.data_label + (f" [{first.fingerprint}]" if first.data_label in panels else "")
        published: list[tuple[str, float]] = []
        if (first.task.name, first.data) == (write_ups.TASK.name, write_ups.DATA) and not published_done:
            published = [(f"{name} †", value / 100) for name, value in write_ups.RESULTS]
            published_done = True
        tested = [(run.label, run.score) for run in group if run.score]
        scores = [(label, score.value, score.low, score.high) for label, score in tested[:_MAX_SCORES]]
        if scores:
            panels[title] = plots.ScorePanel(title, first.task.metric_label, scores, published)
    if panels:
        plots.scores(list(panels.values()), out / "scores.png")
    diagrams = [(one.run.label, one.before, one.after) for one in findings.calibrations[:_MAX_DIAGRAMS]]
    if diagrams:
        plots.reliability(diagrams, out / "reliability.png")


def write_report(
    runs_dir: pathlib.Path, out: pathlib.Path, members: Sequence[str] = (), average: str = "probabilities"
) -> Findings:
    """Writes report.md, report.html and their pictures.

    Args:
        runs_dir: folder of the runs.
        out: folder of the report. It is created if it does not exist.
        members, average: of an ensemble that is reported beside the runs, see `findings.collect`.

    Returns:
        The content of the report.

    Raises:
        RunError, ReportError: there is no run to report on.
        OSError: the report cannot be written.
    """
    findings = collect(runs_dir, members, average)
    out.mkdir(parents=True, exist_ok=True)
    draw(findings, out)
    (out / "report.md").write_text(markdown(findings), encoding="utf-8")
    (out / "report.html").write_text(page(findings, out), encoding="utf-8")
    return findings


def compare_runs(first: pathlib.Path, second: pathlib.Path) -> str:
    """The paired comparison of two runs in sentences, also with test-time augmentation if both runs have it.

    Args:
        first, second: work directories.

    Raises:
        RunError, ReportError: the runs cannot be read or compared.
    """
    for folder in (first, second):
        if not (folder / "results.json").is_file():
            reason = "is not a finished run: it has no results.json" if folder.is_dir() else "does not exist"
            raise ReportError(f"{folder} {reason}")
    names = [folder.resolve().name for folder in (first, second)]
    if names[0] == names[1]:
        names = [str(first), str(second)]
    one = finished.read(first, names[0], strict=True)
    other = finished.read(second, names[1], strict=True)
    comparison = compare.compare(one, other)
    lines = [f"{comparison.sentence} ({comparison.basis})"]
    if one.score_tta and other.score_tta:
        with_tta = compare.compare(one, other, tta=True)
        lines.append(f"with TTA: {with_tta.sentence} ({with_tta.basis})")
    if one.test_selected or other.test_selected:
        lines.append("† The epoch was selected on the test fold: optimistic.")
    return "\n".join(lines)


def summary(findings: Findings) -> str:
    """The best run of each group, and the notes, as lines for a terminal."""
    lines = []
    for group in findings.groups:
        run = finished.best(group)
        score = f"{run.task.metric_label} {tables.interval_text(run.score)} %" if run.score else "not tested"
        lines.append(f"{run.data_label}: {finished.best_of(group)}: {run.label}, {score}")
    return "\n".join(lines + findings.notes)
