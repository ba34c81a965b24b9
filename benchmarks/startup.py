"""Seconds from the command to the end of the first training step: where nothing was prepared or compiled, and later.

    python benchmarks/startup.py
    python benchmarks/startup.py --config=configs/efficientat_finetune.py --config.data.dir=ESC-50-master …

What is not known here goes to `esc_jax.main` as it is. By default the synthesised sounds are trained on. The first
start generates or reads the data, prepares and compiles in an empty cache; the later ones find all of that, in a new
workdir. Every start is a process of its own that ends after its first step. `--help` is beside them.
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import apart
import record

ROOT = pathlib.Path(__file__).resolve().parents[1]


def until_the_first_step(started: float, arguments: list[str]) -> None:
    """Runs `esc_jax.main` until a training step is done; prints the seconds since `started` (of time.time())."""
    sys.path.insert(0, str(ROOT))
    sys.argv = ["main", *arguments]
    from esc_jax import main
    from esc_jax.runtime import devices

    mapped = devices.pmap_step

    def timed(*of, **options):
        step = mapped(*of, **options)

        def call(*inputs):
            import jax

            jax.block_until_ready(step(*inputs))
            sys.stdout.write(f'{{"seconds": {time.time() - started}}}\n')
            sys.stdout.flush()
            os._exit(0)  # the data loader's threads have work for an epoch

        return call

    devices.pmap_step = timed
    main.cli()


def seconds_of(config: str, arguments: list[str], workdir: pathlib.Path) -> float:
    """Of one start."""
    given = [f"--config={config}", f"--workdir={workdir}", *arguments]
    return apart.measure(__file__, [f"--started={time.time()}", *given])["seconds"]


def help_seconds() -> float:
    """Of `--help`."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "esc_jax.main", "--help"], cwd=ROOT, stdout=subprocess.DEVNULL, check=False)
    return time.perf_counter() - started


def line(what: str, seconds: list[float]) -> dict:
    """Of the table."""
    low, median, high = (round(s, 2) for s in (min(seconds), statistics.median(seconds), max(seconds)))
    return {"start": what, "seconds": median, "from": low, "to": high, "starts": len(seconds)}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", default="configs/resnet34_cpu.py", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="later starts (default: %(default)s)")
    parser.add_argument("--out", default=record.RESULTS, help="folder of the files (default: benchmarks/results)")
    parser.add_argument("--tiny", action="store_true", help="a small network: for tests")
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)
    options, others = parser.parse_known_args()
    if not any(other.startswith("--config.data.") for other in others):
        others.append("--config.data.name=synthetic")
    if options.started:
        until_the_first_step(options.started, [f"--config={options.config}", *others])
    config = "tests/configs/tiny.py" if options.tiny else options.config
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ESC_JAX_CACHE"] = str(pathlib.Path(folder) / "cache")
        taken = [seconds_of(config, others, pathlib.Path(folder) / str(i)) for i in range(options.rounds + 1)]
    name = pathlib.Path(config).stem
    lines = [
        line("--help", [help_seconds() for _ in range(options.rounds)]),
        line(f"{name}, nothing prepared or compiled", taken[:1]),
        line(f"{name}, again", taken[1:]),
    ]
    sys.stdout.write(record.save("startup", lines, options.out))


if __name__ == "__main__":
    main()
