"""Time and memory as functions of batch size, number of folds, length of recordings and number of clips.

    python benchmarks/scaling.py --model=runs/NAME
    python benchmarks/scaling.py --what batch clips --out=DIR

Every size is measured in a process of its own, whose maximum resident set is reported as memory. Times are medians over
rounds after one that compiles.

- batch: a training step of the config on noise with random weights, at batch sizes 1 to 64.
- folds: `experiments.probe_heads.fit` on random embeddings (2,000 × 384, 50 classes, eight folds) with 1, 2, 4 and 8
  test folds. Heads are fitted for every fold, every pair of folds and every regularization strength. The first call,
  which compiles, is reported separately.
- audio: prediction on recordings of 1 minute to 4 hours, as in prediction.py, in one round. Needs --model.
- clips: one epoch of `pipeline.train_batches` on 1,000 to 16,000 clips of the config's length in batches of 32. The
  clips are 60 synthesized ones that repeat, so that memory is that of the pipeline; the memory before the epoch is
  reported beside it.

The benchmark prints Markdown tables and writes scaling.json, scaling.md and scaling.png to --out.
"""

import argparse
from collections.abc import Callable, Sequence
import contextlib
import json
import pathlib
import resource
import statistics
import sys
import time

import numpy as np
import record
import subprocesses

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
SIZES = {
    "batch": (1, 2, 4, 8, 16, 32, 64),
    "folds": (1, 2, 4, 8),
    "audio": (1, 10, 60, 240),
    "clips": (1_000, 2_000, 4_000, 8_000, 16_000),
}
TINY = {"batch": (2, 4), "folds": (1, 2), "audio": (1, 2), "clips": (32, 64)}
DISTINCT = 60  # clips before they repeat

# Of each panel: label of the sizes, unit of time, columns of time (left axis) and of memory (right axis).
PANELS = {
    "batch": ("batch size", "milliseconds", ("ms per step", "ms per clip"), ("peak memory, MiB",)),
    "folds": ("test folds", "seconds", ("seconds", "with compilation"), ("peak memory, MiB",)),
    "audio": ("minutes of audio", "seconds", ("seconds",), ("peak memory, MiB",)),
    "clips": ("clips", "seconds per epoch", ("seconds",), ("peak memory, MiB", "initial memory, MiB")),
}


def _peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024  # KiB on Linux


def _seconds(call: Callable[[], object], rounds: int) -> list[float]:
    return record.time_alternating({"": call}, rounds)[""]


def _summary(seconds: Sequence[float], factor: float, name: str) -> dict[str, float]:
    values = (statistics.median(seconds), min(seconds), max(seconds))
    return {key: round(factor * value, 3) for key, value in zip((name, "from", "to"), values, strict=True)}


def batch(options: argparse.Namespace, size: int) -> dict:
    """A training step at one batch size."""
    import jax
    import synthetic_step

    from esc_jax import config as configs

    config = configs.load(options.config)
    config.train.batch_size = size
    call, _ = synthetic_step.train_call(config)
    times = _summary(_seconds(lambda: jax.block_until_ready(call()), options.rounds), 1e3, "ms per step")
    per_clip = {"ms per clip": round(times["ms per step"] / size, 3)}
    return {"batch": size} | times | per_clip | {"peak memory, MiB": _peak_mib()}


def folds(options: argparse.Namespace, count: int) -> dict:
    """Linear probes that test `count` of eight folds."""
    from esc_jax.experiments import probe_heads
    from esc_jax.tasks import registry as tasks

    task = tasks.get("single_label")
    number, width, classes = (160, 16, 5) if options.tiny else (2000, 384, 50)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, number, width)).astype(np.float32)
    labels, fold_of = rng.integers(0, classes, number).astype(np.int32), np.arange(number) % 8 + 1
    test_folds = range(1, count + 1)

    def call() -> None:
        probe_heads.fit(task, x, labels, fold_of, test_folds, classes)

    started = time.perf_counter()
    call()
    first = {"with compilation": round(time.perf_counter() - started, 3)}
    times = _summary(_seconds(call, options.rounds), 1.0, "seconds")
    return {"test folds": count} | times | first | {"peak memory, MiB": _peak_mib()}


def audio(options: argparse.Namespace, minutes: int) -> dict:
    """Prediction on one recording."""
    import prediction

    return prediction.measure(options.model, minutes)


