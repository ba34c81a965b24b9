"""Throughput of the input pipeline, the time that training steps wait for it, and the time of data preparation.

    python benchmarks/input_pipeline.py
    python benchmarks/input_pipeline.py --data_dir=ESC-50-master --config=configs/resnet34_cpu.py --what epoch waiting

The clips are those of --data_dir, or synthesized ones. Sample rate and clip length are those of the config. Data are
prepared in the user's cache ($ESC_JAX_CACHE), as for training. Three tables:

- epoch: one epoch of shuffled batches without the last incomplete one, by `pipeline.train_batches` on prepared clips
  (two threads), and by a torch DataLoader on the same clips as 16-bit wav files at the same rate, read with soundfile
  (two persistent worker processes). A check before the measurement ensures that both return the same samples. The two
  alternate; times are medians over rounds, without the first. Files are in the page cache. Needs torch.
- waiting: training steps of the config with batches of the pipeline, and with one constant batch. The time in
  `next(batches)`, the first batch included, is compared with the total. It overlaps with the previous step, whose
  metrics are read after the next step is dispatched: a device is idle for at most that time.
- preparation: from a data set in the layout of ESC-50, wav files at 44.1 kHz, to a prepared data set at the config's
  sample rate, in a new cache folder each time. It is measured for all clips and for a tenth of them.

The benchmark prints Markdown and writes input_pipeline.json and input_pipeline.md to --out.
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
from typing import Any

import numpy as np
import record
import soundfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
MEASUREMENTS = ("epoch", "waiting", "preparation")
OFFICIAL_RATE = 44_100
ESC50_COLUMNS = ("filename", "fold", "target", "category", "esc10", "src_file", "take")


class WavFiles:
    """Clips as files DIR/0.wav, DIR/1.wav, …, for a torch DataLoader, whose workers import this class."""

    def __init__(self, folder: str, labels: Sequence[int]):
        self.folder, self.labels = folder, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return soundfile.read(f"{self.folder}/{index}.wav", dtype="int16")[0], self.labels[index]


def epoch(clips: Any, indices: Sequence[int], batch: int, rounds: int) -> list[dict]:
    """A row for each loader. `indices` fill whole batches, so that every epoch has every clip."""
    import torch

    from esc_jax.data import pipeline

    def grain_batches() -> Iterator[np.ndarray]:
        with contextlib.closing(pipeline.train_batches(clips, indices, batch, seed=0)) as batches:
            for _ in range(len(indices) // batch):
                yield next(batches)["audio"]

    with tempfile.TemporaryDirectory() as folder:
        for number, index in enumerate(indices):
            soundfile.write(f"{folder}/{number}.wav", clips.read([index])[0], clips.sample_rate, subtype="PCM_16")
        loader = torch.utils.data.DataLoader(
            WavFiles(folder, [int(clips.labels[index]) for index in indices]),
            batch_size=batch,
            shuffle=True,
            drop_last=True,
            num_workers=2,
            persistent_workers=True,
            # A process with threads, such as JAX's, must not be forked.
            multiprocessing_context="spawn",
        )

        def torch_batches() -> Iterator[np.ndarray]:
            for audio, _ in loader:
                yield audio.numpy()

        loaders = {"esc_jax": grain_batches, "torch DataLoader, wav files": torch_batches}
        sums = {name: sum(int(audio.sum(dtype=np.int64)) for audio in loader()) for name, loader in loaders.items()}
        if len(set(sums.values())) > 1:
            raise SystemExit(f"the loaders return different clips: {sums}")
        times = record.time_alternating(
            {name: lambda loader=loader: sum(1 for _ in loader()) for name, loader in loaders.items()}, rounds
        )
    reference = statistics.median(times["esc_jax"])
    count = len(indices) // batch
    return [
        {
            "loader": name,
            "clips": len(indices),
            "batch": batch,
            "batches per second": round(count / statistics.median(seconds), 1),
            "from": round(count / max(seconds), 1),
            "to": round(count / min(seconds), 1),
            "clips per second": round(len(indices) / statistics.median(seconds)),
            "relative time": round(statistics.median(seconds) / reference, 2),
        }
        for name, seconds in times.items()
    ]


def waiting(config: Any, clips: Any, indices: Sequence[int], steps: int, rounds: int) -> list[dict]:
    """A row with the time of a training step and the time of it that is spent in `next`."""
    import jax
    import synthetic_step

    from esc_jax.data import pipeline
    from esc_jax.pretrained import load as pretrained
    from esc_jax.runtime import devices
    from esc_jax.training import optim
    from esc_jax.training import state as states

    config, model = pretrained.initialize(config, clips.classes)
    per_epoch = len(indices) // config.train.batch_size
    optimizer = optim.build(config.optim, model.variables["params"], per_epoch * config.train.epochs, per_epoch)
    step = devices.pmap_step(synthetic_step.supervised_step(config, model, optimizer))
    # Placed as the step returns it: with another placement, the second call would compile again.
    state = devices.replicate(states.create(model.variables, optimizer, ema=config.train.ema > 0, seed=config.seed))

    def run(batches: Iterator[dict[str, np.ndarray]]) -> tuple[float, float]:
        """Seconds per step, and seconds of them in `next`."""
        nonlocal state
        pending, in_next, started = None, 0.0, time.perf_counter()
        for _ in range(steps):
            requested = time.perf_counter()
            batch = next(batches)
            in_next += time.perf_counter() - requested
            state, metrics = step(state, batch)
            jax.block_until_ready(pending)  # one step behind, as in `training.loop`
            pending = metrics
        jax.block_until_ready(pending)
        return (time.perf_counter() - started) / steps, in_next / steps

    fed: list[tuple[float, float]] = []
    constant: list[float] = []
    for _ in range(rounds + 1):
        with contextlib.closing(pipeline.train_batches(clips, indices, config.train.batch_size, seed=0)) as batches:
            fed.append(run(batches))
            batch = next(batches)
        constant.append(run(itertools.repeat(batch))[0])
    total, waits = zip(*fed[1:], strict=True)
    shares = [100 * wait / seconds for seconds, wait in fed[1:]]
    return [
        {
            "config": config.experiment,
            "batch": config.train.batch_size,
            "steps": steps,
            "ms per step": round(1e3 * statistics.median(total), 2),
            "from": round(1e3 * min(total), 2),
            "to": round(1e3 * max(total), 2),
            "ms of them in next": round(1e3 * statistics.median(waits), 3),
            "percent": round(statistics.median(shares), 2),
            "max percent": round(max(shares), 2),
            "ms per step on a constant batch": round(1e3 * statistics.median(constant[1:]), 2),
        }
    ]


def write_esc50(folder: pathlib.Path, count: int) -> pathlib.Path:
    """Writes synthesized clips in the layout of ESC-50, as wav files at 44.1 kHz; returns the folder."""
    from esc_jax.data import audio, synthetic

    names = tuple(synthetic.CLASSES)
    (folder / "audio").mkdir(parents=True)
    (folder / "meta").mkdir()
    rows = []
    for number in range(count):
        target, fold = number % len(names), number % 5 + 1
        clip = synthetic.clip(names[target], np.random.default_rng(number))
        samples = audio.to_mono(clip[:, None], synthetic.RATE, OFFICIAL_RATE)
        filename = f"{fold}-{number}-A-{target}.wav"
        soundfile.write(folder / "audio" / filename, samples, OFFICIAL_RATE, subtype="PCM_16")
        rows.append((filename, fold, target, names[target], target < 10, number, "A"))
    with open(folder / "meta/esc50.csv", "w", newline="") as file:
        csv.writer(file).writerows([ESC50_COLUMNS, *rows])
    return folder


def preparation(config: Any, count: int, rounds: int) -> list[dict]:
    """A row for a tenth of `count` clips and one for all."""
    from esc_jax.data.datasets import registry as datasets

    with tempfile.TemporaryDirectory() as folder:
        counts = sorted({max(1, count // 10), count})
        folders = {number: write_esc50(pathlib.Path(folder) / str(number), number) for number in counts}

        def prepare(number: int) -> None:
            with tempfile.TemporaryDirectory() as cache:
                data = config.data.copy_and_resolve_references()
                data.update(name="esc50", dir=str(folders[number]), cache_dir=cache, clip_s=5.0)
                if len(datasets.load(data)) != number:
                    raise SystemExit(f"the prepared data set does not have {number} clips")

        times = record.time_alternating({number: lambda number=number: prepare(number) for number in counts}, rounds)
    return [
        {
            "clips": number,
            "Hz": f"{OFFICIAL_RATE} to {config.data.sample_rate}",
            "seconds": round(statistics.median(seconds), 1),
            "from": round(min(seconds), 1),
            "to": round(max(seconds), 1),
            "clips per second": round(number / statistics.median(seconds), 1),
        }
        for number, seconds in times.items()
    ]


def load(options: argparse.Namespace) -> tuple[Any, Any, np.ndarray]:
    """The config, its clips, and the indices of at most --clips clips that fill whole batches."""
    from esc_jax import config as configs
    from esc_jax.data import synthetic
    from esc_jax.data.datasets import registry as datasets

    config = configs.load(options.config)
    config.experiment, config.train.batch_size = pathlib.Path(options.config).stem, options.batch
    if options.data_dir:
        config.data.update(name="esc50", dir=options.data_dir)
    else:
        per_clip = synthetic.FOLDS * len(synthetic.CLASSES)
        config.data.update(name="synthetic", clips_per_fold=-(-options.clips // per_clip))
    clips = datasets.load(config.data)
    count = min(options.clips, len(clips)) // options.batch * options.batch
    if not count:
        raise SystemExit(f"{min(options.clips, len(clips))} clips do not fill a batch of {options.batch}")
    return config, clips, np.arange(count)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", nargs="+", choices=MEASUREMENTS, default=MEASUREMENTS, help="default: all")
    parser.add_argument("--config", help="of clips and steps (default: configs/resnet34_cpu.py)")
    parser.add_argument("--data_dir", help="a data set in the layout of ESC-50 (default: synthesized clips)")
    parser.add_argument("--clips", type=int, default=2000, help="clips per epoch (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="batch size (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=50, help="steps of `waiting` (default: %(default)s)")
    parser.add_argument("--prepare_clips", type=int, default=200, help="clips of `preparation` (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="counted rounds (default: %(default)s)")
    parser.add_argument("--out", default=record.RESULTS, help="folder of the files (default: benchmarks/results)")
    parser.add_argument("--tiny", action="store_true", help="short clips and a small network, for tests")
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
