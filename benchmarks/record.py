"""How the benchmarks take times of several calls, and the files that they leave: figures, machine, versions, date."""

from collections.abc import Callable, Mapping, Sequence
import datetime
from importlib import metadata
import json
import os
import pathlib
import platform
import re
import shlex
import sys
import time

import apart

RESULTS = pathlib.Path(__file__).resolve().parent / "results"
# What the figures depend on, where it is installed.
PACKAGES = (
    "jax", "jaxlib", "flax", "numpy", "scipy", "grain", "array_record", "tensorflow-datasets", "tensorflow-cpu",
    "tensorflow", "librosa", "soundfile", "soxr", "kaldi-native-fbank", "torch", "transformers",
)  # fmt: skip
# Other work of the machine: the load of the last minute before this process began.
_LOAD = os.getloadavg()[0]


def in_turn(
    calls: Mapping[str, Callable[[], object]], rounds: int, before: Mapping[str, Callable[[], object]] | None = None
) -> dict[str, list[float]]:
    """Seconds of every call in every round, one after the other, after a round that isn't counted.

    `before` has what each does first, uncounted, in every round: where others have their turn in between, PyTorch's
    threads still spin for a while after its calls and share the cores with whoever comes next, and memory that the
    other side has held is not at hand at once (a step of 0.4 s in a run, where steps follow one another, took up to
    0.8 s).
    """
    taken = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            if before:
                before[name]()
            started = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - started)
    return {name: seconds[1:] for name, seconds in taken.items()}


def save(name: str, lines: Sequence[dict] | Mapping[str, Sequence[dict]], out: str | os.PathLike) -> str:
    """Writes NAME.json and NAME.md.

    Asks JAX for its devices: in a process whose children measure, after the last of them.

    Args:
        name: of the benchmark.
        lines: of a table, with the same keys; or the lines of several, by title.
        out: the folder, made where it isn't there.

    Returns:
        The Markdown.
    """
    tables = lines if isinstance(lines, Mapping) else {name: lines}
    about = {"name": name, "date": datetime.date.today().isoformat(), "command": _command()}
    about |= {"machine": _machine(), "versions": versions()}
    machine = about["machine"]
    text = (
        f"# {name}\n\n    {about['command']}\n\n{about['date']}, {machine['processor']}, {machine['cores']} cores"
        f" (load {machine['load']} before), {machine['devices']};"
        f" {', '.join(f'{package} {version}' for package, version in about['versions'].items())}\n"
    )
    text += "".join(f"\n## {title}\n\n{apart.table(rows)}" for title, rows in tables.items())
    folder = pathlib.Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(about | {"results": tables}, indent=1) + "\n")
    (folder / f"{name}.md").write_text(text)
    return text


def _command() -> str:
    """The command line, with the last part of paths from the root: what lies above is this machine's own affair."""
    arguments = [re.sub(r"(^|=)/.*/", r"\1", argument) for argument in sys.argv[1:]]
    tunables = os.environ.get("GLIBC_TUNABLES", "")  # huge pages change the figures
    before = f"GLIBC_TUNABLES={shlex.quote(tunables)} " if tunables else ""
    return f"{before}python benchmarks/{pathlib.Path(sys.argv[0]).name} {shlex.join(arguments)}".strip()


def processor() -> str:
    """Its name, as far as the system knows it."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists() and (found := re.search(r"^model name\s*: (.+)$", cpuinfo.read_text(), re.MULTILINE)):
        return found[1].strip()
    return platform.processor() or platform.machine()


def _machine() -> dict:
    import jax

    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "load": round(_LOAD, 1),
        "devices": f"{jax.device_count()} {jax.devices()[0].device_kind}",
        "system": f"{platform.system()} {platform.release()}",
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def versions() -> dict[str, str]:
    """Of Python, and of PACKAGES that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
