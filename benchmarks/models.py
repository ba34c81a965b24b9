"""Training steps and predictions of the package and of PyTorch, side by side.

    python benchmarks/models.py
    python benchmarks/models.py --models resnet34 mn04 --what train predict --rounds 5 --out=OUTDIR

Each side has a process of its own, as its users have it: the same configuration, the same batch (noise, on the device),
50 classes, weights drawn at random, as many parameters to the last one. Everything is compiled first; then rounds
alternate. A round is as many calls, one after the other, as take two seconds, and gives seconds per call; the first
round is not counted, nor is the first call of any (see `record.in_turn`). The table has medians over rounds, their
extremes, and PyTorch's median over ours: above 1, esc_jax is faster. Nothing else should run: PyTorch's threads wait
for each other after every operation, so that another process costs it more than it costs us. The load at the start is
written down.

`train` is forward, cross-entropy, backward and AdamW's update, BatchNorm and dropout in training mode. Ours is the step
that a run takes (`training.step.train_step` under `devices.pmap_step`, on one device, after `xla.initialize`, which
sets XLA's flags and keeps memory), metrics included, without augmentation. PyTorch's is AdamW(fused=True), the loss
alone. `predict` is the forward pass to probabilities in evaluation mode: `training.step.predict_step`, and
`torch.inference_mode`. Both are fed what frontends give (spectrograms; DistilHuBERT the waveform): decoding,
resampling, augmentation and frontend are not measured, nor is the copy of a batch from the host.

PyTorch is eager unless --compile, has memory as malloc gives it (--keep_memory: in a heap like ours, see
`training.heap`), its images in channels_last (--channels_first: as it has them by default, and as the published code of
EfficientAT does) and as many threads as there are cores, and on a GPU TF32 and cuDNN's search for the fastest
convolution, as XLA has. --dtype=bfloat16 is `model.dtype` here and `torch.autocast` there, over weights in
float32. The networks are those of `torch_models.py`; EfficientNet-B0 (one channel, as ours) and DistilHuBERT are the
classes of transformers. Stochastic depth (EfficientNet) and layer drop (BEATs, HuBERT) are off on both sides:
implementations do not agree on what they drop. All dropout is on.

Where JAX finds a GPU, both sides run on it, and the table has the share of the card's peak: FLOPs of our forward pass,
counted by XLA before optimisation (three times that for training), over time, over dense bfloat16 FLOP/s. A card that
is not known, and float32, have no share unless --peak_tflops says what it is.
"""

import argparse
from collections.abc import Callable, Mapping
import contextlib
import dataclasses
import datetime
import functools
import itertools
import json
import os
import pathlib
import statistics
import sys
from typing import Any

import apart
import numpy as np
import record
from sides import CLASSES, Elsewhere, alternate, drawn, ours, serve, theirs

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
SIDES = ("esc_jax", "PyTorch")
ROUND_S = 2.0
LR = 1e-4

# Dense bfloat16 FLOP/s, by what the name of a card contains.
PEAKS = {"H200": 989e12, "H100 80GB HBM3": 989e12, "A100": 312e12}


@dataclasses.dataclass(frozen=True)
class Model:
    """What is measured under one name.

    Attributes:
        architecture: key of `models.registry.ENCODERS`.
        batch: examples, on two cores.
        shape: features of an example: (frames, bins), or (samples,).
        encoder: options that are not the defaults.
        head: name of the head, and its options.
        tiny: further options of --tiny.
        tiny_shape: features of --tiny.
    """

    architecture: str
    batch: int
    shape: tuple[int, ...]
    encoder: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    head: tuple[str, Mapping[str, Any]] = ("linear", {})
    tiny: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tiny_shape: tuple[int, ...] = (64, 32)

    def config(self, tiny: bool):
        """A whole config, augmentation off, AdamW at a constant rate."""
        from esc_jax import config as configs

        name, options = self.head
        config = configs.defaults(self.architecture, name)
        config.model.encoder.update(dict(self.encoder) | (dict(self.tiny) if tiny else {}))
        config.model.head.update(dict(options))
        config.optim.schedule, config.optim.lr = "constant", LR
        return config


