"""Training steps and predictions of esc_jax and of PyTorch.

    python benchmarks/models.py
    python benchmarks/models.py --models resnet34 mn04 --what train predict --rounds 5 --out=OUTDIR

Each framework runs in a process of its own with the same configuration, the same batch of noise on the device, 50
classes, random weights and the same number of parameters. Everything is compiled first. Then rounds of the two
frameworks alternate. A round makes as many consecutive calls as take two seconds and gives seconds per call; the first
round and the first call of each round are not counted (`record.time_alternating`). The table has medians over rounds,
minima and maxima, and the ratio of PyTorch's median to that of esc_jax: above 1, esc_jax is faster. Run nothing else
meanwhile: PyTorch's threads synchronize after every operation, so that other processes slow it down more. The load
average at the start is recorded.

`train` is forward pass, cross-entropy, backward pass and AdamW update, with BatchNorm and dropout in training mode. In
esc_jax it is the step of a run (`training.step.train_step` under `devices.pmap_step` on one device, after
`xla.initialize`), metrics included, without augmentation. In PyTorch it is the loss and AdamW(fused=True). `predict`
is the forward pass to probabilities in evaluation mode: `training.step.predict_step`, and `torch.inference_mode`. The
input is what frontends return: spectrograms, or the waveform for DistilHuBERT. Decoding, resampling, augmentation, the
frontend and the copy of a batch from the host are not measured.

--batch is one size for all networks, or one for each of --models.

With --together, the processes of all networks compile at the same time, before the first one is timed. This saves time
on a GPU that has enough memory for all of them. Libraries that choose algorithms by timing them are then disturbed by
the other processes.

PyTorch runs eagerly, or compiled with --compile. Its images are in channels_last, or contiguous with --channels_first,
which is PyTorch's default and the layout of EfficientAT's published code. --keep_memory applies `runtime.memory` to its
process. It uses as many threads as there are cores, and on a GPU TF32 and cuDNN's benchmark mode, as XLA does.
--dtype=bfloat16 is `model.dtype` in esc_jax and `torch.autocast` in PyTorch, with weights in float32. The PyTorch
networks are those of `torch_models.py`; EfficientNet-B0 (one input channel) and DistilHuBERT are classes of
transformers. Stochastic depth (EfficientNet) and layer drop (BEATs, HuBERT) are off in both frameworks, since their
implementations differ in what they drop. Dropout is on.

If JAX finds a GPU, both frameworks use it, and the table has the share of the GPU's peak: FLOPs of the forward pass of
esc_jax, counted by XLA before optimization (three times that for training), over time, over dense bfloat16 FLOP/s. For
float32 and for GPUs that are not listed here, give the peak with --peak_tflops.
"""

import argparse
from collections.abc import Callable, Mapping
import contextlib
import dataclasses
import datetime
import functools
import json
import os
import pathlib
import statistics
import sys
from typing import Any

from frameworks import CLASSES, FrameworkProcess, alternate, jax_calls, random_model, serve, torch_calls
import numpy as np
import record
import subprocesses

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
FRAMEWORKS = ("esc_jax", "PyTorch")
ROUND_SECONDS = 2.0
LR = 1e-4

# Dense bfloat16 FLOP/s by a part of the GPU's name.
PEAKS = {"H200": 989e12, "H100 80GB HBM3": 989e12, "A100": 312e12}


@dataclasses.dataclass(frozen=True)
class Case:
    """A network to measure.

    Attributes:
        architecture: key of `models.registry.ENCODERS`.
        batch: batch size for two cores.
        shape: features of an example, (frames, bins) or (samples,).
        encoder: options that differ from the defaults.
        head: name and options of the head.
        tiny: further encoder options with --tiny.
        tiny_shape: features of an example with --tiny.
    """

    architecture: str
    batch: int
    shape: tuple[int, ...]
    encoder: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    head: tuple[str, Mapping[str, Any]] = ("linear", {})
    tiny: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tiny_shape: tuple[int, ...] = (64, 32)

    def config(self, tiny: bool) -> Any:
        """A complete config without augmentation, with AdamW at a constant learning rate."""
        from esc_jax import config as configs

        name, options = self.head
        config = configs.defaults(self.architecture, name)
        config.model.encoder.update(dict(self.encoder) | (dict(self.tiny) if tiny else {}))
        config.model.head.update(dict(options))
        config.optim.schedule, config.optim.lr = "constant", LR
        return config


