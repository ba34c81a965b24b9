"""Measurements in processes of their own, and Markdown tables of their results."""

from collections.abc import Iterable, Iterator, Sequence
import contextlib
import json
import pathlib
import signal
import subprocess
import sys
from typing import Any


def run_json(script: str, arguments: Iterable[str]) -> dict[str, Any]:
    """The JSON object on the last line that `python SCRIPT ARGUMENTS` prints. Exits if the process fails."""
    done = subprocess.run([sys.executable, script, *arguments], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)  # the process has printed why
    return json.loads(done.stdout.splitlines()[-1])


@contextlib.contextmanager
def one_sentence_errors() -> Iterator[None]:
    """Ends the process with one sentence at an error that the user can correct, as the commands do."""
    from esc_jax.errors import UserError

    try:
        yield
    except UserError as error:
        sys.exit(f"benchmarks/{pathlib.Path(sys.argv[0]).name}: {error}")


def exit_at_sigterm() -> None:
    """Lets SIGTERM end this process as an exception does, so that temporary folders are removed."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


def markdown_table(rows: Sequence[dict[str, Any]]) -> str:
    """Objects with the same keys as a Markdown table."""
    cells = [rows[0], ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return "".join(f"| {' | '.join(map(str, row))} |\n" for row in cells)
