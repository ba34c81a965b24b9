"""What the benchmarks share: measurements in processes of their own, and the table of several."""

from collections.abc import Iterable, Sequence
import json
import subprocess
import sys


def measure(script: str, arguments: Iterable[str]) -> dict:
    """The JSON object that `python SCRIPT ARGUMENTS` prints last."""
    done = subprocess.run([sys.executable, script, *arguments], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)  # it has said why
    return json.loads(done.stdout.splitlines()[-1])


def table(lines: Sequence[dict]) -> str:
    """Objects with the same keys as a table in Markdown."""
    rows = [lines[0], ["---"] * len(lines[0]), *(line.values() for line in lines)]
    return "".join(f"| {' | '.join(map(str, row))} |\n" for row in rows)
