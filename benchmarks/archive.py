"""Speed, memory and waiting time of `esc-jax predict FOLDER --out=RESULTS` on an archive of many recordings.

    python benchmarks/archive.py --model=runs/NAME --files=1000

The recordings are FLAC files of a minute of pink noise, 44.1 kHz, 16 bits: twenty different ones, with hard links for
the others. The device waits while no window that was given to it is left to compute. Memory is the resident set of the
process after a tenth of the files, and at the end; a leak would show as a difference. Prints a Markdown table.
"""

import argparse
import os
import pathlib
import sys
import tempfile
import threading
import time
from typing import Any

import numpy as np
from prediction import FILE_RATE, pink_noise
import soundfile
import subprocesses

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
DIFFERENT = 20


def write_archive(folder: pathlib.Path, count: int, seconds: float) -> None:
    """Writes recordings into subfolders of a hundred."""
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"{number // 100:03d}" / f"{number:05d}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number >= DIFFERENT:
            source = number % DIFFERENT
            os.link(folder / f"{source // 100:03d}" / f"{source:05d}.flac", path)
            continue
        soundfile.write(path, pink_noise(rng, round(seconds * FILE_RATE)), FILE_RATE)


class DeviceTimer:
    """Time during which the device has work.

    Args:
        run: `SoundClassifier._run`, which gives a batch to the device.
    """

    def __init__(self, run: Any):
        self._run, self._lock = run, threading.Lock()
        self._in_work, self._since = 0, 0.0
        self.busy_s = 0.0

    def __call__(self, *arguments: Any) -> Any:
        """Gives a batch to the device, and waits for its end in a thread."""
        with self._lock:
            if not self._in_work:
                self._since = time.perf_counter()
            self._in_work += 1
        outputs = self._run(*arguments)
        threading.Thread(target=self._wait, args=(outputs,)).start()
        return outputs

    def _wait(self, outputs: Any) -> None:
        import jax

        jax.block_until_ready(outputs)
        with self._lock:
            self._in_work -= 1
            if not self._in_work:
                self.busy_s += time.perf_counter() - self._since


def resident_mib() -> float:
    """Resident memory of this process."""
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def watch_memory(results: pathlib.Path, count: int, readings: dict[str, float], stop: threading.Event) -> None:
    """Reads the memory once a tenth of the rows of the manifest is written."""
    manifest = results / "manifest.csv"
    while not stop.wait(0.2):
        if manifest.is_file() and len(manifest.read_bytes().splitlines()) > max(DIFFERENT, count // 10):
            readings["tenth"] = resident_mib()
            return


def measure(model: str, count: int, seconds: float, hop_s: float) -> dict[str, Any]:
    """The row of the table."""
    from esc_jax.cli import predict
    from esc_jax.inference.classifier import SoundClassifier

    timer = DeviceTimer(SoundClassifier._run)
    SoundClassifier._run = lambda *arguments: timer(*arguments)
    readings: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        recordings, results = pathlib.Path(folder, "recordings"), pathlib.Path(folder, "results")
        write_archive(recordings, count, seconds)
        stop = threading.Event()
        watcher = threading.Thread(target=watch_memory, args=(results, count, readings, stop))
        watcher.start()
        started = time.perf_counter()
        status = predict.main([f"--model={model}", f"--hop_s={hop_s}", f"--out={results}", str(recordings)])
        wall = time.perf_counter() - started
        stop.set()
        watcher.join()
        assert status == 0
    return {
        "files": count,
        "audio, hours": round(count * seconds / 3600, 1),
        "hop, s": hop_s,
        "minutes": round(wall / 60, 2),
        "real-time factor": round(count * seconds / wall),
        "device waits, %": round(100 * (1 - timer.busy_s / wall), 1),
        # NaN for an archive that is finished before the memory is read.
        "memory after a tenth, MiB": f"{readings.get('tenth', float('nan')):.0f}",
        "memory at the end, MiB": round(resident_mib()),
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="work directory of a run, or name of published weights")
    parser.add_argument("--files", type=int, default=1000, help="number of recordings (default: 1000)")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each recording (default: 60)")
    parser.add_argument("--hop_s", type=float, default=1.0, help="between the starts of windows (default: 1)")
    options = parser.parse_args()
    row = measure(options.model, options.files, options.seconds, options.hop_s)
    sys.stdout.write(subprocesses.markdown_table([row]))


if __name__ == "__main__":
    main()