_SMALL = {"encoder_layers": 2, "encoder_embed_dim": 48, "encoder_ffn_embed_dim": 96, "embed_dim": 32}
MODELS = {
    "resnet34": Model("resnet", 32, (256, 128), tiny={"stage_sizes": (1, 1), "width": 8}),
    "mn04": Model("efficientat", 16, (500, 128), {"width_mult": 0.4}, ("mlp", {"width": 512}), {"width_mult": 0.1}),
    "mn10": Model("efficientat", 16, (500, 128), {"width_mult": 1.0}, ("mlp", {"width": 1280}), {"width_mult": 0.1}),
    "efficientnet_b0": Model(
        "efficientnet",
        16,
        (500, 128),
        # transformers pads as it does, and its dropout of a block is not the paper's stochastic depth.
        {"same_padding": "transformers", "drop_connect_rate": 0.0},
        ("linear", {"dropout": 0.2}),
        {"width_coefficient": 0.25},
    ),
    "distilhubert": Model(
        "hubert",
        4,
        (80_000,),
        {"layerdrop": 0.0},
        ("projected", {}),
        {"hidden_size": 48, "intermediate_size": 96, "conv_dim": (32,) * 7},
        (4000,),
    ),
    "beats": Model("beats", 2, (498, 128), {"encoder_layerdrop": 0.0}, tiny=_SMALL),
}


def forward_flops(model, variables, shape: tuple[int, ...]) -> float | None:
    """Of our forward pass, as XLA counts them in the program it is given; None where there is no CPU to ask."""
    import jax
    import jax.numpy as jnp

    described = jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype), variables)
    features = jax.ShapeDtypeStruct(shape, jnp.float32)
    try:
        # A GPU's client counts compiled programs only, in which convolutions are calls of libraries. The program is a
        # GPU's all the same: some layers have another form on CPU, with another count.
        with jax.default_device(jax.devices("cpu")[0]):
            lowered = jax.jit(model.apply).trace(described, features).lower(lowering_platforms=("cuda",))
            return float(lowered.cost_analysis()["flops"])
    except RuntimeError:  # NotImplementedError is one
        return None


def prepared(name: str, what: str, side: str, options: argparse.Namespace) -> tuple[dict, Callable[[int], None]]:
    """One side of a model, in this process: what is measured, and a function of so many calls."""
    made = MODELS[name]
    config = made.config(options.tiny)
    config.model.dtype = options.dtype
    shape = made.tiny_shape if options.tiny else made.shape
    batch = options.batch or (2 if options.tiny else made.batch)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, *shape), np.float32)
    labels = rng.integers(0, CLASSES, batch).astype(np.int32)
    device, threads = start(side, options)
    about = {"model": name, "what": what, "batch": batch, "features": shape, "device": device, "threads": threads}
    if side == "PyTorch":
        call, parameters = theirs(what, config, x, labels, options, device)
        return about | {"parameters": parameters}, call
    import jax

    model, variables = drawn(config, shape)
    parameters = sum(p.size for p in jax.tree.leaves(variables["params"]))
    flops = forward_flops(model, variables, x.shape)
    about |= {"parameters": parameters, "flops": flops and flops * (3 if what == "train" else 1)}
    about["processor"] = record.processor() if device == "cpu" else jax.devices()[0].device_kind
    return about, ours(what, config, model, variables, x, labels)


def measured(name: str, what: str, options: argparse.Namespace) -> dict:
    """The figures of one model, for one thing that it can do."""
    with contextlib.ExitStack() as processes:
        sides = {side: processes.enter_context(Elsewhere(_command(name, what, side))) for side in SIDES}
        about, other = (side.about() for side in sides.values())
        for key in ("parameters", "device"):
            if about[key] != other[key]:
                sys.exit(f"{name}: {key} here {about[key]}, in PyTorch {other[key]}: these cannot be compared")
        seconds = alternate(sides, options.rounds, 0.0 if options.tiny else ROUND_S)
    return about | {"seconds": seconds}


def _command(name: str, what: str, side: str) -> list[str]:
    return [sys.executable, __file__, *sys.argv[1:], f"--models={name}", f"--what={what}", f"--side={side}"]


def row(line: dict, peak: float | None) -> dict:
    """A line of the table."""
    medians = {side: statistics.median(seconds) for side, seconds in line["seconds"].items()}
    shown = {
        "model": line["model"],
        "what": line["what"],
        "batch": f"{line['batch']} × {' × '.join(map(str, line['features']))}",
    }
    for side, seconds in line["seconds"].items():
        low, median, high = (f"{1000 * s:.4g}" for s in (min(seconds), medians[side], max(seconds)))
        shown[f"{side}, ms"] = f"{median} ({low}–{high})"
    shown["PyTorch / esc_jax"] = f"{medians['PyTorch'] / medians['esc_jax']:.2f}"
    if peak:
        for side, median in medians.items():
            shown[f"{side}, share of peak"] = f"{line['flops'] / median / peak:.1%}" if line["flops"] else ""
    return shown


