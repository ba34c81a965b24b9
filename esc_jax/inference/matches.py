"""Passages that a search has found, as a text table, csv and JSON."""

from collections.abc import Mapping, Sequence
import csv
import json
import pathlib
from typing import TYPE_CHECKING, Any

from esc_jax.errors import counted, printable
from esc_jax.evaluation.escaping import escape_cell

if TYPE_CHECKING:  # numpy and JAX, which are slow to import
    from esc_jax.inference.index import Match

COLUMNS = ("recording", "start_s", "end_s", "similarity")


def table(matches: "Sequence[Match]", count: int) -> str:
    """The matches as lines of text.

    Args:
        matches: the nearest first.
        count: passages that were searched.
    """
    from esc_jax.inference.timeline import span

    lines = [f"{len(matches)} of {counted(count, 'passage')}"]
    for rank, match in enumerate(matches, 1):
        lines.append(f"{rank:>5}  {match.similarity:.3f} {span(match.start_s, match.end_s)}   {printable(match.file)}")
    return "\n".join(lines) + "\n"


def write_csv(path: pathlib.Path, matches: "Sequence[Match]") -> None:
    """Writes a row of COLUMNS for each match."""
    # File names are bytes on Linux and need not be valid UTF-8.
    with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for match in matches:
            times = f"{match.start_s:.3f}", f"{match.end_s:.3f}"
            writer.writerow([escape_cell(match.file), *times, f"{match.similarity:.6f}"])


def write_json(path: pathlib.Path, settings: Mapping[str, Any], matches: "Sequence[Match]") -> None:
    """Writes the matches as a JSON document.

    Args:
        path: of the file.
        settings: entries at the top of the document.
        matches: the nearest first.
    """
    rows = [
        {
            "recording": match.file,
            "start_s": round(match.start_s, 3),
            "end_s": round(match.end_s, 3),
            "similarity": round(match.similarity, 6),
        }
        for match in matches
    ]
    text = json.dumps({**settings, "matches": rows}, indent=1, allow_nan=False) + "\n"
    path.write_text(text, encoding="utf-8")
