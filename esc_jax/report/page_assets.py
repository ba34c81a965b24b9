"""What all pages share: frame, style sheet, players. A page is one file that needs no network."""

import base64
from html import escape

# Nothing is loaded from outside, even if a name in a file contains markup.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; media-src data:"

STYLE = """
:root { color-scheme: light dark; --ink: #1d2428; --soft: #5b6770; --page: #fbfbfa; --panel: #fff; --line: #dcdfe1;
  --mark: #1f6f8b; --band: #cfe3ea; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9eb; --soft: #9aa6ae; --page: #15191c; --panel: #1d2327;
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
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: 1rem; }
.card, figure.clip { background: var(--panel); border: 1px solid var(--line); border-radius: .6rem; }
.card { padding: .9rem 1.1rem; }
.card b { display: block; font-size: 1.9rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.card span { overflow-wrap: anywhere; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: .6rem; background: var(--panel); }
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
.labels { display: flex; flex-wrap: wrap; gap: .35rem; margin-top: .5rem; }
.labels button, .bar-tools button, .bar-tools input { font: inherit; font-size: .875rem; padding: .2rem .7rem;
  color: var(--ink); background: var(--page); border: 1px solid var(--line); border-radius: .4rem; }
.labels button, .bar-tools button { cursor: pointer; }
.bar-tools button:disabled { opacity: .5; cursor: default; }
.labels button[aria-pressed=true] { background: var(--mark); border-color: var(--mark); color: var(--page); }
.bar-tools { position: sticky; top: 0; z-index: 1; display: flex; flex-wrap: wrap; gap: .5rem 1rem; align-items: center;
  padding: .6rem 0; background: var(--page); border-bottom: 1px solid var(--line); margin-bottom: 1rem; }
figure.query { max-width: 26rem; }
""".strip()


def data_url(mime_type: str, content: bytes) -> str:
    """The content of a file as a URL."""
    return f"data:{mime_type};base64,{base64.b64encode(content).decode('ascii')}"


def player(mp3: bytes, png: bytes, name: str) -> str:
    """Spectrogram and audio element of a sound."""
    return (
        f'<img src="{data_url("image/png", png)}" alt="Mel spectrogram of {escape(name)}">'
        f'<audio controls preload="metadata" aria-label="{escape(name)}"'
        f' src="{data_url("audio/mpeg", mp3)}"></audio>'
    )


def document(title: str, header: str, body: str, script: str) -> str:
    """The text of a page.

    Args:
        title: text.
        header, body: HTML.
        script: JavaScript.
    """
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{escape(title)}</title>
<style>
{STYLE}
</style>
</head>
<body>
<header>
{header}
</header>
<main>
{body}
</main>
<script>
{script}
</script>
</body>
</html>
"""


# A click on a column header sorts by that column: numbers in descending order, text from A to Z. A second click
# reverses the order. Empty cells stay last.
SCRIPT = """
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
