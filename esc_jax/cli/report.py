"""A report on all runs below a folder, or a paired comparison of two of them.

    esc-jax report runs                        writes report.md, report.html and their pictures to runs/report
    esc-jax report --compare runs/a runs/b     tells which is better, by how much, and how sure that is

report.html is one file that needs no network: its table sorts, and the best run's mistakes can be seen and heard.
"""

from __future__ import annotations

import pathlib
import sys

from esc_jax.cli.command import command
from esc_jax.cli.parser import Parser
from esc_jax.report.write import comparison, write


def _parser() -> Parser:
    parser = Parser("report", __doc__)
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
    asked = parser.parse(argv)
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
