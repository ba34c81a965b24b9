"""What the experiments share: commands on files on disk, and the classification of what they did."""

import collections
from collections.abc import Callable, Iterator
import dataclasses
import json
import os
import pathlib
import random
import signal
import subprocess
import tempfile
import threading
import types
from typing import Any

from esc_jax.errors import UserError
from tests.commands import Commands

# What may become of a case. The last three are failures.
OUTCOMES = ("as before", "noted or repaired", "refused", "traceback", "wrong result", "no end")
TIMEOUT_S = 120.0
TINY = "--config=tests/configs/tiny.py"
# Words of warnings.
_WARNINGS = ("damaged", "again", "resuming from", "breaks off", "warning", "prepared", "never completed")


@dataclasses.dataclass(frozen=True)
class Scale:
    """Size of an experiment.

    Attributes:
        cases: of each part of the experiment, at most.
        seconds: of the load on the demo.
        clients: of the demo.
    """

    cases: int
    seconds: float
    clients: int


SCALES = {"short": Scale(2, 5.0, 4), "long": Scale(24, 120.0, 50), "full": Scale(170, 120.0, 50)}
Counts = collections.Counter[str]


class Bench:
    """A folder, a cache and a process for commands.

    Args:
        folder: of all files.
        compiled: folder of compiled programs, which may be shared; None for one of its own.
    """

    def __init__(self, folder: pathlib.Path, compiled: pathlib.Path | None = None):
        self.folder = folder
        self.cache = folder / "cache"
        self.cache.mkdir()
        (folder / "outputs").mkdir()
        if compiled:
            (self.cache / "compiled").symlink_to(compiled)
        self._commands = Commands(folder / "outputs")

    @property
    def environment(self) -> dict[str, str]:
        """Environment of the commands: one device, and programs that are compiled fast."""
        flags = "--xla_backend_optimization_level=0 --xla_force_host_platform_device_count=1"
        return os.environ | {"ESC_JAX_CACHE": str(self.cache), "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}

    def run(
        self, *arguments: str, kill_after_s: float = TIMEOUT_S, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command: "main" is `python -m esc_jax.main`, other words are commands of esc-jax."""
        command, *rest = arguments
        module, line = ("esc_jax.main", rest) if command == "main" else ("esc_jax", [command, *rest])
        return self._commands.run(module, line, self.environment | variables, kill_after_s)

    def close(self) -> None:
        """Ends the process."""
        self._commands.close()


def classify(
    done: subprocess.CompletedProcess[str], same: bool, *, must_work: bool = False, may_differ: bool = False
) -> str:
    """The outcome of a command.

    Args:
        done: the command, which had TIMEOUT_S.
        same: whether its results are those of the undamaged run.
        must_work: whether a refusal is a failure.
        may_differ: whether other results are right, if a note says why.
    """
    if done.returncode == -signal.SIGKILL:
        return "no end"
    # A refusal is one sentence, after the lines of the log.
    sentences = [line for line in done.stderr.splitlines() if line.startswith("esc_jax: ")]
    if "Traceback (most recent call last)" in done.stderr or done.returncode < 0:
        return "traceback"
    if done.returncode:
        return "wrong result" if must_work or not sentences else "refused"
    warned = any(word in done.stderr.lower() for word in _WARNINGS)
    if same or (warned and may_differ):
        return "noted or repaired" if warned else "as before"
    return "wrong result"


class _TimeOut(BaseException):
    """Not an Exception, so that nothing but `attempt` catches it."""


def attempt(call: Callable[[], Any], describe: Callable[[Any], str] = lambda value: "as before") -> str:
    """The outcome of a function of the library.

    Args:
        call: the function.
        describe: its result → the outcome.
    """

    def stop(number: int, frame: types.FrameType | None) -> None:
        raise _TimeOut

    timed = threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGALRM, stop) if timed else None
    try:
        if timed:
            signal.setitimer(signal.ITIMER_REAL, TIMEOUT_S / 4)
        return describe(call())
    except UserError as error:
        return "refused" if "\n" not in str(error) else "traceback"
    except _TimeOut:
        return "no end"
    except Exception:
        return "traceback"
    finally:
        if timed:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)


def mutate(content: bytes, rng: random.Random) -> bytes:
    """Content with one to three changes: cut, flipped bits, zeros, noise, a piece removed, repeated or inserted."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        size = len(changed)
        # Headers are short, and most changes elsewhere are changes of samples.
        place = rng.randrange(min(size, 200)) if size and rng.random() < 0.5 else rng.randrange(size + 1)
        length = rng.choice((1, 4, 64, 4096))
        match rng.randrange(7):
            case 0:
                del changed[place:]
            case 1 if place < size:
                changed[place] ^= 1 << rng.randrange(8)
            case 2:
                changed[place : place + length] = bytes(len(changed[place : place + length]))
            case 3:
                changed[place : place + length] = rng.randbytes(len(changed[place : place + length]))
            case 4:
                del changed[place : place + length]
            case 5:
                changed[place:place] = changed[place : place + length]
            case _:
                changed[place:place] = rng.randbytes(length)
    return bytes(changed)


def files_below(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Regular files, except locks, pictures, compiled programs and TensorBoard's."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and "compiled" not in parts and path.suffix not in (".png", ".lock") and path.name != ".lock":
            if "tfevents" not in path.name:
                yield path


def signature(workdir: pathlib.Path) -> dict[str, Any]:
    """What a run computed: predictions, scores, and the checksums of the arrays of its last checkpoint."""
    found: dict[str, Any] = {}
    for path in sorted(workdir.rglob("predictions.csv")):
        found[path.relative_to(workdir).as_posix()] = path.read_text()
    for path in sorted(workdir.rglob("results.json")):
        results = json.loads(path.read_text())
        kept = {key: results.get(key) for key in ("accuracy", "accuracy_tta", "mAP", "parameters", "confusion")}
        kept["folds"] = [{k: v for k, v in fold.items() if "seconds" not in k} for fold in results["folds"]]
        found[path.relative_to(workdir).as_posix()] = kept
    for folder in sorted(workdir.rglob("checkpoints")):
        steps = [path for path in folder.iterdir() if path.name.isdigit()]
        newest = max(steps, key=lambda path: int(path.name), default=None)
        if newest:
            meta = json.loads((newest / "meta/metadata").read_text())
            found[folder.relative_to(workdir).as_posix()] = newest.name, meta["checksums"]
    return found


def make_bench(compiled: pathlib.Path | None = None) -> Bench:
    """A bench in a new folder of the system's temporary folder."""
    return Bench(pathlib.Path(tempfile.mkdtemp(prefix="esc_jax_reliability_")), compiled)
