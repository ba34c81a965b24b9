"""Timing of alternating calls, and result files with figures, machine, versions and date."""

import argparse
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
import tempfile
import time
from typing import Any

import subprocesses

RESULTS = pathlib.Path(__file__).resolve().parent / "results"
# Packages that the figures depend on. Those that are installed are recorded.
PACKAGES = (
    "jax", "jaxlib", "flax", "numpy", "scipy", "grain", "array_record", "tensorflow-datasets", "tensorflow-cpu",
    "tensorflow", "librosa", "soundfile", "soxr", "kaldi-native-fbank", "torch", "transformers",
)  # fmt: skip
# Load average of the last minute before this process started, as a measure of other work on the machine.
LOAD = os.getloadavg()[0]


def positive(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """A type of arguments of `argparse`: `kind`, above 0."""

    def parse(text: str) -> Any:
        if (value := kind(text)) > 0:
            return value
        raise argparse.ArgumentTypeError(f"{text} must be above 0")

    parse.__name__ = kind.__name__  # for the message about a text that is no number
    return parse


def time_alternating(
    calls: Mapping[str, Callable[[], object]], rounds: int, warmup: Mapping[str, Callable[[], object]] | None = None
) -> dict[str, list[float]]:
    """Seconds of every call in every round. Calls alternate, and the first round is not counted.

    Args:
        calls: functions to time, by name.
        rounds: number of counted rounds.
        warmup: functions that are called before each call and not timed. Where frameworks alternate, PyTorch's threads
            still spin for a while after its calls and take cores from the next one, and memory that the other process
            held is not available at once.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            if warmup:
                warmup[name]()
            started = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - started)
    return {name: seconds[1:] for name, seconds in times.items()}


def profile(call: Callable[[], object]) -> list[Any]:
    """The planes of a profile of JAX (`jax.profiler.ProfileData`) during a call."""
    import jax

    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            call()
        (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
        return list(jax.profiler.ProfileData.from_file(str(path)).planes)


def save(name: str, rows: Sequence[dict] | Mapping[str, Sequence[dict]], out: str | os.PathLike[str]) -> str:
    """Writes NAME.json and NAME.md.

    This asks JAX for its devices. Call it after the last measurement in a child process.

    Args:
        name: of the benchmark.
        rows: of a table, with the same keys; or the rows of several tables by title.
        out: folder of the files; it is created.

    Returns:
        The Markdown text.
    """
    tables = rows if isinstance(rows, Mapping) else {name: rows}
    about: dict[str, Any] = {"name": name, "date": datetime.date.today().isoformat(), "command": command()}
    about |= {"machine": _machine(), "versions": versions()}
    machine = about["machine"]
    text = (
        f"# {name}\n\n    {about['command']}\n\n{about['date']}, {machine['processor']}, {machine['cores']} cores"
        f" (load before: {machine['load']}), {machine['devices']};"
        f" {', '.join(f'{package} {version}' for package, version in about['versions'].items())}\n"
    )
    text += "".join(f"\n## {title}\n\n{subprocesses.markdown_table(table)}" for title, table in tables.items())
    folder = pathlib.Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(about | {"results": tables}, indent=1) + "\n")
    (folder / f"{name}.md").write_text(text)
    return text


def command() -> str:
    """The command line, with absolute paths reduced to their last part."""
    arguments = [re.sub(r"(^|=)/.*/", r"\1", argument) for argument in sys.argv[1:]]
    tunables = os.environ.get("GLIBC_TUNABLES", "")  # huge pages change the figures
    prefix = f"GLIBC_TUNABLES={shlex.quote(tunables)} " if tunables else ""
    return f"{prefix}python benchmarks/{pathlib.Path(sys.argv[0]).name} {shlex.join(arguments)}".strip()


def processor() -> str:
    """Name of the processor."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists() and (match := re.search(r"^model name\s*: (.+)$", cpuinfo.read_text(), re.MULTILINE)):
        return match[1].strip()
    return platform.processor() or platform.machine()


def _machine() -> dict[str, Any]:
    import jax

    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "load": round(LOAD, 1),
        "devices": f"{jax.device_count()} {jax.devices()[0].device_kind}",
        "system": f"{platform.system()} {platform.release()}",
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the installed PACKAGES."""
    result = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            result[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return result
