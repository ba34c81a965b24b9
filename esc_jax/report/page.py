"""A report as one HTML file, which needs no network: tables that sort, pictures, and clips that can be played."""

from collections.abc import Sequence
from html import escape
import pathlib

from esc_jax.errors import counted
from esc_jax.report import calibration, media, tables, write_ups
from esc_jax.report import runs as finished
from esc_jax.report.findings import Findings
from esc_jax.report.media import Media
from esc_jax.report.mistakes import Mistake, MistakeGroup
from esc_jax.report.page_assets import SCRIPT, data_url, document, player
from esc_jax.report.runs import Run
from esc_jax.report.tables import Cell, Table

# A clip takes about 100 kB, so the page stays well below 10 MB for any number of runs.
MAX_CLIPS = 24
_CLIPS_PER_GROUP = 4


def _cell(cell: Cell, tag: str, numeric: bool, axis_start: float) -> str:
    key = cell.text if cell.number is None else repr(float(cell.number))
    sort = "data-empty" if cell.empty else f'data-sort="{escape(key)}"'
    bar = ""
    if cell.span:
        low, value, high = (100 * (share - axis_start) / (1 - axis_start) for share in cell.span)
        bar = (
            f'<span class="bar" aria-hidden="true"><i style="left:{low:.1f}%;width:{high - low:.1f}%"></i>'
            f'<i style="left:{value:.1f}%"></i></span>'
        )
    attributes = f"{' scope=row' if tag == 'th' else ''}{' class=number' if numeric else ''} {sort}"
    return f"<{tag}{attributes}>{escape(cell.text)}{bar}</{tag}>"


def _row(row: Sequence[Cell], numeric: Sequence[bool], axis_start: float) -> str:
    tags = ["th"] + ["td"] * (len(row) - 1)
    cells = (_cell(cell, tag, kind, axis_start) for cell, tag, kind in zip(row, tags, numeric, strict=True))
    return f"<tr>{''.join(cells)}</tr>"


def _table(table: Table, label: str) -> str:
    # Bars start at a round number below the lowest interval, so that close scores can be distinguished.
    lows = [cell.span[0] for row in table.rows for cell in row if cell.span]
    axis_start = min(int(10 * min(lows, default=0.0)) / 10, 0.9)
    heads = "".join(
        f'<th scope="col" aria-sort="none" data-numeric="{str(numeric).lower()}"{" class=number" if numeric else ""}>'
        f'<button type="button">{escape(name)}</button></th>'
        for name, numeric in zip(table.columns, table.numeric, strict=True)
    )
    rows = "\n".join(_row(row, table.numeric, axis_start) for row in table.rows)
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}"><table class="sortable">'
        f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>"
    )


def _plot(path: pathlib.Path, text: str) -> str:
    return f'<img class="plot" src="{data_url("image/png", path.read_bytes())}" alt="{escape(text)}">'


