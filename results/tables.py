"""Writes the tables of README.md and docs/ from the csv files of this folder, or checks that they agree.

    python results/tables.py            # exit status 1 if a page and the csv files disagree
    python results/tables.py --write

A page has a table between `<!-- results:NAME -->` and `<!-- /results -->`. `layout.TABLES` defines the rows and
columns of NAME. A range of a value is in the columns `value_low` and `value_high`. Accuracies are in percent.
"""

import argparse
from collections.abc import Iterable, Iterator, Sequence
import os
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from results.columns import EMPTY, SHORT_ID, Column, Row, TableError  # noqa: E402
from results.layout import HEADLINE, TABLES, Table, rows_of  # noqa: E402

BLOCK = re.compile(r"(<!-- results:([\w-]+) -->\n)(.*?)(<!-- /results -->)", re.DOTALL)
WIDTH = 100


def render(name: str, page: pathlib.PurePath = pathlib.PurePath("docs/results/index.md")) -> str:
    """A table with its commands, as Markdown. `page` is relative to the root of the repository."""
    if name not in TABLES:
        raise TableError(f"{page}: there is no table {name}")
    table, rows = TABLES[name], rows_of(name)
    columns, caption = _with_place(table, rows)
    # A column without any value says nothing.
    columns = [item for item in columns if any(item.cell(row) != EMPTY for row in rows)]
    lines = [[item.header for item in columns], ["---"] * len(columns)]
    lines += [[_linked(item, row, page) for item in columns] for row in rows]
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    if caption:
        text += f"\n*{caption}*\n"
    if table.commands:
        text += "\n```sh\n" + "".join(_commands(rows)) + "```\n"
    return f"\n{text}\n"


def _with_place(table: Table, rows: Sequence[Row]) -> tuple[list[Column], str]:
    """The columns, and a line on machine and date where all rows agree."""
    if not table.where or "machine" not in rows[0]:
        return list(table.columns), ""
    places = {_place(row) for row in rows}
    if len(places) == 1:
        return list(table.columns), places.pop()
    return [*table.columns, Column("machine; date", _place)], ""


def _place(row: Row) -> str:
    machine, date = (f"{key} not recorded" if row[key] == "not recorded" else row[key] for key in ("machine", "date"))
    return f"{machine}; {date}"


def _linked(item: Column, row: Row, page: pathlib.PurePath) -> str:
    text = item.cell(row).replace("|", "\\|")
    if not item.link:
        return text
    target = os.path.relpath(pathlib.PurePath("docs") / HEADLINE[row["id"]][1], page.parent).replace(os.sep, "/")
    return f"[{text}]({target})"


def _commands(rows: Iterable[Row]) -> Iterator[str]:
    """Each command once, below the ids of its rows."""
    ids: dict[str, list[str]] = {}
    for row in rows:
        ids.setdefault(row["command"], []).append(_command_label(row))
    labelled = len(ids) > 1
    for command, names in ids.items():
        label = ", ".join(dict.fromkeys(name for name in names if name))
        if command.startswith("("):
            yield f"# {label} {command}\n".replace("  ", " ")
        elif label and labelled:
            yield f"# {label}\n{_wrapped(command)}\n"
        else:
            yield f"{_wrapped(command)}\n"


def _command_label(row: Row) -> str:
    if SHORT_ID.fullmatch(row.get("id", "")) and row["table"] != "simclr-batch":
        return f"[{row['id']}]"
    return row.get("experiment", "")


def _wrapped(command: str) -> str:
    lines = [""]
    for part in re.split(r" (?=--|[\w.]+\.ogg)", command):
        if lines[-1] and len(lines[-1]) + len(part) + 3 > WIDTH:
            lines.append("    ")
        lines[-1] += part if not lines[-1].strip() else f" {part}"
    return " \\\n".join(lines)


def pages(root: pathlib.Path) -> list[pathlib.Path]:
    """README.md and the pages of docs/."""
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


def update(text: str, page: pathlib.PurePath) -> tuple[str, list[str]]:
    """A page with its tables written anew, and the names of those that differed."""
    if text.count("<!-- results:") != len(BLOCK.findall(text)) or text.count("<!-- /results -->") != len(
        BLOCK.findall(text)
    ):
        raise TableError(f"{page}: every <!-- results:NAME --> needs its own <!-- /results -->")
    stale: list[str] = []

    def replace(match: re.Match[str]) -> str:
        new = render(match[2], page)
        if match[3] != new:
            stale.append(match[2])
        return match[1] + new + match[4]

    return BLOCK.sub(replace, text), stale


def main(arguments: Sequence[str] | None = None) -> int:
    """Checks or writes the tables of all pages; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the tables instead of checking them")
    parser.add_argument("--root", type=pathlib.Path, default=ROOT, help="folder of README.md and docs/")
    options = parser.parse_args(arguments)
    failed = False
    for path in pages(options.root):
        page = pathlib.PurePath(path.relative_to(options.root))
        text = path.read_text(encoding="utf-8")
        try:
            new, stale = update(text, page)
        except TableError as error:
            sys.stderr.write(f"{error}\n")
            failed = True
            continue
        if options.write:
            if new != text:
                path.write_text(new, encoding="utf-8")
            continue
        for name in stale:
            sys.stderr.write(f"{page}: table {name} differs from results/*.csv; run python results/tables.py --write\n")
            failed = True
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
