"""The memory traffic of a training step compiled for an H100, on a machine without a GPU.

    pip install "jax[cuda13]"
    python benchmarks/traffic.py configs/eat_s.py --batch_size=128

XLA compiles the forward and backward pass for a described GPU. No kernel runs, and nothing is timed. The traffic of a
kernel is the size of the arrays that it reads and writes, each once, without the workspace of libraries. Choices that
XLA makes by measuring kernels are left at their defaults: a GPU may use other kernels for products. `remat` is off.

Columns: the place in the network, "kind" (library calls are products and convolutions), the number of kernels, and
their traffic in MB. The last row is the sum of all kernels, with the memory of temporary arrays. The benchmark prints a
Markdown table and writes traffic.json and traffic.md to --out.
"""

import argparse
import collections
import math
import os
import pathlib
import re
import sys
from typing import Any

import lowered
import step_parts

FLAGS = "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false"
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024  threads_per_warp: 32  threads_per_core_limit: 2048
  shared_memory_per_block: 49152  shared_memory_per_core: 233472  shared_memory_per_block_optin: 232448
  core_count: 132  fpus_per_core: 128  clock_rate_ghz: 1.98
  registers_per_core_limit: 65536  registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000  l2_cache_size: 52428800  device_memory_size: 84978434048
  cuda_compute_capability { major: 9 minor: 0 }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 28 patch: 1 }
runtime_version { major: 13 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
_BITS = {"pred": 8, "s8": 0}  # int8 arrays are workspaces
_FREE = {"parameter", "bitcast", "get-tuple-element", "tuple", "constant"}
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%(\S+) = (\(.*?\)|\S+) ([\w-]+)\((.*?)\)(.*)$", re.MULTILINE)
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")


def compile_for_h100(function: Any, *arguments: Any) -> tuple[str, int]:
    """The HLO of a function compiled for one H100, and the bytes of its temporary arrays.

    Args:
        function: of arrays.
        arguments: trees of `jax.ShapeDtypeStruct`.
    """
    import jax
    from jax.experimental import topologies

    jax.devices()  # registers the plugin
    try:
        topology = topologies.get_topology_desc(platform="cuda", target_config=H100, topology="1x1x1")
    except NotImplementedError:
        sys.exit('benchmarks/traffic.py needs JAX for CUDA: pip install "jax[cuda13]"')
    sharding = jax.sharding.SingleDeviceSharding(topology.devices[0])
    placed = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), arguments)
    compiled = jax.jit(function).lower(*placed).compile()
    return compiled.as_text(), compiled.memory_analysis().temp_size_in_bytes


def kernels(program: str) -> list[tuple[str, str, int]]:
    """(place, kind, bytes) of every kernel of a compiled program."""
    entry = program[program.index("\nENTRY") :]
    instructions = _INSTRUCTION.findall(entry[: entry.index("\n}")])
    sizes = {name: _bytes(shape) for name, shape, *_ in instructions}
    found = []
    for name, _, operation, operands, details in instructions:
        if operation in _FREE:
            continue
        read = sum(sizes.get(operand, 0) for operand in set(re.findall(r"%([\w.\-]+)", operands)))
        kind = "library" if operation == "custom-call" else "fusion"
        found.append((_place(details), kind, read + sizes[name]))
    return found


def _bytes(shape: str) -> int:
    """Size of the arrays of an HLO type."""
    total = 0
    for dtype, dimensions in _ARRAY.findall(shape):
        bits = _BITS.get(dtype, int(re.sub(r"\D", "", dtype) or 0))
        total += bits * math.prod(int(size) for size in dimensions.split(",") if size) // 8
    return total


def _place(details: str) -> str:
    """The module and operation that an instruction was traced from; layers of one kind share a name."""
    match = re.search(r'op_name="([^"]*)"', details)
    if not match:
        return "other"
    way = "backward" if "transpose(" in match[1] else "forward"
    path = match[1].rpartition("Classifier.encode/")[2].removeprefix("encoder/")
    path = re.sub(r"(cond/branch_\d+_fun|jit\(\w+\)|checkpoint|encoder\.\w+)/", "", re.sub(r"layer_\d+", "layer", path))
    return f"{way}: {path}"


def rows(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of one config."""
    config = step_parts.load(name, options)
    if "remat" in config.model.encoder:
        config.model.encoder.remat = False
    function, arguments = lowered.programs(config)["forward and backward"]
    traffic, counts = collections.Counter(), collections.Counter()
    program, temporary = compile_for_h100(function, *arguments)
    for place, kind, size in kernels(program):
        traffic[place, kind] += size
        counts[place, kind] += 1
    about = {"config": pathlib.Path(name).stem, "batch": config.train.batch_size, "dtype": options.dtype}

    def row(place: str, kind: str, number: int, size: int, memory: int | str = "") -> dict[str, Any]:
        shown = {"place": place, "kind": kind, "kernels": number, "traffic, MB": round(size / 1e6)}
        return about | shown | {"temporary memory, MB": memory}

    largest = [row(*key, counts[key], size) for key, size in traffic.most_common(options.rows)]
    return [*largest, row("all", "all", counts.total(), traffic.total(), round(temporary / 1e6))]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    step_parts.add_arguments(parser, dtype="bfloat16", batch_size=32)
    parser.add_argument("--rows", type=int, default=20, help="places with most traffic to show (default: %(default)s)")
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"  # which needs the driver
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}"
    step_parts.report("traffic", rows, parser.parse_args())


if __name__ == "__main__":
    main()
