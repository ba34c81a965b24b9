"""The web page under load: clients that upload at the same time, and its memory."""

from collections.abc import Iterator
import io
import os
import pathlib
import random
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import numpy as np
import soundfile

from tests.commands import ROOT
from tests.reliability.base import TINY, Bench, Counts, Scale

_MAX_GROWTH = 0.1  # of memory in the second half of the time


def _resident_mib(pid: int) -> float:
    """Resident memory of a process and its children."""
    children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    pages = int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20 + sum(_resident_mib(int(child)) for child in children)


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Recordings of usual and unusual kinds, and files that are none."""
    rng = np.random.default_rng(0)
    paths = []
    for name, seconds, rate in (("short.wav", 1.0, 16_000), ("long.flac", 20.0, 44_100), ("fast.flac", 20.0, 655_350)):
        paths.append(folder / name)
        soundfile.write(paths[-1], 0.1 * rng.standard_normal(round(seconds * rate)), rate)
    content = io.BytesIO()
    soundfile.write(content, 0.1 * rng.standard_normal(16_000), 16_000, format="OGG")
    for name, data in (("cut.ogg", content.getvalue()[:3000]), ("none.wav", b"no audio"), ("empty.mp3", b"")):
        paths.append(folder / name)
        paths[-1].write_bytes(data)
    return paths


def run(bench: Bench, scale: Scale, rng: random.Random) -> Iterator[tuple[str, Counts]]:
    """Yields (clients, counts of outcomes); memory that grows by more than a tenth is a wrong result."""
    import gradio_client

    folder, model = bench.folder / "uploads", bench.folder / "run"
    folder.mkdir()
    paths = _files(folder)
    assert bench.run("main", TINY, "--config.train.epochs=1", f"--workdir={model}").returncode == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "esc_jax", "demo", f"--model={model}", f"--port={port}", f"--examples={folder}"]
    log = open(bench.folder / "demo.log", "w")
    process = subprocess.Popen(command, cwd=ROOT, env=bench.environment, stdout=log, stderr=log)
    counts: Counts = Counts()
    try:
        address = f"http://127.0.0.1:{port}/"
        _wait(address)
        stop = time.monotonic() + scale.seconds
        seeds = [rng.randrange(1 << 30) for _ in range(scale.clients)]

        def visit(seed: int) -> None:
            choose = random.Random(seed)
            client = gradio_client.Client(address, verbose=False)
            endpoint = next(iter(client.view_api(print_info=False, return_format="dict")["named_endpoints"]))
            while time.monotonic() < stop:
                path = choose.choice(paths)
                try:
                    answer = client.predict(gradio_client.handle_file(str(path)), api_name=endpoint)
                    refused = "error" in answer
                    counts["refused" if refused else "as before"] += 1
                except Exception as error:
                    busy = "queue" in str(error).lower() or "busy" in str(error).lower()
                    counts["refused" if busy else "traceback"] += 1

        clients = [threading.Thread(target=visit, args=(seed,)) for seed in seeds]
        for client in clients:
            client.start()
        time.sleep(scale.seconds / 2)
        before = _resident_mib(process.pid)
        for client in clients:
            client.join(timeout=scale.seconds + 120)
        counts["no end"] += sum(client.is_alive() for client in clients)
        grown = _resident_mib(process.pid) / before - 1
    finally:
        process.terminate()
        process.wait(60)
        log.close()
    counts["traceback"] += len(re.findall("Traceback", (bench.folder / "demo.log").read_text()))
    counts["wrong result"] += grown > _MAX_GROWTH
    yield f"demo, {scale.clients} clients for {scale.seconds:g} s, memory {100 * grown:+.0f} %", +counts


def _wait(address: str) -> None:
    for _ in range(300):
        try:
            urllib.request.urlopen(f"{address}config", timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError("the demo does not start")