def _peak(processor: str, options: argparse.Namespace) -> float | None:
    """FLOP/s of a processor, where they are known."""
    known = (flops for part, flops in PEAKS.items() if part in processor and options.dtype == "bfloat16")
    return options.peak_tflops * 1e12 or next(known, None)


def start(side: str, options: argparse.Namespace) -> tuple[str, int]:
    """Sets a side's process up: the device that it runs on, as PyTorch calls it, and its threads."""
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if side == "esc_jax":
        from esc_jax.runtime import xla

        # Both sides share the card: JAX is not to claim most of its memory at the start.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        xla.initialize()
        import jax

        return "cuda" if jax.default_backend() == "gpu" else jax.default_backend(), threads
    import torch

    if options.keep_memory:
        from esc_jax.runtime import memory

        memory.keep_heap()
    torch.set_num_threads(threads)
    if os.environ.get("JAX_PLATFORMS", "").split(",")[0] == "cpu" or not torch.cuda.is_available():
        return "cpu", threads
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    return "cuda", threads


def write(out: pathlib.Path, found: dict) -> str:
    """models.json, with the seconds of every round, and models.md; the table."""
    out.mkdir(parents=True, exist_ok=True)
    table = apart.table([row(line, found["peak"]) for line in found["lines"]])
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    load = "unknown" if found["load"] is None else f"{found['load']:.1f}"
    head = (
        f"{found['device']}, {found['threads']} threads, load at the start {load}, {found['dtype']},"
        f" PyTorch {'compiled' if found['compiled'] else 'eager'}, {found['layout']}, its memory {found['memory']},"
        f" {found['rounds']} rounds, {found['date']}"
    )
    (out / "models.json").write_text(json.dumps(found, indent=1) + "\n")
    (out / "models.md").write_text(f"{head}; {versions}\n\n{table}")
    return table


def arguments(parser: argparse.ArgumentParser) -> None:
    """What `prepared` needs to know, and where results go."""
    add = parser.add_argument
    add("--models", nargs="+", choices=MODELS, default=list(MODELS), help="all of them by default")
    add("--what", nargs="+", choices=("train", "predict"), default=["train", "predict"])
    add("--batch", type=int, default=0, help="examples; by default what suits two cores")
    add("--dtype", choices=("float32", "bfloat16"), default="float32")
    add("--compile", action="store_true", help="torch.compile on PyTorch's side")
    add("--channels_first", action="store_true", help="the layout of images on PyTorch's side")
    add("--keep_memory", action="store_true", help="in PyTorch's process too")
    add("--tiny", action="store_true", help="see that everything runs: the times mean nothing")
    add("--out", type=pathlib.Path, default=ROOT / "benchmarks/results", help="folder of the results")
    add("--side", choices=SIDES, help=argparse.SUPPRESS)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments(parser)
    parser.add_argument("--rounds", type=int, default=5, help="that are counted (default: %(default)s)")
    parser.add_argument("--peak_tflops", type=float, default=0.0, help="of the processor, for the share of its peak")
    options = parser.parse_args()
    if options.side:
        (name,), (what,) = options.models, options.what
        serve(functools.partial(prepared, name, what, options.side, options))
        return
    found = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "versions": record.versions(),
        "dtype": options.dtype,
        "compiled": options.compile,
        "layout": "channels_first" if options.channels_first else "channels_last",
        "memory": "kept" if options.keep_memory else "as malloc gives it",
        "rounds": options.rounds,
        "tiny": options.tiny,
        "lines": [],
    }
    for model, what in itertools.product(options.models, options.what):
        sys.stderr.write(f"{model}, {what}\n")
        line = measured(model, what, options)
        found |= {"device": line["processor"], "threads": line["threads"]}
        found["peak"] = _peak(line["processor"], options)
        found["lines"].append(line)
        table = write(options.out, found)  # after each, so that one that breaks takes no other with it
    sys.stdout.write(table)


if __name__ == "__main__":
    main()
