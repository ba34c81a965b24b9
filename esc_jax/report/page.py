"""report.html: one file that shows, sorts and plays everything of a report without a network."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
import pathlib
from typing import TYPE_CHECKING

from esc_jax.report import media as report_media
from esc_jax.report import runs as report_runs
from esc_jax.report import tables as report_tables
from esc_jax.report.tables import Cell, Confusion, Table

if TYPE_CHECKING:
    from esc_jax.report.findings import Findings

# A clip costs about 100 kB: a page of this many stays far below 10 MB, whatever the number of runs.
MISTAKES = 24
_OF_PAIR = 4

# Nothing from outside, even if a name in a file tried.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; media-src data:"

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2428; --soft: #5b6770; --page: #fbfbfa; --card: #fff; --line: #dcdfe1;
  --mark: #1f6f8b; --band: #cfe3ea; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9eb; --soft: #9aa6ae; --page: #15191c; --card: #1d2327;
  --line: #353d43; --mark: #6cc1dd; --band: #2c4b57; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 82rem; padding: 1.5rem 1.25rem 4rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .75rem; }
h2 { font-size: 1.2rem; margin: 2.75rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; font-weight: 600; }
p, li { max-width: 60rem; }
.soft { color: var(--soft); font-size: .875rem; }
a { color: var(--mark); }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin: 1rem 0 0; }
.tops { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: 1rem; }
.top, figure.clip { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; }
.top { padding: .9rem 1.1rem; }
.top b { display: block; font-size: 1.9rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.top span { overflow-wrap: anywhere; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: .6rem; background: var(--card); }
.narrow { max-width: 44rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .5rem .7rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
tbody tr:last-child > * { border-bottom: 0; }
tbody th { font-weight: 600; max-width: 20rem; overflow-wrap: anywhere; min-width: 9rem; }
.number { text-align: right; white-space: nowrap; }
thead th { padding: 0; vertical-align: bottom; }
thead th.plain { padding: .5rem .7rem; }
thead button { all: unset; box-sizing: border-box; width: 100%; padding: .5rem .7rem; font-weight: 600;
  cursor: pointer; }
thead button:hover { color: var(--mark); }
thead button:focus-visible, .scroll:focus-visible { outline: 2px solid var(--mark); outline-offset: -2px; }
thead button::after { content: "↕"; color: var(--soft); opacity: .5; margin-left: .3rem; }
th[aria-sort=ascending] button::after { content: "↑"; color: var(--mark); opacity: 1; }
th[aria-sort=descending] button::after { content: "↓"; color: var(--mark); opacity: 1; }
.bar { display: block; position: relative; height: .5rem; min-width: 8rem; margin-top: .3rem; border-radius: .25rem;
  background: color-mix(in srgb, var(--line) 55%, transparent); }
.bar i { position: absolute; top: 0; bottom: 0; border-radius: .25rem; background: var(--band); }
.bar i + i { width: 3px; margin-left: -1px; background: var(--mark); }
img.plot { display: block; max-width: 100%; background: #fff; border: 1px solid var(--line); border-radius: .6rem;
  padding: .4rem; margin: 1rem 0; }
.clips { display: grid; grid-template-columns: repeat(auto-fill, minmax(17.5rem, 1fr)); gap: 1rem; }
figure.clip { margin: 0; padding: .6rem; }
figure.clip img { width: 100%; display: block; border-radius: .3rem; background: #fff; }
figure.clip audio { width: 100%; height: 2.4rem; margin-top: .4rem; display: block; }
figcaption { overflow-wrap: anywhere; }
ul { padding-left: 1.2rem; }
""".strip()

