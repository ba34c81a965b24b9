"""report.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esc_jax.report.findings import Findings

if TYPE_CHECKING:  # --help answers before numpy is imported
    from esc_jax.report.tables import Table


_LISTED = 6


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