_SMALL = {"encoder_layers": 2, "encoder_embed_dim": 48, "encoder_ffn_embed_dim": 96, "embed_dim": 32}
CASES = {
    "resnet34": Case("resnet", 32, (256, 128), tiny={"stage_sizes": (1, 1), "width": 8}),
    "mn04": Case("efficientat", 16, (500, 128), {"width_mult": 0.4}, ("mlp", {"width": 512}), {"width_mult": 0.1}),
    "mn10": Case("efficientat", 16, (500, 128), {"width_mult": 1.0}, ("mlp", {"width": 1280}), {"width_mult": 0.1}),
    "efficientnet_b0": Case(
        "efficientnet",
        16,
        (500, 128),
        # transformers pads differently from the paper and has another stochastic depth.
        {"same_padding": "transformers", "drop_connect_rate": 0.0},
        ("linear", {"dropout": 0.2}),
        {"width_coefficient": 0.25},
    ),
    "distilhubert": Case(
        "hubert",
        4,
        (80_000,),
        {"layerdrop": 0.0},
        ("projected", {}),
        {"hidden_size": 48, "intermediate_size": 96, "conv_dim": (32,) * 7},
        (4000,),
    ),
    "beats": Case("beats", 2, (498, 128), {"encoder_layerdrop": 0.0}, tiny=_SMALL),
}


def forward_flops(model: Any, shape: tuple[int, ...]) -> float | None:
    """FLOPs of the forward pass of a `Model`, counted by XLA before optimization; None without a CPU backend."""
    import jax
    import jax.numpy as jnp

    variables = jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype), model.variables)
    features = jax.ShapeDtypeStruct(shape, jnp.float32)
    try:
        # The GPU backend counts compiled programs only, in which convolutions are library calls. The CPU backend counts
        # the program for a GPU: some layers are implemented differently on CPU.
        with jax.default_device(jax.devices("cpu")[0]):
            lowered = jax.jit(model.module.apply).trace(variables, features).lower(lowering_platforms=("cuda",))
            return float(lowered.cost_analysis()["flops"])
    except RuntimeError:  # or its subclass NotImplementedError
        return None


def prepare(
    name: str, what: str, framework: str, options: argparse.Namespace
) -> tuple[dict[str, Any], Callable[[int], None]]:
    """A network in one framework, in this process: its description, and a function of a number of calls."""
    case = CASES[name]
    config = case.config(options.tiny)
    config.model.dtype = options.dtype
    shape = case.tiny_shape if options.tiny else case.shape
    batch = options.batch[0] or (2 if options.tiny else case.batch)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, *shape), np.float32)
    labels = rng.integers(0, CLASSES, batch).astype(np.int32)
    device, threads = start(framework, options)
    about = {"model": name, "what": what, "batch": batch, "features": shape, "device": device, "threads": threads}
    if framework == "PyTorch":
        call, parameters = torch_calls(what, config, x, labels, options, device)
        return about | {"parameters": parameters}, call
    import jax

    model = random_model(config, shape)
    flops = forward_flops(model, x.shape)
    about |= {"parameters": model.parameter_count, "flops": flops and flops * (3 if what == "train" else 1)}
    about["processor"] = record.processor() if device == "cpu" else jax.devices()[0].device_kind
    return about, jax_calls(what, config, model, x, labels)


def start_processes(name: str, batch: int, what: str, stack: contextlib.ExitStack) -> dict[str, FrameworkProcess]:
    """The processes of one network for "train" or "predict", which end with the stack."""
    chosen = [f"--models={name}", f"--batch={batch}", f"--what={what}"]
    command = [sys.executable, __file__, *sys.argv[1:], *chosen]
    return {
        framework: stack.enter_context(FrameworkProcess([*command, f"--framework={framework}"]))
        for framework in FRAMEWORKS
    }


def measure(name: str, processes: Mapping[str, FrameworkProcess], options: argparse.Namespace) -> dict[str, Any]:
    """The figures of one network."""
    about, other = (process.about for process in processes.values())
    for key in ("parameters", "device"):
        if about[key] != other[key]:
            sys.exit(f"{name}: {key} is {about[key]} in esc_jax and {other[key]} in PyTorch: cannot compare them")
    return about | {"seconds": alternate(processes, options.rounds, 0.0 if options.tiny else ROUND_SECONDS)}


