"""Latency of `esc-jax listen` and `esc-jax serve` on this machine, in less than five minutes.

    python benchmarks/live.py --model=mn04_as storm.ogg

listen: the recording is sent in a loop to `esc-jax listen --pcm=-` in real time, in pieces of 20 ms. The latency is the
time from the arrival of the last sample of a window to its line, as the command states it. serve: the first five
seconds of the recording are sent to `esc-jax serve` by one client, and by four at once; the time of an answer includes
the upload. Medians and 99th percentiles, in milliseconds. The first second of results is left out.
"""

import argparse
import concurrent.futures
import csv
import datetime
import io
import json
import pathlib
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import numpy as np
import soundfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from esc_jax.data import audio  # noqa: E402

RATE = 32_000
PIECE_S = 0.02
START_S = 120.0  # for a server to answer
FIELDS = ["what", "clients", "count", "median_ms", "late_ms", "date"]


def summary(what: str, clients: int, latencies_s: list[float]) -> dict[str, str]:
    """A row of the table."""
    late = np.percentile(latencies_s, 99)
    row = {"what": what, "clients": str(clients), "count": str(len(latencies_s))}
    row |= {"median_ms": f"{1000 * np.median(latencies_s):.1f}", "late_ms": f"{1000 * late:.1f}"}
    return row | {"date": datetime.date.today().isoformat()}


def listen(model: str, samples: np.ndarray, seconds: float, hop_s: float) -> dict[str, str]:
    """Latency of windows: the sound of `samples`, int16, in a loop."""
    command = [sys.executable, "-m", "esc_jax", "listen", f"--model={model}", "--pcm=-", f"--rate={RATE}", "--json"]
    latencies: list[float] = []
    with subprocess.Popen([*command, f"--hop_s={hop_s:g}"], stdin=-1, stdout=-1, stderr=-1, cwd=ROOT) as process:
        assert process.stdin and process.stdout and process.stderr
        head = process.stderr.readline().decode()  # it begins to read when its program is compiled
        if not (match := re.search(r"windows of ([\d.]+) s", head)):
            raise SystemExit(head + process.stderr.read().decode())
        seconds += float(match[1])  # before the first window
        stderr = threading.Thread(target=process.stderr.read)
        stderr.start()

        def collect() -> None:
            for line in process.stdout or ():
                item = json.loads(line)
                if item["type"] == "window":
                    latencies.append(item["latency_s"])

        reader = threading.Thread(target=collect)
        reader.start()
        size, place, begin = round(PIECE_S * RATE), 0, time.monotonic()
        while place < seconds * RATE:
            piece = np.take(samples, np.arange(place, place + size), mode="wrap")
            process.stdin.write(piece.astype("<i2").tobytes())
            process.stdin.flush()
            place += size
            time.sleep(max(0.0, begin + place / RATE - time.monotonic()))
        process.stdin.close()
        reader.join()
        stderr.join()
    skipped = max(1, round(1 / hop_s))
    if len(latencies) <= skipped:
        raise SystemExit("esc-jax listen wrote too few windows: give more --seconds")
    return summary(f"listen, a window each {hop_s:g} s", 1, latencies[skipped:])


def answer_s(url: str, body: bytes) -> float:
    """Time of an answer, s."""
    started = time.monotonic()
    with urllib.request.urlopen(urllib.request.Request(url, body), timeout=60) as answer:
        json.load(answer)
    return time.monotonic() - started


def serve(model: str, body: bytes, seconds: float) -> list[dict[str, str]]:
    """Rows of one and of four clients."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "esc_jax", "serve", f"--model={model}", f"--port={port}"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url, rows = f"http://127.0.0.1:{port}", []
    try:
        limit = time.monotonic() + START_S
        while True:
            try:
                urllib.request.urlopen(f"{url}/health", timeout=5).close()
                break
            except OSError:
                if time.monotonic() > limit or process.poll() is not None:
                    raise SystemExit("esc-jax serve did not start") from None
                time.sleep(0.2)
        answer_s(f"{url}/classify", body)  # compiles
        for clients in (1, 4):
            with concurrent.futures.ThreadPoolExecutor(clients) as pool:
                end = time.monotonic() + seconds

                def client(end: float = end) -> list[float]:
                    found = []
                    while time.monotonic() < end:
                        found.append(answer_s(f"{url}/classify", body))
                    return found

                parts = [future.result() for future in [pool.submit(client) for _ in range(clients)]]
            rows.append(summary("serve, 5 s of sound", clients, sum(parts, [])))
    finally:
        process.terminate()
        process.wait()
    return rows


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", required=True, help="as of esc-jax listen")
    add("recording", help="any sound file")
    add(
        "--seconds",
        type=float,
        default=60.0,
        help="of each of the two parts of listen; a third for serve (default: 60)",
    )
    options = parser.parse_args()
    samples = audio.to_int16(audio.load(options.recording, RATE))
    clip = io.BytesIO()
    soundfile.write(clip, samples[: 5 * RATE], RATE, format="WAV")
    writer = csv.DictWriter(sys.stdout, FIELDS, lineterminator="\n")
    writer.writeheader()
    for hop_s in (1.0, 0.25):
        writer.writerow(listen(options.model, samples, options.seconds, hop_s))
        sys.stdout.flush()
    writer.writerows(serve(options.model, clip.getvalue(), options.seconds / 3))


if __name__ == "__main__":
    main()
