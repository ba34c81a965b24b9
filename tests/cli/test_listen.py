"""`esc-jax listen`: raw samples from a pipe, a stream that breaks, a folder that recorders write to, and its errors."""

import contextlib
import csv
from datetime import datetime
import http.server
import io
import json
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
import soundfile

from esc_jax.inference.classifier import SoundClassifier
from esc_jax.inference.output import rows
from esc_jax.training.restore import restore

ROOT = pathlib.Path(__file__).resolve().parents[2]
RATE = 16_000


@pytest.fixture(scope="module")
def classifier(untrained):
    return SoundClassifier(restore(untrained))


def noise(seconds, rate=RATE, seed=0):
    samples = np.random.default_rng(seed).uniform(-0.3, 0.3, round(seconds * rate))
    return np.round(samples * 32768).astype("<i2")


@pytest.fixture
def listen(untrained, environment):
    """Starts the command: `listen("--pcm=-", …)`; it is killed at the end."""
    with contextlib.ExitStack() as stack:

        def start(*arguments, **options):
            command = [sys.executable, "-m", "esc_jax", "listen", f"--model={untrained}", *arguments]
            pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE) | options
            process = subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        yield start


def test_raw_samples_end_to_end(listen, classifier, tmp_path):
    """The lines are the windows of predict for a file with the same samples, with times."""
    samples = noise(6.3, 44_100)
    samples[: 44_100 * 2] = 0
    soundfile.write(tmp_path / "a.wav", samples, 44_100, subtype="PCM_16")
    start = "2026-05-11T05:30:00+02:00"
    process = listen("--pcm=-", "--rate=44100", "--json", "--hop_s=0.5", f"--start={start}")
    out, err = process.communicate(samples.tobytes(), timeout=300)
    assert process.returncode == 0, err.decode()
    lines = [json.loads(line) for line in out.splitlines()]
    expected = rows(classifier.timeline(tmp_path / "a.wav", hop_s=0.5), 3)
    for line, row in zip(lines, expected, strict=True):
        assert line.pop("type") == "window" and line.pop("latency_s") >= 0
        moment = datetime.fromisoformat(line.pop("time")) - datetime.fromisoformat(start)
        assert moment.total_seconds() == pytest.approx(row["start_s"], abs=1e-3)
        for got, wanted in zip(line.pop("top"), row.pop("top"), strict=True):
            assert got["class"] == wanted["class"]
            assert got["probability"] == pytest.approx(wanted["probability"], abs=2e-6)
        assert line == row
    assert re.search(rb"esc_jax: \d+ windows up to 0:06.3, latency \d+ ms \(median\), \d+ ms \(99 %\)\n$", err)


def test_no_drift_in_a_long_loop(listen):
    """Two minutes, piped as fast as they are read: the windows of silence are the same in every loop, to the sample."""
    sound = noise(6.0, 44_100).tobytes()
    loop = sound + bytes(len(sound))
    process = listen("--pcm=-", "--rate=44100", "--json", "--hop_s=2", "--window_s=2")
    out, _ = process.communicate(10 * loop + sound, timeout=300)
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["start_s"] for line in lines] == [2.0 * number for number in range(63)]
    # The filter that resamples rings at the borders of silence: only the middle window of three has no signal.
    assert [line["level_db"] is not None for line in lines] == [number % 6 != 4 for number in range(63)]


class Server(http.server.ThreadingHTTPServer):
    """Serves an endless wav file, whose samples stop after some seconds at the first request."""

    daemon_threads = True

    def __init__(self, samples):
        super().__init__(("127.0.0.1", 0), _Handler)
        header = io.BytesIO()
        soundfile.write(header, np.zeros(0, np.int16), RATE, format="WAV")
        head = bytearray(header.getvalue())
        head[4:8] = head[-4:] = b"\xff\xff\xff\xff"
        self.head, self.samples, self.requests = bytes(head), samples, 0


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        number, self.server.requests = self.server.requests, self.server.requests + 1
        if number in (1, 2):  # it is down for a while
            self.send_error(503)
            return
        self.send_response(200)
        self.send_header("Content-Type", "audio/wav")
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(self.server.head + self.server.samples[min(number, 1)].tobytes())

    def log_message(self, *arguments):
        pass


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
def test_a_stream_that_breaks_and_comes_back(listen, classifier, tmp_path):
    """The gap is stated and measured; the windows after it are those of the sound after it; Ctrl-C ends the command."""
    samples = [noise(3.0, seed=0), noise(4.0, seed=1)]
    with Server(samples) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://user:secret@127.0.0.1:{server.server_port}/live.wav"
        process = listen(address, "--json", "--give_up_s=60")
        lines = []
        while len([line for line in lines if line["type"] == "gap"]) < 2:  # it breaks again, after 4 s
            lines.append(json.loads(process.stdout.readline()))
        process.send_signal(signal.SIGINT)
        err = process.stderr.read().decode()
        assert process.wait(60) == 130
        server.shutdown()
    assert "secret" not in err and "the stream ended; connecting again" in err
    assert re.search(r"esc_jax: stopped: \d+ windows up to \S+, 2 gaps, latency ", err)
    (index, again) = (number for number, line in enumerate(lines) if line["type"] == "gap")
    gap, after = lines[index], lines[index + 1 : again]
    assert gap["start_s"] == 3.0 and gap["reason"] == "the stream ended" and gap["duration_s"] > 0.0
    assert [line["start_s"] for line in lines[:index]] == [0.0, 1.0, 2.0]
    expected = [gap["end_s"] + start for start in range(4)]
    assert [line["start_s"] for line in after] == pytest.approx(expected, abs=2e-4)
    times = [datetime.fromisoformat(line["time"]).timestamp() for line in lines]
    positions = [line["start_s"] for line in lines]
    np.testing.assert_allclose(np.array(times) - times[0], np.array(positions) - positions[0], atol=2e-3)
    soundfile.write(tmp_path / "b.wav", samples[1], RATE, subtype="PCM_16")
    probabilities = [row["top"][0]["probability"] for row in rows(classifier.timeline(tmp_path / "b.wav"), 1)]
    assert [line["top"][0]["probability"] for line in after] == pytest.approx(probabilities, abs=2e-6)


