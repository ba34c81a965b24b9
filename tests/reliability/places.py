"""Folders and machines that are unusual: names, a full disk, folders that cannot be written, no home."""

from collections.abc import Iterator
import random
import shutil
import subprocess
import sys

import numpy as np
import soundfile

from tests.commands import ROOT
from tests.reliability.base import TINY, Bench, Counts, Scale, classify


def _limited(bench: Bench, kib: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a command whose files cannot grow beyond a size, as on a full disk."""
    command, *rest = arguments
    module = ["esc_jax.main"] if command == "main" else ["esc_jax", command]
    line = ["bash", "-c", f'ulimit -f {kib}; exec "$@"', "limited", sys.executable, "-m", *module, *rest]
    return subprocess.run(line, cwd=ROOT, env=bench.environment, capture_output=True, text=True, timeout=300)


def run(bench: Bench, scale: Scale, rng: random.Random) -> Iterator[tuple[str, Counts]]:
    """Yields (kind of place, counts of outcomes)."""
    del rng
    odd = bench.folder / "ümlaut 雨 $x$ 'quote' (1)"
    deep = bench.folder / "/".join(["long" * 12] * 4)
    model, sound = odd / "run", odd / "söund=1.wav"
    odd.mkdir()
    deep.mkdir(parents=True)
    soundfile.write(sound, 0.1 * np.random.default_rng(0).standard_normal(40_000), 16_000)
    short = "--config.train.epochs=1"
    works: list[tuple[str, ...]] = [
        ("main", TINY, short, f"--workdir={model}"),
        ("predict", f"--model={model}", f"--csv={odd / 'ö.csv'}", f"--plot={odd / 'ö.png'}", str(sound)),
        ("predict", f"--model={model}", f"--out={odd / 'résultats'}", str(odd)),
        ("embed", f"--model={model}", f"--out={odd / 'ë.npz'}", str(sound)),
        ("report", str(odd), f"--out={deep / 'report'}"),
        ("export", f"--model={model}", f"--out={deep / 'export'}", "--format=stablehlo"),
        ("main", TINY, short, f"--workdir={deep / 'run'}"),
    ]
    counts: Counts = Counts()
    for command in works[: max(3, scale.cases)]:
        done = bench.run(*command)
        counts[classify(done, True, must_work=True)] += 1
        _show(command, done, done.returncode != 0)
    yield "unusual names", counts
    refused: list[tuple[str, ...]] = [
        ("main", TINY, short, "--workdir=/proc/nothing/run"),
        ("main", TINY, short, f"--workdir={sound}"),
        ("main", TINY, short, f"--workdir={bench.folder / '[1]'}"),
        ("main", TINY, short, f"--workdir={bench.folder / ('x' * 300)}"),
        ("main", TINY, short, "--workdir=gs://bucket/run"),
        ("predict", f"--model={model}", "--csv=/proc/nothing.csv", str(sound)),
        ("predict", f"--model={model}", "--out=/proc/nothing", str(sound)),
        ("embed", f"--model={model}", "--out=/proc/nothing.npz", str(sound)),
        ("report", str(odd), "--out=/proc/nothing"),
    ]
    counts = Counts()
    for command in refused[: max(3, scale.cases)]:
        done = bench.run(*command)
        outcome = classify(done, False)
        counts[outcome] += 1
        _show(command, done, outcome != "refused")
    yield "folders that cannot be written", counts
    counts = Counts()
    homeless = {"HOME": "/proc/nothing", "XDG_CACHE_HOME": "", "ESC_JAX_CACHE": ""}
    for command in (works[1], works[3]):
        done = bench.run(*command, **homeless)
        counts[classify(done, True, must_work=True)] += 1
        _show(command, done, done.returncode != 0)
    yield "no home folder", counts
    counts = Counts()
    full: list[tuple[int, tuple[str, ...]]] = [
        (8, ("main", TINY, short, f"--workdir={bench.folder / 'full'}")),
        (1, ("predict", f"--model={model}", "--hop_s=0.1", f"--json={odd / 'full.json'}", str(sound))),
        (1, ("predict", f"--model={model}", "--hop_s=0.1", f"--out={odd / 'full'}", str(sound))),
        (1, ("embed", f"--model={model}", f"--out={odd / 'full.npz'}", str(sound))),
        (4, ("report", str(odd), f"--out={odd / 'full_report'}")),
    ]
    for kib, command in full[: max(2, scale.cases)]:
        done = _limited(bench, kib, *command)
        outcome = classify(done, False)
        counts[outcome] += 1
        _show(command, done, outcome != "refused")
    shutil.rmtree(bench.folder / "full", ignore_errors=True)
    yield "a full disk", counts


def _show(command: tuple[str, ...], done: subprocess.CompletedProcess[str], unexpected: bool) -> None:
    if unexpected:
        print(f"{' '.join(command)}: {done.returncode}\n{done.stderr[-1500:]}", flush=True)  # noqa: T201