def table_row(line: dict[str, Any], peak: float | None) -> dict[str, Any]:
    """A row of the table."""
    medians = {framework: statistics.median(seconds) for framework, seconds in line["seconds"].items()}
    shown = {
        "model": line["model"],
        "what": line["what"],
        "batch": f"{line['batch']} × {' × '.join(map(str, line['features']))}",
    }
    for framework, seconds in line["seconds"].items():
        low, median, high = (f"{1000 * s:.4g}" for s in (min(seconds), medians[framework], max(seconds)))
        shown[f"{framework}, ms"] = f"{median} ({low}–{high})"
    shown["PyTorch / esc_jax"] = f"{medians['PyTorch'] / medians['esc_jax']:.2f}"
    if peak:
        for framework, median in medians.items():
            shown[f"{framework}, share of peak"] = f"{line['flops'] / median / peak:.1%}" if line["flops"] else ""
    return shown


def _peak(processor: str, options: argparse.Namespace) -> float | None:
    """Peak FLOP/s of a processor; None if unknown."""
    known = (flops for part, flops in PEAKS.items() if part in processor and options.dtype == "bfloat16")
    return options.peak_tflops * 1e12 or next(known, None)


def start(framework: str, options: argparse.Namespace) -> tuple[str, int]:
    """Sets up the process of a framework; returns its device, as PyTorch names it, and its number of threads."""
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if framework == "esc_jax":
        from esc_jax.runtime import xla

        # Both frameworks share the GPU: JAX must not allocate most of its memory at the start.
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


def write(out: pathlib.Path, results: dict[str, Any]) -> str:
    """Writes models.json, with the seconds of every round, and models.md; returns the table."""
    out.mkdir(parents=True, exist_ok=True)
    table = subprocesses.markdown_table([table_row(line, results["peak"]) for line in results["lines"]])
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    head = (
        f"{results['device']}, {results['threads']} threads, load at the start {results['load']:.1f},"
        f" {results['dtype']}, PyTorch {'compiled' if results['compiled'] else 'eager'}, {results['layout']},"
        f" memory {results['memory']}, {results['rounds']} rounds, {results['date']}"
    )
    (out / "models.json").write_text(json.dumps(results, indent=1) + "\n")
    (out / "models.md").write_text(f"{head}; {versions}\n\n{table}")
    return table


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `prepare` and the folder of the results."""
    add = parser.add_argument
    add("--models", nargs="+", choices=CASES, default=list(CASES), help="default: all")
    add("--what", nargs="+", choices=("train", "predict"), default=["train", "predict"])
    add("--batch", type=int, nargs="+", default=[0], help="batch size, or one of each network (default: for two cores)")
    add("--dtype", choices=("float32", "bfloat16"), default="float32")
    add("--compile", action="store_true", help="use torch.compile")
    add("--channels_first", action="store_true", help="contiguous images in PyTorch")
    add("--keep_memory", action="store_true", help="apply runtime.memory to PyTorch's process")
    add("--tiny", action="store_true", help="small networks, for tests")
    add("--out", type=pathlib.Path, default=record.RESULTS, help="folder of the results")
    add("--framework", choices=FRAMEWORKS, help=argparse.SUPPRESS)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments(parser)
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds (default: %(default)s)")
    parser.add_argument("--together", action="store_true", help="start and compile all networks at once")
    parser.add_argument("--peak_tflops", type=float, default=0.0, help="peak of the processor")
    options = parser.parse_args()
    if options.framework:
        (name,), (what,) = options.models, options.what
        serve(functools.partial(prepare, name, what, options.framework, options), call_first=options.together)
        return
    results = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "load": record.LOAD,
        "versions": record.versions(),
        "dtype": options.dtype,
        "compiled": options.compile,
        "layout": "channels_first" if options.channels_first else "channels_last",
        "memory": "kept" if options.keep_memory else "malloc default",
        "rounds": options.rounds,
        "tiny": options.tiny,
        "lines": [],
    }
    batches = options.batch * (len(options.models) if len(options.batch) == 1 else 1)
    if len(batches) != len(options.models):
        parser.error("--batch takes one number, or as many as --models has names")
    cases = [(*case, what) for case in zip(options.models, batches, strict=True) for what in options.what]
    with contextlib.ExitStack() as together:
        started = {case: start_processes(*case, together) for case in cases if options.together}
        for process in (process for processes in started.values() for process in processes.values()):
            _ = process.about  # all are ready before the first is timed
        for case in cases:
            model, _, what = case
            sys.stderr.write(f"{model}, {what}\n")
            with contextlib.ExitStack() as stack:
                line = measure(model, started.get(case) or start_processes(*case, stack), options)
            results |= {"device": line["processor"], "threads": line["threads"]}
            results["peak"] = _peak(line["processor"], options)
            results["lines"].append(line)
            table = write(options.out, results)  # after each network, so that a later failure loses nothing
    sys.stdout.write(table)


if __name__ == "__main__":
    main()
