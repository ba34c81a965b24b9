"""Writes a report, or compares two runs."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

from esc_jax.report.findings import Findings, collect
from esc_jax.report.markdown import markdown

if TYPE_CHECKING:  # --help answers before numpy is imported
    pass


# A sweep has hundreds of runs: the tables hold all of them, the pictures the best.
_DRAWN = 40


_DIAGRAMS = 6


def draw(findings: Findings, out: pathlib.Path) -> None:
    """accuracies.png, and reliability.png where there are predictions."""
    from esc_jax.report import plots
    from esc_jax.report import tables as report_tables

    panels, published = {}, {}
    for group in findings.groups:
        # Two data sets may have one name and one size.
        title = group[0].data_label + (f" [{group[0].fingerprint}]" if group[0].data_label in panels else "")
        panels[title] = [(run.label, run.accuracy.value, run.accuracy.low, run.accuracy.high) for run in group[:_DRAWN]]
        if group[0].data == "esc50" and not published:
            published[title] = [(f"{name} †", value / 100) for name, value in report_tables.WRITE_UPS]
    plots.accuracies(panels, published, out / "accuracies.png")
    diagrams = [(one.run.label, one.before, one.after) for one in findings.calibrations[:_DIAGRAMS]]
    if diagrams:
        plots.reliability(diagrams, out / "reliability.png")


def write(runs_dir: pathlib.Path, out: pathlib.Path) -> Findings:
    """Writes the report on the runs below `runs_dir` into `out`. Raises RunError, ReportError, OSError."""
    findings = collect(runs_dir)
    from esc_jax.report import page as report_html

    out.mkdir(parents=True, exist_ok=True)
    draw(findings, out)
    (out / "report.md").write_text(markdown(findings), encoding="utf-8")
    (out / "report.html").write_text(report_html.page(findings, out), encoding="utf-8")
    return findings


def comparison(first: pathlib.Path, second: pathlib.Path) -> str:
    """The paired comparison of two runs in sentences, with TTA where both have it."""
    from esc_jax.report import compare as report_compare
    from esc_jax.report import runs as report_runs

    for folder in (first, second):
        if not (folder / "results.json").is_file():
            reason = "is not a finished run: it holds no results.json" if folder.is_dir() else "does not exist"
            raise report_runs.ReportError(f"{folder} {reason}")
    names = [folder.resolve().name for folder in (first, second)]
    if names[0] == names[1]:
        names = [str(first), str(second)]
    pair = [report_runs.read(folder, name, strict=True) for folder, name in zip((first, second), names, strict=True)]
    plain = report_compare.compare(*pair)
    lines = [f"{plain.sentence} ({plain.basis})"]
    if all(run.accuracy_tta for run in pair):
        averaged = report_compare.compare(*pair, tta=True)
        lines.append(f"with TTA: {averaged.sentence} ({averaged.basis})")
    if any(run.test_selected for run in pair):
        lines.append("† the epoch was chosen on the test fold: optimistic")
    return "\n".join(lines)
