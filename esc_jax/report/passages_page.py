"""Passages of recordings as one HTML file, on which they can be played and labelled.

The page keeps its labels until it is closed, and offers them as a csv file with the columns of `inference.labels`.
"""

from collections.abc import Sequence
import dataclasses
from html import escape
import json
import pathlib

from esc_jax import files
from esc_jax.errors import collect_errors
from esc_jax.inference.index import Match, Query
from esc_jax.inference.timeline import clock
from esc_jax.report import media
from esc_jax.report.media import Media
from esc_jax.report.page_assets import document, player

MAX_PASSAGES = 200  # of a page: one takes about 100 kB
_MAX_SECONDS = 30.0  # of the query that can be played

# Labels are cells of a csv file, with an apostrophe before what a spreadsheet would run (`evaluation.escaping`).
_SCRIPT = """
const figures = [...document.querySelectorAll("figure[data-recording]")];
const classes = JSON.parse(document.getElementById("classes").dataset.names);
const count = document.getElementById("count"), save = document.getElementById("save");
function update() {
  const done = figures.filter(figure => figure.dataset.label).length;
  count.textContent = `${done} of ${figures.length} labelled`;
  save.disabled = !done;
}
function offer(name) {
  for (const figure of figures) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => {
      const chosen = button.getAttribute("aria-pressed") === "false";
      for (const other of button.parentNode.children) other.setAttribute("aria-pressed", "false");
      button.setAttribute("aria-pressed", String(chosen));
      figure.dataset.label = chosen ? name : "";
      update();
    });
    figure.querySelector(".labels").append(button);
  }
}
document.getElementById("new").addEventListener("submit", event => {
  event.preventDefault();
  const field = event.target.elements.name, name = field.value.trim();
  if (name && !classes.includes(name)) { classes.push(name); offer(name); }
  field.value = "";
});
function cell(text) {
  const safe = /^'*[=+\\-@\\t\\r]/.test(text) ? "'" + text : text;
  return /[",\\r\\n]/.test(safe) ? '"' + safe.replaceAll('"', '""') + '"' : safe;
}
save.addEventListener("click", () => {
  const rows = figures.filter(figure => figure.dataset.label).map(figure => {
    const { recording, start, end, label } = figure.dataset;
    return [cell(recording), start, end, cell(label)].join(",");
  });
  const blob = new Blob([["recording,start_s,end_s,label", ...rows, ""].join("\\r\\n")], { type: "text/csv" });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = "labels.csv";
  link.click();
});
classes.forEach(offer);
update();
""".strip()


@dataclasses.dataclass(frozen=True)
class Card:
    """A passage on the page: path of the recording, begin and end in seconds, and a line on what it is."""

    file: str
    start_s: float
    end_s: float
    caption: str


def _figure(rank: int, card: Card, sound: Media | None) -> str:
    name = pathlib.PurePath(card.file).name
    times = f"{clock(card.start_s, True)} – {clock(card.end_s, True)}"
    playing = player(sound.mp3, sound.png, f"{name}, {times}") if sound else "<p>This passage cannot be played.</p>"
    return (
        f'<figure class="clip" data-recording="{escape(card.file)}" data-start="{card.start_s:.3f}"'
        f' data-end="{card.end_s:.3f}">{playing}<figcaption>{rank}. <b>{escape(card.caption)}</b><br>'
        f'{escape(name)}, {times}<br><span class="soft">{escape(str(pathlib.PurePath(card.file).parent))}</span>'
        '</figcaption><div class="labels" role="group" aria-label="Label"></div></figure>'
    )


def _sounds(cards: Sequence[Card], rate: int, problems: list[str]) -> list[Media | None]:
    """The sound of each card. A recording is decoded once, however many of its passages are there."""
    sounds: list[Media | None] = [None] * len(cards)
    for file in dict.fromkeys(card.file for card in cards):
        places = [place for place, card in enumerate(cards) if card.file == file]
        with collect_errors(problems, file):
            parts = media.excerpts(file, [(cards[place].start_s, cards[place].end_s) for place in places], rate)
            for place, part in zip(places, parts, strict=True):
                sounds[place] = part
    return sounds


def write(
    path: pathlib.Path, title: str, introduction: str, cards: Sequence[Card], classes: Sequence[str], sample_rate: int,
    query: str = "",
) -> list[str]:  # fmt: skip
    """Writes a page.

    Args:
        path: of the file.
        title: text above the page.
        introduction: text below it.
        cards: the passages; the first MAX_PASSAGES are on the page.
        classes: names of the labels that the page offers. More can be added on the page.
        sample_rate: of the model, Hz.
        query: HTML of the sound that was searched for.

    Returns:
        A sentence for each recording that cannot be played.
    """
    problems: list[str] = []
    shown = cards[:MAX_PASSAGES]
    if len(shown) < len(cards):
        introduction += f" The first {len(shown)} of {len(cards)} passages."
    sounds = _sounds(shown, media.playable_rate(sample_rate), problems)
    figures = "\n".join(
        _figure(rank, card, sound) for rank, (card, sound) in enumerate(zip(shown, sounds, strict=True), 1)
    )
    names = escape(json.dumps(list(dict.fromkeys(classes))))
    header = f"<h1>{escape(title)}</h1>\n<p>{escape(introduction)}</p>\n{query}"
    body = (
        f'<div class="bar-tools" id="classes" data-names="{names}"><span id="count" aria-live="polite"></span>'
        '<button type="button" id="save">Download labels.csv</button>'
        '<form id="new"><input name="name" aria-label="New label" placeholder="another label">'
        " <button>Add</button></form></div>\n"
        f'<div class="clips">{figures}</div>'
    )
    text = document(f"esc_jax: {title}", header, body, _SCRIPT)
    with files.atomic_write(path) as file:
        file.write(text.encode("utf-8", errors="replace"))
    return problems


def write_search(
    path: pathlib.Path, name: str, query: Query, matches: Sequence[Match], classes: Sequence[str], sample_rate: int
) -> list[str]:
    """Writes the page of a search.

    Args:
        path: of the file.
        name: path of the sound that was searched for.
        query: what was searched for.
        matches: what was found.
        classes, sample_rate: as of `write`.

    Returns:
        A sentence for each recording that cannot be played.
    """
    problems: list[str] = []
    sound: Media | None = None
    end = min(query.end_s, query.start_s + _MAX_SECONDS)
    with collect_errors(problems, name):
        (sound,) = media.excerpts(name, [(query.start_s, end)], media.playable_rate(sample_rate))
    title = f"What sounds like {pathlib.PurePath(name).name}"
    times = f"{clock(query.start_s, True)} – {clock(query.end_s, True)}"
    figure = ""
    if sound:
        caption = f"<figcaption>query, {times}</figcaption>"
        figure = f'<figure class="clip query">{player(sound.mp3, sound.png, "the query")}{caption}</figure>'
    cards = [Card(one.file, one.start_s, one.end_s, f"similarity {one.similarity:.3f}") for one in matches]
    text = "The passages nearest to the query, the most similar first. Label some of them, and download the labels."
    return problems + write(path, title, text, cards, classes, sample_rate, figure)
