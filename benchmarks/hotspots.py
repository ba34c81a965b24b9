"""Time of a training step or a prediction by kind of operation, in esc_jax and in PyTorch.

    python benchmarks/hotspots.py --models resnet34 mn04 --what train

Networks and frameworks are those of models.py, each in a process of its own, measured with the profilers of JAX and
PyTorch. Operations are assigned to a kind by their names:

- convolutions: in PyTorch also depthwise ones. In esc_jax these are sums of shifted products, which are elementwise.
- products: matrix products. In esc_jax also the sums of BatchNorm (rows times ones) and 1×1 convolutions, which PyTorch
  has among its convolutions.
- normalization: PyTorch's own operation. In esc_jax it is products, reductions and elementwise operations.
- reductions; copies (also transposed, padded, sliced and concatenated arrays); fft; elementwise: all other operations,
  among them the optimizer.

Times are in milliseconds from start to end of the operations; XLA's operations that run at the same time share it. The
difference between the last column, the whole call, and the sum of the others is spent between operations. The benchmark
prints a Markdown table and writes hotspots.json and hotspots.md to --out. It needs torch and runs on a CPU only, since
profilers name other operations on a GPU.
"""

import argparse
import collections
from collections.abc import Callable, Iterable
import functools
import itertools
import json
import re
import sys

import models
import record
import subprocesses

CALLS = 5
KINDS = ("convolutions", "products", "normalization", "fft", "reductions", "copies", "elementwise")
_MOVED = "copy|copy_|transpose|bitcast|pad|slice|concatenate|reshape|broadcast|cat|contiguous|clone|constant_pad_nd"
_MOVES = re.compile(rf"(wrapped_)?({_MOVED})(_({_MOVED}|fusion))*")
_PATTERNS = (
    ("convolutions", re.compile(r"conv(?!ert)")),
    ("products", re.compile(r"dot|ynn|\b(addmm|mm|bmm|baddbmm)\b|linear|attention")),
    ("normalization", re.compile(r"_norm")),
    ("fft", re.compile("fft")),
    ("reductions", re.compile(r"reduce|\b(sum|mean|amax|max_pool2d\w*)\b")),
)


def kind(operation: str) -> str:
    """Kind of an operation of XLA (`multiply_reduce_fusion.3`) or of PyTorch (`aten::mm`)."""
    name = re.sub(r"^aten::|(\.(\d+|clone))+$", "", operation)
    if _MOVES.fullmatch(name):
        return "copies"
    return next((kind for kind, pattern in _PATTERNS if pattern.search(name)), "elementwise")


def profile_xla(call: Callable[[int], None]) -> dict[str, float]:
    """Seconds per call of every operation of XLA. Operations that run at the same time share that time."""
    starts, ends = [], []
    for plane in record.profile(functools.partial(call, CALLS)):
        for event in (event for line in plane.lines for event in line.events):
            # An operation's event ends when it is dispatched. Some run on until an event named after their end.
            if event.name.startswith("end: "):
                ends.append((event.start_ns, event.name.removeprefix("end: "), False))
            elif "hlo_op" in dict(event.stats):
                starts.append(event)
    explicit = {name for _, name, _ in ends}
    ends += [(event.end_ns, event.name, False) for event in starts if event.name not in explicit]
    return split_time([(event.start_ns, event.name, True) for event in starts] + ends)


def split_time(events: Iterable[tuple[float, str, bool]]) -> dict[str, float]:
    """Seconds per call of each operation. Operations that run at the same time share that time equally.

    Args:
        events: (nanoseconds, operation, whether it starts), of starts and ends in any order.
    """
    seconds: dict[str, float] = {}
    active: collections.Counter[str] = collections.Counter()
    previous = 0.0
    for time, operation, starts in sorted(events, key=lambda event: (event[0], not event[2])):
        for name in active.elements():
            seconds[name] = seconds.get(name, 0.0) + (time - previous) / active.total() / 1e9 / CALLS
        active[operation] += 1 if starts else -1
        active, previous = +active, time
    return seconds


def profile_torch(call: Callable[[int], None]) -> dict[str, float]:
    """Seconds per call of every operation of PyTorch, without the operations that it calls."""
    import torch

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        call(CALLS)
    return {event.key: event.self_cpu_time_total / 1e6 / CALLS for event in profile.key_averages()}


def table_row(what: str, framework: str, call: Callable[[int], None], profile: Callable) -> dict:
    """A row of the table: milliseconds of every kind and of the whole call."""
    (total,) = record.time_alternating({framework: functools.partial(call, CALLS)}, 1)[framework]
    sums = dict.fromkeys(KINDS, 0.0)
    for operation, seconds in profile(call).items():
        sums[kind(operation)] += seconds
    sums["call"] = total / CALLS
    milliseconds = {f"{name}, ms": round(1e3 * seconds, 1) for name, seconds in sums.items()}
    return {"network": what, "framework": framework} | milliseconds


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    models.arguments(parser)
    options = parser.parse_args()
    if options.framework:
        (name,), (what,) = options.models, options.what
        about, call = models.prepare(name, what, options.framework, options)
        if about["device"] != "cpu":
            sys.exit("benchmarks/hotspots.py supports the CPU only: set JAX_PLATFORMS=cpu")
        profile = profile_xla if options.framework == "esc_jax" else profile_torch
        sys.stdout.write(json.dumps(table_row(f"{name}, {what}", options.framework, call, profile)) + "\n")
        return
    rows = [
        subprocesses.run_json(
            __file__, [*sys.argv[1:], f"--models={name}", f"--what={what}", f"--framework={framework}"]
        )
        for name, what, framework in itertools.product(options.models, options.what, models.FRAMEWORKS)
    ]
    sys.stdout.write(record.save("hotspots", rows, options.out))


if __name__ == "__main__":
    main()
