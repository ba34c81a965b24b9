"""Peak memory and time of a training step and of a prediction, for any config and data type.

    python benchmarks/memory.py configs/beats_finetune.py
    python benchmarks/memory.py configs/beats_finetune.py --dtype=bfloat16 --batch_size=16 --accumulate=4

Weights are random and clips are noise. Each measurement runs in a process of its own. On CPU the peak is that of the
process: interpreter, weights, optimizer, activations and XLA's buffers. On an accelerator it is that of the device's
allocator. The time is that of the second step, after compilation. The benchmark prints a Markdown table and writes no
file.
"""

import argparse
import json
import pathlib
import resource
import sys
import time

import step_parts
import subprocesses


def _peak_gib() -> float:
    import jax

    stats = jax.devices()[0].memory_stats() or {}
    # ru_maxrss is in KiB on Linux.
    return stats.get("peak_bytes_in_use", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024) / 2**30


def measure(options: argparse.Namespace) -> dict:
    """Executes two steps of `options.what`, "train" or "predict"; returns the figures."""
    config = step_parts.load(options.config, options)
    config.train.accumulate = options.accumulate or config.train.accumulate
    from esc_jax.runtime import xla

    xla.initialize()
    import jax
    import synthetic_step

    create = synthetic_step.train_call if options.what == "train" else synthetic_step.predict_call
    call, parameters = create(config)
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        jax.block_until_ready(call())
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
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="a config file")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--batch_size", type=int, default=0, help="default: that of the config")
    parser.add_argument("--accumulate", type=int, default=0, help="default: that of the config")
    parser.add_argument("--what", choices=("train", "predict"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.what:
        with subprocesses.one_sentence_errors():
            sys.stdout.write(json.dumps(measure(options)) + "\n")
        return
    rows = [subprocesses.run_json(__file__, [*sys.argv[1:], f"--what={what}"]) for what in ("predict", "train")]
    sys.stdout.write(subprocesses.markdown_table(rows))


if __name__ == "__main__":
    main()
