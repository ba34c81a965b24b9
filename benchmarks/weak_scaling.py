"""Time of a data-parallel training step on 8 to 256 GPUs, estimated from the costs of one: nothing is measured.

    python benchmarks/weak_scaling.py

Each GPU computes a step on its own examples (t), and the gradients (g bytes) are averaged. Inside a machine of 8 GPUs
the gradient is reduced and scattered, its parts are summed over m machines by rings, and gathered again:

    t + 2 · 7/8 · g/B + 2 · (m − 1)/m · (g/8)/b + (14 · α + 2 · (m − 1) · β)

with the rate B inside a machine, the rate b of each GPU's network, and the latencies α and β of a message. The defaults
are those of ResNet-34 in bfloat16 on H100: t is scaled from a measured step of 256 examples to 32, g are 21.3 million
parameters in float32, rates and latencies are nominal. The last column is the share of the step in which the GPU
computes if nothing is overlapped. XLA overlaps the sum of a layer's gradients with the backward pass of the layers
before it, which hides up to all of it.
"""

import argparse
import sys

import record
import subprocesses

GPUS = 8  # of a machine


def step_ms(count: int, options: argparse.Namespace) -> tuple[float, float, float]:
    """Milliseconds on `count` GPUs: inside machines, between machines, and of latency."""
    machines, size = count // GPUS, options.parameters * 4e6
    inside = 2 * (GPUS - 1) / GPUS * size / (options.inside_gb * 1e9)
    between = 2 * (machines - 1) / machines * size / GPUS / (options.between_gb * 1e9)
    latency = 2 * (GPUS - 1) * options.inside_us * 1e-6 + 2 * (machines - 1) * options.between_us * 1e-6
    return 1e3 * inside, 1e3 * between, 1e3 * latency


def rows(options: argparse.Namespace) -> list[dict]:
    """The rows of the table."""
    table = []
    for count in (8, 16, 32, 64, 128, 256):
        parts = step_ms(count, options)
        total = options.step_ms + sum(parts)
        table.append(
            {
                "GPUs": count,
                "batch": count * options.batch,
                "compute, ms": options.step_ms,
                "sum inside machines, ms": round(parts[0], 2),
                "between machines, ms": round(parts[1], 2),
                "latency, ms": round(parts[2], 2),
                "computing, %": round(100 * options.step_ms / total),
            }
        )
    return table


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--step_ms", type=record.positive(float), default=3.8, help="of one GPU (default: %(default)s)")
    add("--batch", type=record.positive(int), default=32, help="examples of a GPU (default: %(default)s)")
    add("--parameters", type=record.positive(float), default=21.3, help="millions (default: %(default)s)")
    add(
        "--inside_gb",
        type=record.positive(float),
        default=450.0,
        help="GB/s of a GPU inside a machine (default: %(default)s)",
    )
    add(
        "--between_gb",
        type=record.positive(float),
        default=50.0,
        help="GB/s of a GPU between machines (default: %(default)s)",
    )
    add("--inside_us", type=float, default=2.0, help="latency of a message in µs (default: %(default)s)")
    add("--between_us", type=float, default=5.0, help="the same between machines (default: %(default)s)")
    sys.stdout.write(subprocesses.markdown_table(rows(parser.parse_args())))


if __name__ == "__main__":
    main()
