"""Time of a cross-validation in three ways: fold after fold, all folds side by side, and all folds in one program.

    python benchmarks/crossval_ways.py --config=configs/resnet34.py --config.train.epochs=20 --config.data.dir=DIR

Other arguments are passed to `esc_jax.main`. By default the data are synthesized sounds. All ways share one cache. A
short run fills it before the first way, so that preparation and compilation are not timed; the program with all folds
is compiled within its time. "side by side" starts a process for every fold, which share the device, and then one that
pools their results. Times are from the start of the first process to the end of the last. The benchmark prints a
Markdown table. It writes crossval_ways.json and crossval_ways.md to --out after each way, so that a time limit loses
one way at most; with --resume, the next call of the same command measures the ways that are missing.
"""

import argparse
from collections.abc import Sequence
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import record
import subprocesses

ROOT = pathlib.Path(__file__).resolve().parents[1]
WAYS = ("one after the other", "side by side", "one program")


def start(workdir: pathlib.Path, arguments: list[str], **environment: str) -> subprocess.Popen:
    """Starts `esc_jax.main`."""
    command = [sys.executable, "-m", "esc_jax.main", f"--workdir={workdir}", *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, stdout=subprocess.DEVNULL)


def wait(*processes: subprocess.Popen) -> None:
    """Waits for all processes. Exits if one of them fails."""
    try:
        statuses = [process.wait() for process in processes]
    except BaseException:  # a signal
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()
        raise
    if any(statuses):
        sys.exit("benchmarks/crossval_ways.py: a run failed")


def run(way: str, workdir: pathlib.Path, arguments: list[str], folds: Sequence[int]) -> None:
    """A cross-validation in one of WAYS."""
    crossval = ["--mode=crossval"]
    if way == "side by side":
        share = f"{0.9 / len(folds):.3f}"  # of the memory of a GPU; XLA reserves three quarters by default
        wait(
            *(
                start(
                    workdir / f"fold{fold}",
                    [*arguments, f"--config.data.test_fold={fold}"],
                    XLA_PYTHON_CLIENT_MEM_FRACTION=share,
                )
                for fold in folds
            )
        )
    if way == "one program":
        crossval.append("--config.crossval.vectorized=True")
    wait(start(workdir, [*arguments, *crossval]))


def fold_numbers(text: str) -> tuple[int, ...]:
    """ "1,2" → (1, 2)."""
    return tuple(int(fold) for fold in text.split(","))


def measured_before(out: pathlib.Path) -> list[dict]:
    """Rows that an earlier call of the same command has written."""
    try:
        before = json.loads((out / "crossval_ways.json").read_text())
    except (OSError, ValueError):
        return []
    return before["results"]["crossval_ways"] if before["command"] == record.command() else []


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", default="configs/resnet34.py", help="default: %(default)s")
    parser.add_argument("--folds", type=fold_numbers, default="1,2,3,4,5", help="test folds (default: %(default)s)")
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS, help="default: all")
    parser.add_argument("--resume", action="store_true", help="keep the ways that --out has from the same command")
    parser.add_argument("--tiny", action="store_true", help="a small network, for tests")
    parser.add_argument("--out", default=record.RESULTS, help="folder of the files (default: benchmarks/results)")
    options, others = parser.parse_known_args()
    if not any(other.startswith("--config.data.") for other in others):
        others.append("--config.data.name=synthetic")
    config = "tests/configs/tiny.py" if options.tiny else options.config
    folds = options.folds
    arguments = [f"--config={config}", f"--config.crossval.folds={folds}", *others]
    out = pathlib.Path(options.out)
    rows = measured_before(out) if options.resume else []
    ways = [way for way in options.ways if way not in {row["way"] for row in rows}]
    subprocesses.exit_at_sigterm()
    with tempfile.TemporaryDirectory() as folder:
        base = pathlib.Path(folder)
        os.environ.setdefault("ESC_JAX_CACHE", str(base / "cache"))
        if ways:
            wait(start(base / "warmup", [*arguments, "--config.train.epochs=1", f"--config.data.test_fold={folds[0]}"]))
        for way in ways:
            workdir = base / way.replace(" ", "_")
            started = time.perf_counter()
            run(way, workdir, arguments, folds)
            seconds = time.perf_counter() - started
            results = json.loads((workdir / "results.json").read_text())
            rows.append(
                {
                    "config": pathlib.Path(config).stem,
                    "way": way,
                    "folds": len(folds),
                    "epochs": results["folds"][0]["epochs"],
                    "seconds": round(seconds, 1),
                    "seconds per fold": round(seconds / len(folds), 1),
                    "accuracy": round(100 * results["accuracy"]["mean"], 2),
                }
            )
            record.save("crossval_ways", rows, out)
    sys.stdout.write((out / "crossval_ways.md").read_text())


if __name__ == "__main__":
    main()