@pytest.mark.slow
def test_a_folder_is_watched_and_a_killed_command_continues(listen, run, untrained, tmp_path):
    """Each recording is classified once, over restarts, and as predict --out does."""
    folder, out = tmp_path / "in", tmp_path / "out"
    (folder / "may").mkdir(parents=True)

    def drop(name):
        soundfile.write(folder / name, noise(2.0, seed=len(name)), RATE)

    def lines_of(process, count):
        return [json.loads(process.stdout.readline()) for _ in range(count)]

    arguments = (f"--watch={folder}", f"--out={out}", "--json", "--settle_s=0.3", "--formats=csv,events")
    drop("a.wav")
    (folder / "bad.wav").write_text("no audio")
    process = listen(*arguments)
    assert {line["file"]: line["status"] for line in lines_of(process, 2)} == {"a.wav": "done", "bad.wav": "failed"}
    drop("may/bb.wav")
    assert lines_of(process, 1)[0]["file"] == "may/bb.wav"
    process.kill()
    drop("ccc.wav")
    (folder / "bad.wav").unlink()
    process = listen(*arguments)
    (line,) = lines_of(process, 1)
    assert (line["file"], line["duration_s"], line["status"]) == ("ccc.wav", 2.0, "done")
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75
    with open(out / "manifest.csv", newline="") as file:
        finished = [row["file"] for row in csv.DictReader(file) if row["status"] == "done"]
    assert sorted(finished) == ["a.wav", "ccc.wav", "may/bb.wav"]
    done = run("predict", f"--model={untrained}", f"--out={out}", "--formats=csv,events", str(folder))
    assert done.stdout == f"{out}: 0 recordings of 0:00 classified, 3 finished before\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--pcm=-"], "--pcm needs --rate: raw samples do not state it"),
        (["a.wav", "--pcm=-"], "give one of SOURCE, --pcm and --watch, not source and pcm"),
        (["--watch=nowhere", "--out=x"], "--watch=nowhere: no such folder"),
        (["--watch=."], "--watch needs --out=RESULTS"),
        (["--out=x"], "--out needs --watch=FOLDER"),
        (["--csv_bom"], "--csv_bom needs --watch=FOLDER"),
        (["--pcm=-", "--rate=8000", "--channel=2"], "--channel=2 is more than --channels=1"),
        (["--format=s24le"], "--format: 's24le' is not one of s16le, f32le; did you mean s16le?"),
    ],
)
def test_a_wrong_command_line_is_one_sentence(arguments, sentence, capsys):
    from esc_jax.cli import listen

    with pytest.raises(SystemExit) as stopped:
        listen.main(["--model=x", *arguments])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"esc_jax: {sentence}\n"


@pytest.mark.slow
def test_sources_that_cannot_be_used(run, untrained, tmp_path):
    def error(*arguments, check=1):
        return run("listen", f"--model={untrained}", *arguments, check=check).stderr.splitlines()[-1]

    gone = f"--pcm={tmp_path}/gone"
    assert error(gone, "--rate=8000") == f"esc_jax: {tmp_path}/gone: No such file or directory"
    assert error("--pcm=-", "--rate=8000") == "esc_jax: stdin: holds no samples"
    assert error("ftp://127.0.0.1/x", check=2).startswith("esc_jax: ftp://127.0.0.1/x: not an address that ffmpeg")
    assert error("http://127.0.0.1:9/x").startswith("esc_jax: http://127.0.0.1:9/x: not readable as audio (")
    (tmp_path / "text").write_text("no audio")
    assert error(str(tmp_path / "text")).startswith(f"esc_jax: {tmp_path}/text: not readable as audio (")
    assert error("--start=names", "--pcm=-", "--rate=8000", check=2).endswith("live sound has no file names")
