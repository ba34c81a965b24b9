"""The way of the clips to the training step: batches per second, what a step waits for them, and the preparation.

    python benchmarks/input_pipeline.py
    python benchmarks/input_pipeline.py --data_dir=ESC-50-master --config=configs/resnet34_cpu.py --what epoch waiting

Clips are those of --data_dir, or as many synthesised ones; sample rate and length are the config's. Both are prepared
in the user's cache ($ESC_JAX_CACHE), as for a training. Three tables:

- epoch: one epoch of shuffled batches, the last incomplete one dropped, by `pipeline.train_batches` over the prepared
  clips (two threads) and by a torch DataLoader over the same clips, each a 16-bit wav file at the same rate, read with
  soundfile (two worker processes, which live on from epoch to epoch). Both give the same 16-bit samples, which is
  checked in an epoch before; then each in turn, medians over rounds after one that isn't counted. Files are in the page
  cache by then. It needs torch.
- waiting: training steps of the config, with the batches as they come, and with one batch again and again. The time
  inside `next(batches)`, the first one of all included, is set against the whole. It overlaps with the step before,
  whose metrics are read after the next step was dispatched: a device idles for that long at most.
- preparation: from a data set in the official layout, wav files at 44.1 kHz, to one that can be read at the config's
  rate, in a new cache folder each time. A tenth of the clips beside all: what both have in common is the start of
  TensorFlow.

Prints Markdown; input_pipeline.json and input_pipeline.md go to --out.
"""

import argparse
from collections.abc import Iterator, Sequence
import contextlib
import csv
import itertools
import pathlib
import statistics
import sys
import tempfile
import time

import numpy as np
import record
import soundfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
WHAT = ("epoch", "waiting", "preparation")
OFFICIAL_RATE = 44_100


class WavFiles:
    """Clips as files DIR/0.wav, DIR/1.wav, …: what a torch DataLoader takes, here where its workers can import it."""

    def __init__(self, folder: str, labels: Sequence[int]):
        self.folder, self.labels = folder, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return soundfile.read(f"{self.folder}/{index}.wav", dtype="int16")[0], self.labels[index]


