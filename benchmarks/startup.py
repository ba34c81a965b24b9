"""Seconds from the start of the command to the end of the first call of the training step, with and without a cache.

    python benchmarks/startup.py
    python benchmarks/startup.py --config=configs/efficientat_finetune.py --config.data.dir=ESC-50-master …

Other arguments are passed to `esc_jax.main`. By default the data are synthesized sounds. The first start generates or
reads the data, prepares them and compiles with an empty cache. Later starts use that cache in a new work directory.
Every start is a process of its own that ends after its first step. The time of `--help` is measured too.
"""

import argparse
from collections.abc import Callable
import os
import pathlib
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import record
import subprocesses

ROOT = pathlib.Path(__file__).resolve().parents[1]


def run_first_step(started: float, arguments: list[str]) -> None:
    """Runs `esc_jax.main` until the end of a training step; prints the seconds since `started` (of time.time())."""
    sys.path.insert(0, str(ROOT))
    sys.argv = ["main", *arguments]
    from esc_jax.runtime import devices

    def timed(create: Callable[..., Callable]) -> Callable[..., Callable]:
        def create_timed(*args: Any, **options: Any) -> Callable[..., None]:
            step = create(*args, **options)

            def call(*inputs: Any, **constants: Any) -> None:
                import jax

                jax.block_until_ready(step(*inputs, **constants))
                sys.stdout.write(f'{{"seconds": {time.time() - started}}}\n')
                sys.stdout.flush()
                os._exit(0)  # do not wait for the data loader's threads

            return call

        return create_timed

    devices.pmap_step, devices.pmap_steps = timed(devices.pmap_step), timed(devices.pmap_steps)
    runpy.run_module("esc_jax.main", run_name="__main__")


def time_start(config: str, arguments: list[str], workdir: pathlib.Path) -> float:
    """Seconds of one start until the end of its first training step."""
    options = [f"--config={config}", f"--workdir={workdir}", *arguments]
    return subprocesses.run_json(__file__, [f"--started={time.time()}", *options])["seconds"]


def time_help() -> float:
    """Seconds of `--help`."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "esc_jax.main", "--help"], cwd=ROOT, stdout=subprocess.DEVNULL, check=False)
    return time.perf_counter() - started


def table_row(what: str, seconds: list[float]) -> dict[str, Any]:
    """A row of the table."""
    low, median, high = (round(s, 2) for s in (min(seconds), statistics.median(seconds), max(seconds)))
    return {"start": what, "seconds": median, "from": low, "to": high, "starts": len(seconds)}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", default="configs/resnet34_cpu.py", help="default: %(default)s")
    parser.add_argument(
        "--rounds", type=record.positive(int), default=3, help="starts with a filled cache (default: %(default)s)"
    )
    parser.add_argument("--out", default=record.RESULTS, help="folder of the files (default: benchmarks/results)")
    parser.add_argument("--tiny", action="store_true", help="a small network, for tests")
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)
    options, others = parser.parse_known_args()
    if not any(other.startswith("--config.data.") for other in others):
        others.append("--config.data.name=synthetic")
    if options.started:
        run_first_step(options.started, [f"--config={options.config}", *others])
    config = "tests/configs/tiny.py" if options.tiny else options.config
    subprocesses.exit_at_sigterm()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ESC_JAX_CACHE"] = str(pathlib.Path(folder) / "cache")
        seconds = [time_start(config, others, pathlib.Path(folder) / str(i)) for i in range(options.rounds + 1)]
    name = pathlib.Path(config).stem
    rows = [
        table_row("--help", [time_help() for _ in range(options.rounds)]),
        table_row(f"{name}, empty cache", seconds[:1]),
        table_row(f"{name}, filled cache", seconds[1:]),
    ]
    sys.stdout.write(record.save("startup", rows, options.out))


if __name__ == "__main__":
    main()