def _list(items: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>"


def _cards(findings: Findings) -> str:
    """The best run of each group."""
    cards = []
    for group in findings.groups:
        run = finished.best(group)
        score, interval = "not tested", ""
        if run.score:
            low, high = tables.percent(run.score.low, 1), tables.percent(run.score.high, 1)
            score = f"{tables.percent(run.score.value)} %"
            interval = f"{escape(run.task.metric_label)}, 95 % interval {low} to {high}; "
        cards.append(
            f'<div class="card"><span class="soft">{escape(run.data_label)}: {finished.best_of(group)}</span>'
            f"<b>{score}</b>"
            f'<span>{escape(run.label)}<br><span class="soft">{interval}protocol {escape(run.protocol)},'
            f" {run.folds_text}</span></span></div>"
        )
    return f'<div class="cards">{"".join(cards)}</div>'


def _write_ups() -> str:
    sources = []
    for source in write_ups.SOURCES:
        title = escape(source.title)
        link = f'<a href="{escape(source.url)}" rel="noreferrer">{title}</a>' if source.url else title
        sources.append(f"“{link}”, {escape(source.origin)}")
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td class="number">{value:.2f} †</td></tr>'
        for name, value in write_ups.RESULTS
    )
    return (
        f"<h2>The two write-ups</h2>{_list(sources)}<p>{escape(write_ups.NOTE)}</p>"
        '<div class="scroll narrow" role="region" tabindex="0" aria-label="Results of the two write-ups">'
        "<table><thead><tr>"
        '<th scope="col" class="plain">method (published)</th>'
        f'<th scope="col" class="plain number">{escape(write_ups.TASK.metric_label)}, %</th>'
        f"</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _clip(mistake: Mistake, clip: Media | None) -> str:
    true, predicted = (escape(name.replace("_", " ")) for name in (mistake.true, mistake.predicted))
    name = escape(mistake.clip)
    sound = ""
    if clip:
        sound = player(clip.mp3, clip.png, mistake.clip)
    return (
        f'<figure class="clip">{sound}<figcaption>true: <b>{true}</b>, predicted: <b>{predicted}</b>'
        f'<br><span class="soft">confidence {100 * mistake.confidence:.0f} %, {100 * mistake.likelihood:.0f} % for'
        f" {true}<br>{name}, recording {escape(mistake.recording)}, fold {mistake.fold}</span></figcaption></figure>"
    )


def _select(groups: Sequence[MistakeGroup], limit: int) -> list[tuple[MistakeGroup, Sequence[Mistake]]]:
    """The first groups with a few mistakes each, up to `limit` mistakes in total."""
    selection: list[tuple[MistakeGroup, Sequence[Mistake]]] = []
    for group in groups:
        if limit <= 0:
            break
        mistakes = group.mistakes[: min(_CLIPS_PER_GROUP, limit)]
        limit -= len(mistakes)
        selection.append((group, mistakes))
    return selection


def _mistakes(run: Run, groups: Sequence[MistakeGroup], limit: int) -> str:
    title = f"<h2>Mistakes of {escape(run.label)} <span class='soft'>{escape(run.data_label)}</span></h2>"
    if not groups:
        return f"{title}<p>None: all predictions are correct.</p>"
    selection = _select(groups, limit)
    clips = [mistake.clip for _, mistakes in selection for mistake in mistakes]
    clip_media, missing = media.media(run, clips)
    total = sum(len(group.mistakes) for group in groups)
    parts = [
        title,
        f"<p>{len(clips)} of {total} mistakes: the most frequent kinds, and of each the mistakes with the highest"
        " confidence.</p>",
    ]
    if missing:
        parts.append(f'<p class="soft">{escape(missing)}</p>')
    for group, mistakes in selection:
        figures = "".join(_clip(mistake, clip_media.get(mistake.clip)) for mistake in mistakes)
        parts.append(f'<h3>{escape(group.description)}</h3><div class="clips">{figures}</div>')
    return "\n".join(parts)


def _leaderboards(findings: Findings, pictures: pathlib.Path) -> str:
    boards = "".join(
        f"<h2>{escape(title)}</h2>{_table(tables.leaderboard(runs), title)}" for title, runs in findings.leaderboards
    )
    legend = "<br>".join(escape(line) for line in tables.legend(findings.runs))
    text = "Scores with their 95 % intervals; the numbers are in the leaderboard"
    plot = _plot(pictures / "scores.png", text) if findings.tested else ""
    return f'{boards}<p class="soft">{legend}</p>{plot}'


def _comparisons(findings: Findings) -> str:
    items = [f'{escape(c.sentence)} <span class="soft">({escape(c.basis)})</span>' for c in findings.comparisons]
    items += [escape(sentence) for sentence in findings.incomparable]
    return f'<h2>Paired comparisons</h2>{_list(items)}<p class="soft">{escape(tables.COMPARISON_NOTE)}</p>'


def _calibration(findings: Findings, pictures: pathlib.Path) -> str:
    table = _table(tables.calibration_table(findings.calibrations), "Calibration")
    plot = _plot(pictures / "reliability.png", "Reliability diagrams; the errors are in the table above")
    return f'<h2>Calibration</h2>{table}<p class="soft">{escape(calibration.NOTE)}</p>{plot}'


def _sections(findings: Findings, pictures: pathlib.Path) -> list[tuple[str, str, str]]:
    """(anchor, name in the menu, HTML) of each section that is not empty."""
    sections = [("leaderboard", "Leaderboard", _leaderboards(findings, pictures))]
    if findings.includes_write_up_data:
        sections.append(("write-ups", "Write-ups", _write_ups()))
    if findings.comparisons or findings.incomparable:
        sections.append(("comparisons", "Comparisons", _comparisons(findings)))
    if findings.calibrations:
        sections.append(("calibration", "Calibration", _calibration(findings, pictures)))
    count = min(len(findings.mistakes), MAX_CLIPS // _CLIPS_PER_GROUP)
    for number, (run, groups) in enumerate(findings.mistakes[:count]):
        name = "Mistakes" + (f" on {run.data_label}" if len(findings.mistakes) > 1 else "")
        sections.append((f"mistakes-{number}", name, _mistakes(run, groups, MAX_CLIPS // count)))
    if findings.notes:
        notes = _list([escape(note) for note in findings.notes])
        sections.append(("notes", "Notes", f"<h2>Notes</h2>{notes}"))
    return sections


def page(findings: Findings, pictures: pathlib.Path) -> str:
    """The text of report.html.

    Args:
        findings: content of the report.
        pictures: folder with scores.png, if there are tested runs, and reliability.png, if there are predictions.
    """
    sections = _sections(findings, pictures)
    menu = "".join(f'<a href="#{anchor}">{escape(name)}</a>' for anchor, name, _ in sections)
    body = "\n".join(f'<section id="{anchor}">\n{html}\n</section>' for anchor, _, html in sections)
    title = f"Report on {counted(len(findings.runs), 'run')}"
    header = f'<h1>{title}</h1>\n{_cards(findings)}\n<nav aria-label="Sections">{menu}</nav>'
    return document(f"esc_jax: {title}", header, body, SCRIPT)
