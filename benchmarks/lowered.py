"""What a training step lowered for CUDA contains that is slow on a GPU, counted on any machine.

    python benchmarks/lowered.py configs/resnet34.py
    python benchmarks/lowered.py configs/resnet34.py configs/eat_s.py --dtype=bfloat16 --batch_size=32

The program is traced with shapes alone and lowered to StableHLO: no GPU is needed, nothing is computed, and nothing is
timed. XLA optimizes this program further, and fuses element-wise operations with gathers and reductions. The columns
are what it cannot fuse away:

- loops: the condition of which the host reads from the device before each iteration.
- sorts, scatters: with the gradient of XLA's max pooling, which becomes a scatter.
- gathers: of at least 65,536 elements.
- FFTs, custom calls: calls of libraries, whose inputs and outputs are stored.
- products: convolutions and matrix products, and of these, "float32": those with a float32 operand of at least 262,144
  elements. In the network of a bfloat16 run, this is an activation that is stored with twice the bytes.

Rows: "inputs" is augmentation, mixing and frontend, "network" the forward and backward pass. Where a choice is drawn
for the whole batch (`augment.resample`, `augment.mixup_kinds`), the operations of all branches are counted, of which a
training step executes one. The benchmark prints a Markdown table and writes lowered.json and lowered.md to --out.
"""

import argparse
from collections.abc import Callable
import math
import pathlib
import re
from typing import Any

import step_parts

PARTS = {"inputs": "inputs", "forward and backward": "network", "optimizer": "optimizer"}
_LARGE_GATHER, _LARGE_OPERAND = 1 << 16, 1 << 18
_FUNCTION = re.compile(r"^  func\.func \w+ @(\S+?)\(.*?^  }", re.DOTALL | re.MULTILINE)
_OPERATION = re.compile(r"^ +(?:%\S+ = )?\"?(stablehlo\.\w+|call @[^\s(]+)[^\n]*", re.MULTILINE)
_TENSOR = re.compile(r"tensor<((?:\d+x)*)(\w+)[>,]")
_COLUMNS = {
    "while": "loops",
    "sort": "sorts",
    "scatter": "scatters",
    "select_and_scatter": "scatters",
    "fft": "FFTs",
    "custom_call": "custom calls",
    "convolution": "products",
    "dot_general": "products",
}


def lower(function: Callable, *arguments: Any) -> str:
    """StableHLO of a function for CUDA.

    Args:
        function: of arrays.
        arguments: arrays, or `jax.ShapeDtypeStruct`.
    """
    import jax

    return jax.jit(function).trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()


def count(program: str) -> dict[str, int]:
    """Counts of the columns. Functions count as often as they are called."""
    functions = {match[1]: match[0] for match in _FUNCTION.finditer(program)}
    counted: dict[str, dict[str, int]] = {}

    def of_function(name: str) -> dict[str, int]:
        if name not in counted:
            totals = dict.fromkeys([*dict.fromkeys(_COLUMNS.values()), "gathers", "float32"], 0)
            for match in _OPERATION.finditer(functions[name]):
                found = of_function(match[1][6:]) if match[1].startswith("call @") else _operation(match[1], match[0])
                for column, number in found.items():
                    totals[column] += number
            counted[name] = totals
        return counted[name]

    return of_function("main")


def _operation(name: str, line: str) -> dict[str, int]:
    """The columns that one operation belongs to."""
    kind = name.removeprefix("stablehlo.")
    if kind == "custom_call" and "@Sharding" in line:
        return {}
    found = {_COLUMNS[kind]: 1} if kind in _COLUMNS else {}
    operands, _, results = line.rpartition("->")
    if kind == "gather" and any(size >= _LARGE_GATHER for size, _ in _tensors(results)):
        found["gathers"] = 1
    if found.get("products") and any(size >= _LARGE_OPERAND and dtype == "f32" for size, dtype in _tensors(operands)):
        found["float32"] = 1
    return found


def _tensors(types: str) -> list[tuple[int, str]]:
    """Elements and dtype of all tensor types in a text."""
    return [(math.prod(map(int, shape.split("x")[:-1])), dtype) for shape, dtype in _TENSOR.findall(types)]


def programs(config: Any) -> dict[str, tuple[Callable, tuple]]:
    """Function and shapes of the arguments of every part of the training step, by name."""
    import jax
    import numpy as np
    import synthetic_step

    model = synthetic_step.model_of_shapes(config)
    samples = round(config.data.clip_s * config.data.sample_rate)
    clips = config.train.batch_size
    batch = {
        "audio": jax.ShapeDtypeStruct((clips, samples), np.int16),
        "label": jax.ShapeDtypeStruct((clips,), np.int32),
    }
    return step_parts.network_parts(config, model, batch, jax.eval_shape)


def rows(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of one config."""
    config = step_parts.load(name, options)
    about = {"config": pathlib.Path(name).stem, "batch": config.train.batch_size, "dtype": options.dtype}
    parts = programs(config)
    return [{**about, "part": label, **count(lower(parts[part][0], *parts[part][1]))} for part, label in PARTS.items()]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    step_parts.add_arguments(parser, dtype="bfloat16", batch_size=32)
    step_parts.report("lowered", rows, parser.parse_args())


if __name__ == "__main__":
    main()
