"""Measurements in processes of their own, and Markdown tables of their results."""

from collections.abc import Iterable, Sequence
import json
import pathlib
import subprocess
import sys
from types import TracebackType
from typing import Any


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Writes one sentence for an error that the user can correct, as the commands do, and else the traceback."""
    errors = sys.modules.get("esc_jax.errors")
    if errors and isinstance(error, errors.UserError):
        sys.stderr.write(f"{pathlib.Path(sys.argv[0]).name}: {error}\n")
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _report


def run_json(script: str, arguments: Iterable[str]) -> dict[str, Any]:
    """The JSON object on the last line that `python SCRIPT ARGUMENTS` prints. Exits if the process fails."""
    done = subprocess.run([sys.executable, script, *arguments], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)  # the process has printed why
    return json.loads(done.stdout.splitlines()[-1])


def markdown_table(rows: Sequence[dict[str, Any]]) -> str:
    """Objects with the same keys as a Markdown table."""
    cells = [rows[0], ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return "".join(f"| {' | '.join(map(str, row))} |\n" for row in cells)
