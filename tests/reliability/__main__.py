"""Runs experiments on damage, and prints a table of what became of each case.

    python -m tests.reliability                      all experiments, about an hour
    python -m tests.reliability --scale=full         seven times as many cases
    python -m tests.reliability damage kills --seed=1

The cases are random; the seed chooses them. A traceback, a wrong result and a command that does not end are failures:
the exit status is then 1.
"""

import argparse
from collections.abc import Callable, Iterator
import csv
import datetime
import pathlib
import random
import shutil
import sys

import tqdm

from tests.reliability import damage, demo, inputs, kills, places
from tests.reliability.base import OUTCOMES, SCALES, Bench, Counts, Scale, make_bench

EXPERIMENTS: dict[str, Callable[[Bench, Scale, random.Random], Iterator[tuple[str, Counts]]]] = {
    "damage": damage.run,
    "kills": kills.run,
    "sounds": inputs.sounds,
    "tables": inputs.tables,
    "weights": inputs.weights,
    "places": places.run,
    "demo": demo.run,
}
FAILURES = OUTCOMES[3:]


def measure(name: str, scale: Scale, seed: int, compiled: pathlib.Path | None = None) -> list[tuple[str, Counts]]:
    """The rows of an experiment, which are also written to stderr one by one. Its folder is kept after a failure."""
    bench = make_bench(compiled)
    rows: list[tuple[str, Counts]] = []
    try:
        for row in EXPERIMENTS[name](bench, scale, random.Random(f"{name} {seed}")):
            sys.stderr.write(f"{row[0]}: {', '.join(f'{count} {outcome}' for outcome, count in row[1].items())}\n")
            rows.append(row)
    finally:
        bench.close()
    if not any(counts[outcome] for _, counts in rows for outcome in FAILURES):
        shutil.rmtree(bench.folder, ignore_errors=True)
    return rows


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="*", metavar="NAME", help=f"some of {', '.join(EXPERIMENTS)}")
    parser.add_argument("--scale", choices=SCALES, default="long", help="number of cases (default: long)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, help="csv file to write, as results/reliability.csv")
    parser.add_argument("--machine", default="not recorded", help="its description in the csv file")
    options = parser.parse_args()
    if unknown := [name for name in options.experiments if name not in EXPERIMENTS]:
        parser.error(f"there is no experiment {unknown[0]}")
    rows: list[tuple[str, Counts]] = []
    for name in tqdm.tqdm(options.experiments or list(EXPERIMENTS), unit="experiment"):
        rows += measure(name, SCALES[options.scale], options.seed)
    table = [["experiment", "cases", *OUTCOMES]]
    table += [[name, counts.total(), *(counts[outcome] for outcome in OUTCOMES)] for name, counts in rows]
    widths = [max(len(str(row[column])) for row in table) for column in range(len(table[0]))]
    for row in table:
        sys.stdout.write("  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)) + "\n")
    if options.out:
        names = " ".join(options.experiments)
        command = f"python -m tests.reliability {names} --scale={options.scale} --seed={options.seed}"
        columns = [outcome.replace(" ", "_") for outcome in OUTCOMES]
        with open(options.out, "w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["table", "experiment", "cases", *columns, "machine", "date", "command", "note"])
            place = [options.machine, datetime.date.today().isoformat(), command, ""]
            writer.writerows(["reliability", *row, *place] for row in table[1:])
    return int(any(counts[outcome] for _, counts in rows for outcome in FAILURES))


if __name__ == "__main__":
    sys.exit(main())
