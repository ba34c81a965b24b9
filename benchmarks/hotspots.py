"""Where the time of a training step or a prediction goes, in the package and in PyTorch, by kind of operation.

    python benchmarks/hotspots.py --models resnet34 mn04 --what train

The sides are those of models.py, a process each, as the profilers of JAX and PyTorch measure them; the kinds go by the
names of operations:

- convolutions: depthwise ones too in PyTorch; ours are sums of shifted products, so elementwise;
- products: of matrices. Ours are also the sums of BatchNorm (rows times ones) and 1×1 convolutions, which PyTorch has
  among its convolutions;
- normalisation: PyTorch's own operation; ours is products, reductions and elementwise;
- reductions, copies (and transposed, padded, cut and joined arrays), fft; elementwise is the rest, the optimizer too.

Milliseconds are of PyTorch's operations from begin to end, and of ours likewise, where XLA has several under way each
with its part; what is missing from the call, the last column, is spent between operations. Prints a Markdown table;
hotspots.json and hotspots.md go to --out. It needs torch, and a CPU: on a GPU, the profilers name other things.
"""

import argparse
import collections
from collections.abc import Callable, Iterable
import functools
import itertools
import json
import pathlib
import re
import sys
import tempfile

import apart
import models
import record

CALLS = 5
KINDS = ("convolutions", "products", "normalisation", "fft", "reductions", "copies", "elementwise")
_MOVED = "copy|copy_|transpose|bitcast|pad|slice|concatenate|reshape|broadcast|cat|contiguous|clone|constant_pad_nd"
_MOVES = re.compile(rf"(wrapped_)?({_MOVED})(_({_MOVED}|fusion))*")
_PATTERNS = (
    ("convolutions", re.compile(r"conv(?!ert)")),
    ("products", re.compile(r"dot|ynn|\b(addmm|mm|bmm|baddbmm)\b|linear|attention")),
    ("normalisation", re.compile(r"_norm")),
    ("fft", re.compile("fft")),
    ("reductions", re.compile(r"reduce|\b(sum|mean|amax|max_pool2d\w*)\b")),
)


def kind(operation: str) -> str:
    """Of an operation of XLA (`multiply_reduce_fusion.3`) or of PyTorch (`aten::mm`)."""
    name = re.sub(r"^aten::|(\.(\d+|clone))+$", "", operation)
    if _MOVES.fullmatch(name):
        return "copies"
    return next((one for one, pattern in _PATTERNS if pattern.search(name)), "elementwise")


def by_xla(call: Callable[[int], None]) -> dict[str, float]:
    """Seconds per call of every operation of our side; where several are under way at once, each has its part."""
    import jax

    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    begun, ended = [], []
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            call(CALLS)
        (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
        for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
            for event in (event for line in plane.lines for event in line.events):
                # An operation's event is over once it is handed out; some go on until the one that is called their end.
                if event.name.startswith("end: "):
                    ended.append((event.start_ns, event.name.removeprefix("end: "), False))
                elif "hlo_op" in dict(event.stats):
                    begun.append(event)
    told = {name for _, name, _ in ended}
    ended += [(event.end_ns, event.name, False) for event in begun if event.name not in told]
    return shared([(event.start_ns, event.name, True) for event in begun] + ended)


def shared(moments: Iterable[tuple[float, str, bool]]) -> dict[str, float]:
    """Seconds per call of each operation, from the nanoseconds at which they begin and end."""
    taken, active, before = {}, collections.Counter(), 0.0
    for moment, operation, begins in sorted(moments, key=lambda of: (of[0], not of[2])):
        for name in active.elements():
            taken[name] = taken.get(name, 0.0) + (moment - before) / active.total() / 1e9 / CALLS
        active[operation] += 1 if begins else -1
        active, before = +active, moment
    return taken


def by_torch(call: Callable[[int], None]) -> dict[str, float]:
    """The same of PyTorch, each without what it calls."""
    import torch

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        call(CALLS)
    return {event.key: event.self_cpu_time_total / 1e6 / CALLS for event in profile.key_averages()}


def row(what: str, side: str, call: Callable[[int], None], profile: Callable) -> dict:
    """A line of the table: milliseconds of every kind, and of the call as a whole."""
    (whole,) = record.in_turn({side: functools.partial(call, CALLS)}, 1)[side]  # after a round that compiles
    sums = dict.fromkeys(KINDS, 0.0)
    for operation, taken in profile(call).items():
        sums[kind(operation)] += taken
    milliseconds = {f"{name}, ms": round(1e3 * taken, 1) for name, taken in (sums | {"a call": whole / CALLS}).items()}
    return {"of": what, "by": side} | milliseconds


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    models.arguments(parser)
    options = parser.parse_args()
    if options.side:
        (name,), (what,) = options.models, options.what
        about, call = models.prepared(name, what, options.side, options)
        if about["device"] != "cpu":
            sys.exit("hotspots.py knows the operations of a CPU alone: set JAX_PLATFORMS=cpu")
        profile = by_xla if options.side == "esc_jax" else by_torch
        sys.stdout.write(json.dumps(row(f"{name}, {what}", options.side, call, profile)) + "\n")
        return
    lines = [
        apart.measure(__file__, [*sys.argv[1:], f"--models={name}", f"--what={what}", f"--side={side}"])
        for name, what, side in itertools.product(options.models, options.what, models.SIDES)
    ]
    sys.stdout.write(record.save("hotspots", lines, options.out))


if __name__ == "__main__":
    main()
