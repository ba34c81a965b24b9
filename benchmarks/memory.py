"""Peak memory and time of a training step and of prediction, of any config, in any type.

    python benchmarks/memory.py configs/beats_finetune.py
    python benchmarks/memory.py configs/beats_finetune.py --dtype=bfloat16 --batch_size=16 --accumulate=4

Weights are drawn at random and clips are noise. Each measurement is a process of its own, and its peak the process's:
on CPU everything it has held (interpreter, weights, optimizer, activations, XLA's own copies), on an accelerator what
was allocated on the device. The time is that of the second step, after compilation. Prints a Markdown table, and leaves
no file.
"""

import argparse
import json
import pathlib
import resource
import sys
import time

import apart

ROOT = pathlib.Path(__file__).resolve().parents[1]


def _config(options: argparse.Namespace):
    sys.path.insert(0, str(ROOT))
    from esc_jax import config as configs

    config = configs.load(options.config)
    config.model.dtype = options.dtype
    config.train.batch_size = options.batch_size or config.train.batch_size
    config.train.accumulate = options.accumulate or config.train.accumulate
    return config


def _peak_gib() -> float:
    import jax

    stats = jax.devices()[0].memory_stats() or {}
    # Linux counts the resident set in KiB.
    return stats.get("peak_bytes_in_use", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024) / 2**30


def measure(options: argparse.Namespace) -> dict:
    """Runs two steps of `options.what`, "train" or "predict"; the figures."""
    config = _config(options)
    from esc_jax.runtime import xla

    xla.initialize()
    import jax
    import noise

    once, parameters = (noise.training if options.what == "train" else noise.prediction)(config)
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        jax.block_until_ready(once())
        seconds.append(time.perf_counter() - started)
    parts = f" in {config.train.accumulate} parts" if config.train.accumulate > 1 else ""
    return {
        "config": pathlib.Path(options.config).stem,
        "what": options.what,
        "dtype": options.dtype,
        "batch": f"{config.train.batch_size}{parts}",
        "parameters": parameters,
        "peak_gib": round(_peak_gib(), 2),
        "seconds": round(seconds[1], 2),
    }


def main() -> None:
    """The command line: a Markdown table of train and predict."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--batch_size", type=int, default=0, help="the config's by default")
    parser.add_argument("--accumulate", type=int, default=0, help="the config's by default")
    parser.add_argument("--what", choices=("train", "predict"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.what:
        sys.stdout.write(json.dumps(measure(options)) + "\n")
        return
    lines = [apart.measure(__file__, [*sys.argv[1:], f"--what={what}"]) for what in ("predict", "train")]
    sys.stdout.write(apart.table(lines))


if __name__ == "__main__":
    main()