# A click on a header sorts by it: numbers the largest first, texts from A; a second click turns it round.
# Rows without a value stay last.
_SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const numeric = head.dataset.numeric === "true", now = head.getAttribute("aria-sort");
    const down = now === "none" ? numeric : now === "ascending";
    heads.forEach(other => other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = row => row.cells[column].dataset;
    body.append(...[...body.rows].sort((a, b) => {
      const x = key(a), y = key(b);
      if ("empty" in x || "empty" in y) return ("empty" in x) - ("empty" in y);
      const order = numeric ? x.sort - y.sort : x.sort.localeCompare(y.sort, undefined, {numeric: true});
      return down ? -order : order;
    }));
  }));
}
""".strip()


def _data_url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _cell(cell: Cell, tag: str, numeric: bool, lowest: float) -> str:
    key = cell.text if cell.number is None else repr(float(cell.number))
    sort = "data-empty" if cell.empty else f'data-sort="{escape(key)}"'
    bar = ""
    if cell.span:
        low, value, high = (100 * (share - lowest) / (1 - lowest) for share in cell.span)
        bar = (
            f'<span class="bar" aria-hidden="true"><i style="left:{low:.1f}%;width:{high - low:.1f}%"></i>'
            f'<i style="left:{value:.1f}%"></i></span>'
        )
    attributes = f"{' scope=row' if tag == 'th' else ''}{' class=number' if numeric else ''} {sort}"
    return f"<{tag}{attributes}>{escape(cell.text)}{bar}</{tag}>"


def _table(table: Table, label: str) -> str:
    # Bars start at a round number below the lowest interval, so that close runs can be told apart.
    lows = [cell.span[0] for row in table.rows for cell in row if cell.span]
    lowest = int(10 * min(lows, default=0.0)) / 10
    lowest = min(lowest, 0.9)
    heads = "".join(
        f'<th scope="col" aria-sort="none" data-numeric="{str(numeric).lower()}"{" class=number" if numeric else ""}>'
        f'<button type="button">{escape(name)}</button></th>'
        for name, numeric in zip(table.columns, table.numeric, strict=True)
    )
    rows = "\n".join(
        "<tr>"
        + "".join(
            _cell(cell, "td" if place else "th", numeric, lowest)
            for place, (cell, numeric) in enumerate(zip(row, table.numeric, strict=True))
        )
        + "</tr>"
        for row in table.rows
    )
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}"><table class="sortable">'
        f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>"
    )


def _plot(path: pathlib.Path, text: str) -> str:
    return f'<img class="plot" src="{_data_url("image/png", path.read_bytes())}" alt="{escape(text)}">'


def _listed(sentences: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{sentence}</li>" for sentence in sentences) + "</ul>"


def _tops(findings: Findings) -> str:
    cards = []
    for group in findings.groups:
        run = report_runs.best(group)
        found, count = run.accuracy, f"best of {len(group)} runs" if len(group) > 1 else "the only run"
        low, high = report_tables.percent(found.low, 1), report_tables.percent(found.high, 1)
        cards.append(
            f'<div class="top"><span class="soft">{escape(run.data_label)}: {count}</span>'
            f"<b>{report_tables.percent(found.value)} %</b>"
            f'<span>{escape(run.label)}<br><span class="soft">95 % interval {low} to {high}; protocol'
            f" {escape(run.protocol)}, {report_runs.listed_folds(run)}</span></span></div>"
        )
    return f'<div class="tops">{"".join(cards)}</div>'


def _write_ups() -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td class="number">{value:.2f} †</td></tr>'
        for name, value in report_tables.WRITE_UPS
    )
    return (
        f"<p>{escape(report_tables.WRITE_UPS_NOTE)}</p>"
        '<div class="scroll narrow" role="region" tabindex="0" aria-label="The write-ups\' final table">'
        "<table><thead><tr>"
        '<th scope="col" class="plain">method (published)</th>'
        f'<th scope="col" class="plain number">accuracy, %</th></tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _clip(one: report_tables.Mistake, media: report_media.Media | None) -> str:
    true, predicted = (escape(name.replace("_", " ")) for name in (one.true, one.predicted))
    name = escape(one.clip)
    shown = ""
    if media:
        shown = (
            f'<img src="{_data_url("image/png", media.png)}" alt="Mel spectrogram of {name}">'
            f'<audio controls preload="metadata" aria-label="{name}"'
            f' src="{_data_url("audio/mpeg", media.mp3)}"></audio>'
        )
    return (
        f'<figure class="clip">{shown}<figcaption>is <b>{true}</b>, taken for <b>{predicted}</b>'
        f'<br><span class="soft">{100 * one.confidence:.0f} % sure, {100 * one.share:.0f} % for {true}<br>'
        f"{name}, recording {escape(one.recording)}, fold {one.fold}</span></figcaption></figure>"
    )


def _chosen(pairs: Sequence[Confusion], limit: int) -> list[tuple[Confusion, Sequence[report_tables.Mistake]]]:
    """The worst pairs with a few clips each, up to `limit` clips in all."""
    chosen = []
    for pair in pairs:
        if limit <= 0:
            break
        mistakes = pair.mistakes[: min(_OF_PAIR, limit)]
        limit -= len(mistakes)
        chosen.append((pair, mistakes))
    return chosen


def _mistakes(run: report_runs.Run, pairs: Sequence[Confusion], limit: int) -> str:
    title = f"<h2>What {escape(run.label)} gets wrong <span class='soft'>{escape(run.data_label)}</span></h2>"
    if not pairs:
        return f"{title}<p>Nothing: every clip is right.</p>"
    chosen = _chosen(pairs, limit)
    shown = [one for _, mistakes in chosen for one in mistakes]
    media, missing = report_media.media(run, [one.clip for one in shown])
    total = sum(len(pair.mistakes) for pair in pairs)
    parts = [
        title,
        f"<p>{len(shown)} of {total} mistakes: the pairs of classes that are confused most often, in each the"
        " mistakes that the run was surest of.</p>",
    ]
    if missing:
        parts.append(f'<p class="soft">{escape(missing)}</p>')
    for pair, mistakes in chosen:
        clips = "".join(_clip(one, media.get(one.clip)) for one in mistakes)
        parts.append(f'<h3>{escape(pair.sentence)}</h3><div class="clips">{clips}</div>')
    return "\n".join(parts)


def _sections(findings: Findings, pictures: pathlib.Path) -> list[tuple[str, str, str]]:
    """(anchor, name in the menu, html) of each part that there is something to say in."""
    legend = "<br>".join(escape(line) for line in report_tables.legend(findings.runs))
    board = _table(report_tables.leaderboard(findings.runs), "Leaderboard")
    plot = _plot(
        pictures / "accuracies.png", "Accuracies with their 95 % intervals; the numbers are in the leaderboard"
    )
    sections = [("leaderboard", "Leaderboard", f'<h2>Leaderboard</h2>{board}<p class="soft">{legend}</p>{plot}')]
    if any(run.data == "esc50" for run in findings.runs):
        sections.append(("write-ups", "Write-ups", f"<h2>The write-ups' final table</h2>{_write_ups()}"))
    if findings.comparisons or findings.apart:
        told = [f'{escape(c.sentence)} <span class="soft">({escape(c.basis)})</span>' for c in findings.comparisons]
        told += [escape(sentence) for sentence in findings.apart]
        note = f'<p class="soft">{escape(report_tables.COMPARISON_NOTE)}</p>'
        sections.append(("comparisons", "Comparisons", f"<h2>Paired comparisons</h2>{_listed(told)}{note}"))
    if findings.calibrations:
        table = _table(report_tables.calibration_table(findings.calibrations), "Calibration")
        note = f'<p class="soft">{escape(report_tables.CALIBRATION_NOTE)}</p>'
        plot = _plot(pictures / "reliability.png", "Reliability diagrams; the errors are in the table above")
        sections.append(("calibration", "Calibration", f"<h2>Calibration</h2>{table}{note}{plot}"))
    share = MISTAKES // max(1, min(len(findings.confusions), MISTAKES // 4))
    for number, (run, pairs) in enumerate(findings.confusions[: MISTAKES // 4]):
        name = "Mistakes" + (f" on {run.data_label}" if len(findings.confusions) > 1 else "")
        sections.append((f"mistakes-{number}", name, _mistakes(run, pairs, share)))
    if findings.notes:
        notes = _listed([escape(note) for note in findings.notes])
        sections.append(("notes", "Notes", f"<h2>Notes</h2>{notes}"))
    return sections


def page(findings: Findings, pictures: pathlib.Path) -> str:
    """The whole page.

    Args:
        findings: what it tells.
        pictures: the folder that `report.draw` has drawn into.
    """
    sections = _sections(findings, pictures)
    menu = "".join(f'<a href="#{anchor}">{escape(name)}</a>' for anchor, name, _ in sections)
    body = "\n".join(f'<section id="{anchor}">\n{html}\n</section>' for anchor, _, html in sections)
    count = len(findings.runs)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>esc_jax: report on {count} run{"s" if count > 1 else ""}</title>
<style>
{_STYLE}
</style>
</head>
<body>
<header>
<h1>Report on {count} run{"s" if count > 1 else ""}</h1>
{_tops(findings)}
<nav aria-label="Sections">{menu}</nav>
</header>
<main>
{body}
</main>
<script>
{_SCRIPT}
</script>
</body>
</html>
"""
