"""Time of a training step on a GPU by kernel.

    python benchmarks/kernels.py configs/resnet34.py
    python benchmarks/kernels.py configs/eat_s.py --dtype=bfloat16 --batch_size=128 --top=30

Weights are random and clips are noise. The step is that of a run with 16 steps per call and the clips on the device
(`train.steps_per_call`, `data.on_device`). The rows "all" have the time of a step without the profiler, and with it the
number of kernels and the sum of their times: the difference of the two times is spent between kernels. The other rows
are the longest kernels, by their operation in the compiled program and the name of their code. On a CPU, operations
take the place of kernels. The benchmark prints a Markdown table and writes kernels.json and kernels.md to --out.
"""

import argparse
from collections.abc import Callable
import pathlib
from typing import Any

import record
from step_parts import STEPS_PER_CALL, add_arguments, called_steps, load, repeat, report

CALLS = 4  # in a round


def profile(call: Callable[[], Any]) -> dict[tuple[str, str], tuple[float, int]]:
    """(seconds, number) of every kernel of a call, by its operation and its name."""
    import jax

    kernels: dict[tuple[str, str], tuple[float, int]] = {}
    planes = record.profile(lambda: jax.block_until_ready(call()))
    on_gpu = [plane for plane in planes if plane.name.startswith("/device:GPU")]
    for line in (line for plane in on_gpu or planes for line in plane.lines):
        for event in line.events:
            operation = str(dict(event.stats).get("hlo_op", ""))
            # A GPU also has lines of modules and of the host's annotations.
            if line.name.startswith("Stream") if on_gpu else operation:
                seconds, number = kernels.get((operation, event.name), (0.0, 0))
                kernels[operation, event.name] = seconds + event.duration_ns / 1e9, number + 1
    return kernels


def measure(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of one config."""
    import jax
    import jax.numpy as jnp
    import synthetic_step

    config = load(name, options)
    model = synthetic_step.random_model(config)
    batch = jax.tree.map(jnp.asarray, synthetic_step.batch_of(config))
    call = called_steps(config, model, batch)[f"step, {STEPS_PER_CALL} a call"]
    times = sorted(record.time_alternating({"step": repeat(call, CALLS)}, options.rounds)["step"])
    step = times[len(times) // 2] / CALLS / STEPS_PER_CALL
    kernels = sorted(profile(call).items(), key=lambda item: -item[1][0])
    total, count = sum(seconds for _, (seconds, _) in kernels), sum(number for _, (_, number) in kernels)
    shown = [(("all", f"step: {1e3 * step:.3f} ms"), (total, count)), *kernels[: options.top]]
    return [
        {
            "config": pathlib.Path(name).stem,
            "batch": config.train.batch_size,
            "dtype": options.dtype,
            "operation": operation,
            "kernel": kernel[:60].replace("|", " "),
            "kernels per step": round(number / STEPS_PER_CALL, 1),
            "µs per step": round(1e6 * seconds / STEPS_PER_CALL, 1),
            "percent": round(100 * seconds / total, 1) if total else 0.0,
        }
        for (operation, kernel), (seconds, number) in shown
    ]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--rounds", type=record.positive(int), default=5, help="default: %(default)s")
    parser.add_argument("--top", type=int, default=20, help="number of kernels that are listed (default: %(default)s)")
    report("kernels", measure, parser.parse_args())


if __name__ == "__main__":
    main()
