"""Commands that are killed (SIGKILL) at a random time, and run again until they end."""

from collections.abc import Callable, Iterator
import pathlib
import random
import shutil
import time
from typing import Any

import numpy as np
import soundfile

from tests.reliability.base import TINY, Bench, Counts, Scale, classify, signature

STAGE = """
from esc_jax import config as base

def get_config():
    config = base.load("tests/configs/tiny.py")
    config.pretrain = base.pretrain_defaults("simclr")
    config.pretrain.update(batch_size=16, epochs=4, monitor_epochs=2, checkpoint_epochs=1)
    config.train.epochs = 1
    return config
"""


def _archive(folder: pathlib.Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.rglob("*.wav.csv")}


def _arrays(path: pathlib.Path) -> dict[str, bytes]:
    with np.load(path) as file:
        return {name: file[name].tobytes() for name in file.files}


def run(bench: Bench, scale: Scale, rng: random.Random) -> Iterator[tuple[str, Counts]]:
    """Yields (command, counts of outcomes)."""
    sounds, live = bench.folder / "sounds", bench.folder / "killed"
    sounds.mkdir()
    for number in range(30):
        noise = 0.1 * np.random.default_rng(number).standard_normal(32_000)
        soundfile.write(sounds / f"{number}.wav", noise, 16_000)
    stage = bench.folder / "stage.py"
    stage.write_text(STAGE)
    model = bench.folder / "model"
    assert bench.run("main", TINY, "--config.train.epochs=1", f"--workdir={model}").returncode == 0
    workdir = f"--workdir={live}"
    commands: dict[str, tuple[tuple[str, ...], Callable[[], Any]]] = {
        "train": (("main", TINY, workdir), lambda: signature(live)),
        "train, protocol=validation": (
            ("main", TINY, "--config.protocol=validation", workdir), lambda: signature(live)
        ),
        "SimCLR, then train": (("main", f"--config={stage}", workdir), lambda: signature(live)),
        "cross-validation": (
            ("main", TINY, "--mode=crossval", "--config.crossval.folds=(1,2)", workdir), lambda: signature(live)
        ),
        "vectorized cross-validation": (
            ("main", TINY, "--mode=crossval", "--config.crossval.folds=(1,2)", "--config.crossval.vectorized=True",
             workdir),
            lambda: signature(live),
        ),
        "probe": (("main", TINY, "--config.method=probe", workdir), lambda: signature(live)),
        "predict --out": (
            ("predict", f"--model={model}", "--hop_s=0.1", f"--out={live}", str(sounds)), lambda: _archive(live)
        ),
        "embed": (
            ("embed", f"--model={model}", f"--out={live / 'embeddings.npz'}", str(sounds)),
            lambda: _arrays(live / "embeddings.npz"),
        ),
    }  # fmt: skip
    chosen = list(commands)[:: 6 if scale.cases < 8 else 1]  # the short form: training and archives
    for name in chosen:
        command, result = commands[name]
        started = time.monotonic()
        done = bench.run(*command)
        if done.returncode:
            raise AssertionError(f"{name}: {done.stderr[-2000:]}")
        length_s, expected = time.monotonic() - started, result()
        counts: Counts = Counts()
        for _ in range(max(1, scale.cases // 3)):
            shutil.rmtree(live)
            for _ in range(rng.randint(1, 3)):
                bench.run(*command, kill_after_s=rng.uniform(0.1, 1.0) * length_s)
            done = bench.run(*command)
            outcome = classify(done, done.returncode == 0 and result() == expected, must_work=True)
            counts[outcome] += 1
            if outcome not in ("as before", "noted or repaired"):
                print(f"{name}: {outcome}\n{done.stderr[-1500:]}", flush=True)  # noqa: T201
        shutil.rmtree(live)
        yield f"{name}, killed one to three times", counts
