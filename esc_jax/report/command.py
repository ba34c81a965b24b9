"""A report on all runs below a folder, or a paired comparison of two of them.

    python -m esc_jax.report runs                        writes report.md, report.html and their pictures to runs/report
    python -m esc_jax.report --compare runs/a runs/b     tells which is better, by how much, and how sure that is

report.html is one file that needs no network: its table sorts, and the best run's mistakes can be seen and heard.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import pathlib
import sys
from typing import TYPE_CHECKING

from esc_jax.errors import command

if TYPE_CHECKING:  # --help answers before numpy is imported
    from esc_jax.report.compare import Comparison
    from esc_jax.report.runs import Run
    from esc_jax.report.tables import Calibration, Confusion, Table

# A sweep has hundreds of runs: the tables hold all of them, the pictures the best.
_DRAWN = 40
_DIAGRAMS = 6
_LISTED = 6


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


def draw(findings: Findings, out: pathlib.Path) -> None:
    """accuracies.png, and reliability.png where there are predictions."""
    from esc_jax import plots
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


def _markdown_text(text: str) -> str:
    for mark in "\\`*_[]<>|":
        text = text.replace(mark, f"\\{mark}")
    return text.replace("\n", " ")


def _markdown_table(table: Table) -> list[str]:
    lines = [
        "| " + " | ".join(table.columns) + " |",
        "|" + "|".join("---:" if numeric else "---" for numeric in table.numeric) + "|",
    ]
    return lines + ["| " + " | ".join(_markdown_text(cell.text) for cell in row) + " |" for row in table.rows]


def markdown(findings: Findings) -> str:
    """report.md."""
    from esc_jax.report import tables as report_tables

    text = _markdown_text
    lines = ["# Report", "", "## Leaderboard", "", *_markdown_table(report_tables.leaderboard(findings.runs)), ""]
    lines += [line + "  " for line in report_tables.legend(findings.runs)] + ["", "![accuracies](accuracies.png)", ""]
    if findings.notes:
        lines += ["## Notes", "", *(f"- {text(note)}" for note in findings.notes), ""]
    if any(run.data == "esc50" for run in findings.runs):
        lines += ["## The write-ups' final table", "", report_tables.WRITE_UPS_NOTE, ""]
        lines += ["| method (published) | accuracy, % † |", "|---|---:|"]
        lines += [f"| {text(name)} | {value:.2f} |" for name, value in report_tables.WRITE_UPS] + [""]
    if findings.comparisons or findings.apart:
        lines += ["## Paired comparisons", "", report_tables.COMPARISON_NOTE, ""]
        lines += [f"- {text(one.sentence)} ({text(one.basis)})" for one in findings.comparisons]
        lines += [f"- {text(sentence)}" for sentence in findings.apart] + [""]
    if findings.calibrations:
        lines += ["## Calibration", "", report_tables.CALIBRATION_NOTE, ""]
        lines += [*_markdown_table(report_tables.calibration_table(findings.calibrations)), ""]
        lines += ["![reliability](reliability.png)", ""]
    for run, pairs in findings.confusions:
        lines += [f"## Classes that {text(run.label)} confuses most ({text(run.data_label)})", ""]
        for pair in pairs[: report_tables.PAIRS]:
            clips = [one.clip for one in pair.mistakes[:_LISTED]]
            more = f" and {len(pair.mistakes) - _LISTED} more" if len(pair.mistakes) > _LISTED else ""
            lines.append(f"- {text(pair.sentence)}: {text(', '.join(clips))}{more}")
        lines += [] if pairs else ["None: every clip is right."]
        lines.append("")
    return "\n".join(lines)


def write(runs_dir: pathlib.Path, out: pathlib.Path) -> Findings:
    """Writes the report on the runs below `runs_dir` into `out`. Raises RunError, ReportError, OSError."""
    findings = collect(runs_dir)
    from esc_jax.report import page as report_html  # only now: matplotlib and the audio readers take a second

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


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        options = [o for action in self._actions for o in action.option_strings]
        unknown = [word.split("=")[0] for word in message.split() if word.startswith("-")]
        near = difflib.get_close_matches(unknown[0], options, 1) if "unrecognized" in message and unknown else []
        self.exit(2, f"esc_jax: {message}" + (f"; did you mean {near[0]}?" if near else "") + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m esc_jax.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("runs_dir", metavar="RUNS_DIR", nargs="?", type=pathlib.Path, help="folder of all runs")
    parser.add_argument(
        "--out", metavar="REPORT_DIR", type=pathlib.Path, help="where the report goes (default: RUNS_DIR/report)"
    )
    parser.add_argument(
        "--compare", metavar=("RUN_A", "RUN_B"), nargs=2, type=pathlib.Path, help="two runs to compare, clip by clip"
    )
    return parser


@command
def main(argv: list[str] | None = None) -> None:
    """The command; returns its exit status."""
    parser = _parser()
    asked = parser.parse_args(argv)
    if (asked.runs_dir is None) == (asked.compare is None):
        parser.error("give RUNS_DIR, or two runs as --compare RUN_A RUN_B")
    if asked.compare and asked.out:
        parser.error("--compare prints its result and takes no --out")
    if asked.compare:
        sys.stdout.write(comparison(*asked.compare) + "\n")
        return
    from esc_jax.report import runs as report_runs
    from esc_jax.report import tables as report_tables

    out = asked.out or asked.runs_dir / "report"
    findings = write(asked.runs_dir, out)
    for group in findings.groups:
        top = report_runs.best(group)
        count = f"{len(group)} run{'s' if len(group) > 1 else ''}"
        sys.stdout.write(f"{top.data_label}: {count}, the best {top.label}, {report_tables.interval(top.accuracy)} %\n")
    for note in findings.notes:
        sys.stdout.write(f"{note}\n")
    sys.stdout.write(f"the report is in {out}: report.html, report.md\n")


if __name__ == "__main__":
    sys.exit(main())