def clips(options: argparse.Namespace, count: int) -> dict:
    """One epoch of batches."""
    from esc_jax import config as configs
    from esc_jax.data import audio as audio_files
    from esc_jax.data import pipeline, synthetic
    from esc_jax.data.clips import Clips

    data = configs.load(options.config).data
    names = tuple(synthetic.CLASSES)
    waveforms = [synthetic.clip(names[i % len(names)], np.random.default_rng(i)) for i in range(DISTINCT)]
    stored = [
        audio_files.to_int16(audio_files.to_mono(waveform[:, None], synthetic.RATE, data.sample_rate))
        for waveform in waveforms
    ]
    repeated = Clips(
        labels=np.arange(count, dtype=np.int32) % len(names),
        folds=(1,) * count,
        sources=("",) * count,
        filenames=("",) * count,
        classes=names,
        sample_rate=data.sample_rate,
        samples=np.array([len(stored[index % DISTINCT]) for index in range(count)]),
        length=round(data.clip_s * data.sample_rate),
        fingerprint="repeated",
        bad={},
        fetch=lambda index: stored[index % DISTINCT],
    )

    def call() -> None:
        with contextlib.closing(pipeline.train_batches(repeated, range(count), 32, seed=0)) as batches:
            for _ in range(count // 32):
                next(batches)

    initial = _peak_mib()
    times = _summary(_seconds(call, options.rounds), 1.0, "seconds")
    rate = {"clips per second": round(count / times["seconds"]), "audio, MiB": count * repeated.length * 2 >> 20}
    return {"clips": count} | times | rate | {"initial memory, MiB": initial, "peak memory, MiB": _peak_mib()}


MEASURES = {"batch": batch, "folds": folds, "audio": audio, "clips": clips}


def draw(tables: dict[str, list[dict]], path: pathlib.Path) -> None:
    """Draws a panel for each table: time in solid lines, memory in dotted lines, proportional time dashed."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    columns = min(2, len(tables))
    rows = -(-len(tables) // columns)
    figure = Figure(figsize=(6.2 * columns, 4.2 * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels:
        axes.axis("off")
    for axes, (what, lines) in zip(panels, tables.items(), strict=False):
        size, unit, times, memories = PANELS[what]
        axes.axis("on")
        x = [next(iter(line.values())) for line in lines]
        memory = axes.twinx()
        for axis, names, style, marker, colors in (
            (axes, times, "-", "o", ("tab:blue", "tab:cyan")),
            (memory, memories, ":", "s", ("tab:red", "tab:orange")),
        ):
            for name, color in zip(names, colors, strict=False):
                y = [max(line[name], 1e-3) for line in lines]  # a time rounded to 0 has no logarithm
                axis.plot(x, y, style, marker=marker, markersize=4, color=color, label=name)
            axis.set_yscale("log")
        last = max(lines[-1][times[0]], 1e-3)
        axes.plot(x, [last * value / x[-1] for value in x], "--", color="0.6", linewidth=1, label="proportional")
        axes.set_xscale("log")
        axes.set_xticks(x, [f"{value:,g}" for value in x])
        axes.set_xticks([], minor=True)
        # At least a decade, so that constant memory looks constant.
        values = [line[name] for line in lines for name in memories]
        memory.set_ylim(min(values) / 3, max(max(values) * 1.5, min(values) * 4))
        for axis in (axes, memory):
            axis.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
            axis.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(size)
        axes.set_ylabel(unit)
        memory.set_ylabel("resident memory, MiB")
        axes.grid(alpha=0.3)
        handles = [handle for axis in (axes, memory) for handle in axis.get_legend_handles_labels()[0]]
        memory.legend(handles=handles, fontsize=8, loc="upper left")
    figure.savefig(path, dpi=120)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", nargs="+", choices=tuple(SIZES), default=tuple(SIZES), help="default: all")
    parser.add_argument("--config", help="for batch and clips (default: configs/resnet34_cpu.py)")
    parser.add_argument("--model", help="workdir of a finished run, for audio")
    parser.add_argument("--rounds", type=int, default=3, help="counted rounds (default: %(default)s)")
    parser.add_argument("--out", default=record.RESULTS, help="folder of the files (default: benchmarks/results)")
    parser.add_argument("--tiny", action="store_true", help="two small sizes of each, for tests")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.config = options.config or str(
        ROOT / ("tests/configs/tiny.py" if options.tiny else "configs/resnet34_cpu.py")
    )
    if options.one:
        from esc_jax.runtime import xla

        xla.initialize()
        what, size = options.one
        sys.stdout.write(json.dumps(MEASURES[what](options, int(size))) + "\n")
        return
    chosen = [what for what in SIZES if what in options.what]
    if "audio" in chosen and not options.model:
        chosen.remove("audio")
        sys.stdout.write("Prediction on long recordings is skipped: it needs --model.\n\n")
    if not chosen:
        parser.error("nothing to measure: audio needs --model")
    sizes = TINY if options.tiny else SIZES
    tables = {
        what: [subprocesses.run_json(__file__, [*sys.argv[1:], "--one", what, str(size)]) for size in sizes[what]]
        for what in chosen
    }
    sys.stdout.write(record.save("scaling", tables, options.out))
    draw(tables, pathlib.Path(options.out) / "scaling.png")


if __name__ == "__main__":
    main()