def epoch(clips, indices: Sequence[int], batch: int, rounds: int) -> list[dict]:
    """A line for each of the two; `indices` fill whole batches, so that every epoch has every clip."""
    import torch

    from esc_jax.data import pipeline

    def ours() -> Iterator[np.ndarray]:
        with contextlib.closing(pipeline.train_batches(clips, indices, batch, seed=0)) as batches:
            for _ in range(len(indices) // batch):
                yield next(batches)["audio"]

    with tempfile.TemporaryDirectory() as folder:
        for place, index in enumerate(indices):
            soundfile.write(f"{folder}/{place}.wav", clips.read([index])[0], clips.sample_rate, subtype="PCM_16")
        loader = torch.utils.data.DataLoader(
            WavFiles(folder, [int(clips.labels[index]) for index in indices]),
            batch_size=batch,
            shuffle=True,
            drop_last=True,
            num_workers=2,
            persistent_workers=True,
            # A process that has threads, as one with JAX, must not be forked.
            multiprocessing_context="spawn",
        )

        def theirs() -> Iterator[np.ndarray]:
            for audio, _ in loader:
                yield audio.numpy()

        ways = {"esc_jax": ours, "torch DataLoader, wav files": theirs}
        sums = {name: sum(int(audio.sum(dtype=np.int64)) for audio in way()) for name, way in ways.items()}
        if len(set(sums.values())) > 1:
            raise SystemExit(f"the two don't give the same clips: {sums}")
        taken = record.in_turn({name: lambda way=way: sum(1 for _ in way()) for name, way in ways.items()}, rounds)
    ours_s = statistics.median(taken["esc_jax"])
    count = len(indices) // batch
    return [
        {
            "by": name,
            "clips": len(indices),
            "batch": batch,
            "batches per second": round(count / statistics.median(seconds), 1),
            "from": round(count / max(seconds), 1),
            "to": round(count / min(seconds), 1),
            "clips per second": round(len(indices) / statistics.median(seconds)),
            "times our time": round(statistics.median(seconds) / ours_s, 2),
        }
        for name, seconds in taken.items()
    ]


def waiting(config, clips, indices: Sequence[int], steps: int, rounds: int) -> list[dict]:
    """One line: the time of a training step, and how much of it is spent in `next`."""
    import jax

    from esc_jax import build
    from esc_jax.data import pipeline
    from esc_jax.runtime import devices
    from esc_jax.training import optim
    from esc_jax.training import state as states
    from esc_jax.training import step as training

    config, model, frontend, variables = build.start(config, clips.classes)
    per_epoch = len(indices) // config.train.batch_size
    optimizer = optim.build(config.optim, variables["params"], per_epoch * config.train.epochs, per_epoch)
    step = devices.pmap_step(training.train_step(model, frontend, optimizer, config, len(clips.classes)))
    # Where the step will leave it: from elsewhere, the second call would compile again.
    state = devices.replicate(states.create(variables, optimizer, ema=config.train.ema > 0, seed=config.seed))

    def run(batches: Iterator[dict[str, np.ndarray]]) -> tuple[float, float]:
        """Seconds of a step, and of them in `next`."""
        nonlocal state
        pending, waited, started = None, 0.0, time.perf_counter()
        for _ in range(steps):
            before = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - before
            state, metrics = step(state, batch)
            jax.block_until_ready(pending)  # one step behind, as `training.loop`
            pending = metrics
        jax.block_until_ready(pending)
        return (time.perf_counter() - started) / steps, waited / steps

    fed, alone = [], []
    for _ in range(rounds + 1):
        with contextlib.closing(pipeline.train_batches(clips, indices, config.train.batch_size, seed=0)) as batches:
            fed.append(run(batches))
            again = next(batches)
        alone.append(run(itertools.repeat(again))[0])
    whole, waits = zip(*fed[1:], strict=True)
    shares = [100 * wait / all_of_it for all_of_it, wait in fed[1:]]
    return [
        {
            "config": config.experiment,
            "batch": config.train.batch_size,
            "steps": steps,
            "ms per step": round(1e3 * statistics.median(whole), 2),
            "from": round(1e3 * min(whole), 2),
            "to": round(1e3 * max(whole), 2),
            "of them in next": round(1e3 * statistics.median(waits), 3),
            "percent": round(statistics.median(shares), 2),
            "most percent": round(max(shares), 2),
            "ms per step on one batch": round(1e3 * statistics.median(alone[1:]), 2),
        }
    ]


def official(folder: pathlib.Path, count: int) -> pathlib.Path:
    """Writes synthesised clips in the layout of ESC-50, as wav files at 44.1 kHz; returns the folder."""
    from esc_jax.data import audio, source, synthetic

    names = tuple(synthetic.CLASSES)
    (folder / "audio").mkdir(parents=True)
    (folder / "meta").mkdir()
    rows = []
    for number in range(count):
        target, fold = number % len(names), number % 5 + 1
        made = synthetic.clip(names[target], np.random.default_rng(number))
        samples = audio.to_mono(made[:, None], synthetic.RATE, OFFICIAL_RATE)
        filename = f"{fold}-{number}-A-{target}.wav"
        soundfile.write(folder / "audio" / filename, samples, OFFICIAL_RATE, subtype="PCM_16")
        rows.append((filename, fold, target, names[target], target < 10, number, "A"))
    with open(folder / "meta/esc50.csv", "w", newline="") as file:
        csv.writer(file).writerows([source.COLUMNS, *rows])
    return folder


def preparation(config, count: int, rounds: int) -> list[dict]:
    """Lines for a tenth of `count` clips and for all."""
    from esc_jax.data.datasets import registry as datasets

    with tempfile.TemporaryDirectory() as folder:
        counts = sorted({max(1, count // 10), count})
        trees = {number: official(pathlib.Path(folder) / str(number), number) for number in counts}

        def prepare(number: int) -> None:
            with tempfile.TemporaryDirectory() as cache:
                data = config.data.copy_and_resolve_references()
                data.update(name="esc50", dir=str(trees[number]), cache_dir=cache)
                if len(datasets.load(data)) != number:
                    raise SystemExit("clips were lost in the preparation")

        taken = record.in_turn({number: lambda number=number: prepare(number) for number in counts}, rounds)
    return [
        {
            "clips": number,
            "Hz": f"{OFFICIAL_RATE} to {config.data.sample_rate}",
            "seconds": round(statistics.median(seconds), 1),
            "from": round(min(seconds), 1),
            "to": round(max(seconds), 1),
            "clips per second": round(number / statistics.median(seconds), 1),
        }
        for number, seconds in taken.items()
    ]


def load(options: argparse.Namespace):
    """The config, its clips, and the indices of as many as --clips says that fill whole batches."""
    from esc_jax import config as configs
    from esc_jax.data.datasets import registry as datasets
    from esc_jax.data import synthetic

    config = configs.load(options.config)
    config.experiment, config.train.batch_size = pathlib.Path(options.config).stem, options.batch
    if options.data_dir:
        config.data.update(name="esc50", dir=options.data_dir)
    else:
        each = synthetic.FOLDS * len(synthetic.CLASSES)
        config.data.update(name="synthetic", clips_per_fold=-(-options.clips // each))
    clips = datasets.load(config.data)
    count = min(options.clips, len(clips)) // options.batch * options.batch
    if not count:
        raise SystemExit(f"{min(options.clips, len(clips))} clips make no batch of {options.batch}")
    return config, clips, np.arange(count)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", nargs="+", choices=WHAT, default=WHAT, help="default: all")
    parser.add_argument("--config", help="whose clips and steps (default: configs/resnet34_cpu.py)")
    parser.add_argument("--data_dir", help="a data set in the layout of ESC-50 (default: synthesised clips)")
    parser.add_argument("--clips", type=int, default=2000, help="of an epoch (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=50, help="of waiting (default: %(default)s)")
    parser.add_argument("--prepare_clips", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--out", default=record.RESULTS, help="folder of the files (default: benchmarks/results)")
    parser.add_argument("--tiny", action="store_true", help="a few clips of a second, a tiny network: for tests")
    options = parser.parse_args()
    options.config = options.config or ROOT / ("tests/configs/tiny.py" if options.tiny else "configs/resnet34_cpu.py")
    if options.tiny:
        options.clips, options.batch, options.steps, options.prepare_clips = 60, 8, 3, 1
    from esc_jax.runtime import xla

    xla.initialize()
    config, clips, indices = load(options)
    tables = {}
    if "epoch" in options.what:
        tables["epoch"] = epoch(clips, indices, options.batch, options.rounds)
    if "waiting" in options.what:
        tables["waiting"] = waiting(config, clips, indices, options.steps, options.rounds)
    if "preparation" in options.what:
        tables["preparation"] = preparation(config, options.prepare_clips, options.rounds)
    sys.stdout.write(record.save("input_pipeline", tables, options.out))


if __name__ == "__main__":
    main()
