"""A report on all runs below a folder, or a paired comparison of two of them.

    python -m esc_jax.report runs                        writes report.md, report.html and their pictures to runs/report
    python -m esc_jax.report --compare runs/a runs/b     tells which is better, by how much, and how sure that is

report.html is one file that needs no network: its table sorts, and the best run's mistakes can be seen and heard.
"""

from __future__ import annotations

import argparse
import difflib
import pathlib
import sys
from typing import TYPE_CHECKING

from esc_jax.cli.command import command
from esc_jax.report.write import comparison, write

if TYPE_CHECKING:  # --help answers before numpy is imported
    pass


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
