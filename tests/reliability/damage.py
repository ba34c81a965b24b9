"""Files of a run and its cache are damaged, in four ways; then the run is resumed, used, tested and reported.

The same is done with a cross-validation, a probe with its cached embeddings, and masked prediction with its tokenizer:
there the same command is run again.
"""

from collections.abc import Callable, Iterator
import pathlib
import random
import shutil
from typing import Any

import numpy as np
import soundfile

from tests.reliability.base import TINY, Bench, Counts, Scale, classify, files_below, signature

KINDS = ("halved", "emptied", "deleted", *("one bit flipped",) * 10)
QUICK, NO_BOARD = "--config.train.epochs=1", "--config.train.tensorboard=False"
SETTINGS = (TINY, "--config.train.epochs=4", NO_BOARD, "--config.eval.tta=0")


MASKED = """
from esc_jax import config as base

def get_config():
    config = base.load("tests/configs/tiny.py")
    config.pretrain = base.pretrain_defaults("masked")
    config.pretrain.update(batch_size=16, epochs=1, monitor_epochs=1, patch_size=8, clusters=6)
    config.train.epochs = 1
    config.train.tensorboard = False
    return config
"""


def damage(path: pathlib.Path, kind: str, rng: random.Random) -> None:
    """Damages a file."""
    content = bytearray(path.read_bytes())
    if kind == "deleted":
        path.unlink()
        return
    if kind == "halved":
        del content[len(content) // 2 :]
    elif kind == "emptied":
        content.clear()
    elif content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def _text_of(folder: pathlib.Path, pattern: str) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.rglob(pattern)}


def run(bench: Bench, scale: Scale, rng: random.Random) -> Iterator[tuple[str, Counts]]:
    """Yields (command, counts of outcomes)."""
    live, sound = bench.folder / "live", bench.folder / "sound.wav"
    workdir, report, out = live / "runs/run", live / "report", live / "out.json"
    soundfile.write(sound, 0.1 * np.random.default_rng(0).standard_normal(40_000), 16_000)
    train = ("main", *SETTINGS, f"--workdir={workdir}")
    assert bench.run(*train).returncode == 0
    finished = signature(workdir)
    _save(bench, live, "finished")
    # The same run, killed after its second checkpoint.
    shutil.rmtree(live)
    kill_after_s = 3.0
    while len(list((workdir / "checkpoints").glob("[0-9]*"))) < 2:
        bench.run(*train, kill_after_s=kill_after_s)
        if (workdir / "results.json").exists():
            shutil.rmtree(live)
            kill_after_s /= 2
        kill_after_s += 0.3
    assert not (workdir / "results.json").exists()
    _save(bench, live, "stopped")
    masked = bench.folder / "masked.py"
    masked.write_text(MASKED)
    again = {
        "cross-validation": ("main", TINY, "--mode=crossval", "--config.crossval.folds=(1,2)", QUICK, NO_BOARD),
        "probe": ("main", TINY, "--config.method=probe"),
        "masked prediction": ("main", f"--config={masked}"),
    }
    for name, command in again.items():
        shutil.rmtree(live)
        assert bench.run(*command, f"--workdir={workdir}").returncode == 0
        _save(bench, live, name)
    commands: dict[str, tuple[str, tuple[str, ...], Callable[[], Any]]] = {
        "resume": ("stopped", train, lambda: signature(workdir)),
        "evaluate": ("finished", (*train, "--mode=evaluate"), lambda: signature(workdir)),
        "predict": ("finished", ("predict", f"--model={workdir}", f"--json={out}", str(sound)), out.read_text),
        "report": ("finished", ("report", str(live / "runs"), f"--out={report}"), lambda: _text_of(report, "*.md")),
    }
    for name, command in again.items():
        commands[f"{name} again"] = (name, (*command, f"--workdir={workdir}"), lambda: signature(workdir))
    for name, (snapshot, command, result) in commands.items():
        _restore(bench, live, snapshot)
        done = bench.run(*command)
        assert done.returncode == 0, done.stderr
        expected = result()
        assert name not in ("resume", "evaluate") or expected == finished
        _restore(bench, live, snapshot)
        roots = [live] if name in ("predict", "report") else [live, bench.cache]
        paths = [path for root in roots for path in files_below(root)]
        cases = [(path, kind) for path in paths for kind in KINDS]
        counts: Counts = Counts()
        for path, kind in rng.sample(cases, min(len(cases), scale.cases)):
            _restore(bench, live, snapshot)
            damage(path, kind, rng)
            done = bench.run(*command)
            try:
                same = result() == expected
            except (OSError, ValueError, KeyError):
                same = False
            outcome = classify(done, same, may_differ=name == "report")  # it says which run it leaves out
            counts[outcome] += 1
            if outcome in ("traceback", "wrong result", "no end"):
                print(f"{name}: {path} {kind}: {outcome}\n{done.stderr[-1500:]}", flush=True)  # noqa: T201
        yield f"a damaged file, then {name}", counts


def _save(bench: Bench, live: pathlib.Path, name: str) -> None:
    """Keeps the work directory and the cache under a name."""
    shutil.copytree(live, bench.folder / name)
    shutil.copytree(bench.cache, bench.folder / f"{name}, cache", ignore=shutil.ignore_patterns("compiled"))


def _restore(bench: Bench, live: pathlib.Path, name: str) -> None:
    """Puts the work directory and the cache back as they were."""
    shutil.rmtree(live, ignore_errors=True)
    shutil.copytree(bench.folder / name, live)
    for path in bench.cache.iterdir():
        if path.name != "compiled":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in (bench.folder / f"{name}, cache").iterdir():
        shutil.copytree(path, bench.cache / path.name) if path.is_dir() else shutil.copy(path, bench.cache)
