"""A report as Markdown."""

from esc_jax.evaluation.escaping import escape_markdown
from esc_jax.report import calibration, tables, write_ups
from esc_jax.report.findings import Findings
from esc_jax.report.mistakes import MistakeGroup
from esc_jax.report.runs import Run
from esc_jax.report.tables import Table

GROUPS = 8  # kinds of mistakes that are listed
_CLIPS = 6  # clips that are named for each


def _table(table: Table) -> list[str]:
    lines = [
        f"| {' | '.join(table.columns)} |",
        f"|{'|'.join('---:' if numeric else '---' for numeric in table.numeric)}|",
    ]
    return lines + [f"| {' | '.join(escape_markdown(cell.text) for cell in row)} |" for row in table.rows]


def _leaderboards(findings: Findings) -> list[str]:
    lines = []
    for title, runs in findings.leaderboards:
        lines += [f"## {escape_markdown(title)}", "", *_table(tables.leaderboard(runs)), ""]
    lines += [*(f"{line}  " for line in tables.legend(findings.runs)), ""]
    return lines + (["![scores](scores.png)", ""] if findings.tested else [])


def _write_ups() -> list[str]:
    lines = ["## The two write-ups", ""]
    for source in write_ups.SOURCES:
        title = f"[{source.title}]({source.url})" if source.url else source.title
        lines.append(f"- “{title}”, {source.origin}")
    lines += ["", write_ups.NOTE, "", f"| method (published) | {write_ups.TASK.metric_label}, % † |", "|---|---:|"]
    return lines + [f"| {escape_markdown(name)} | {value:.2f} |" for name, value in write_ups.RESULTS] + [""]


def _mistakes(run: Run, groups: list[MistakeGroup]) -> list[str]:
    lines = [f"## Most frequent mistakes of {escape_markdown(run.label)} ({escape_markdown(run.data_label)})", ""]
    for group in groups[:GROUPS]:
        clips = ", ".join(one.clip for one in group.mistakes[:_CLIPS])
        more = f" and {len(group.mistakes) - _CLIPS} more" if len(group.mistakes) > _CLIPS else ""
        lines.append(f"- {escape_markdown(group.description)}: {escape_markdown(clips)}{more}")
    return lines + ([""] if groups else ["None: all predictions are correct.", ""])


def markdown(findings: Findings) -> str:
    """The text of report.md. It refers to scores.png and reliability.png in the same folder."""
    lines = ["# Report", "", *_leaderboards(findings)]
    if findings.notes:
        lines += ["## Notes", "", *(f"- {escape_markdown(note)}" for note in findings.notes), ""]
    if findings.includes_write_up_data:
        lines += _write_ups()
    if findings.comparisons or findings.incomparable:
        lines += ["## Paired comparisons", "", tables.COMPARISON_NOTE, ""]
        lines += [f"- {escape_markdown(one.sentence)} ({escape_markdown(one.basis)})" for one in findings.comparisons]
        lines += [f"- {escape_markdown(sentence)}" for sentence in findings.incomparable] + [""]
    if findings.calibrations:
        lines += ["## Calibration", "", calibration.NOTE, ""]
        lines += [*_table(tables.calibration_table(findings.calibrations)), ""]
        lines += ["![reliability](reliability.png)", ""]
    for run, groups in findings.mistakes:
        lines += _mistakes(run, groups)
    return "\n".join(lines)
