"""metrics.jsonl, and event files read back, with and without TensorFlow."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

from esc_jax.training import writers

ROOT = pathlib.Path(__file__).resolve().parents[2]
LINES = [{"epoch": 1, "step": 10, "loss": 1.5, "name": "a"}, {"epoch": 2, "step": 20, "loss": 0.25, "accuracy": 0.5}]
SCALARS = {("loss", 10): 1.5, ("loss", 20): 0.25, ("accuracy", 20): 0.5}

WRITE = """
import importlib.machinery as machinery, json, pathlib, sys
find, hidden = machinery.PathFinder.find_spec, sys.argv[2].split(",")
machinery.PathFinder.find_spec = classmethod(
    lambda cls, name, path=None, target=None: None if name.split(".")[0] in hidden else find(name, path, target)
)
from esc_jax.training import writers
writer = writers.Writer(pathlib.Path(sys.argv[1]), [], tensorboard=True)
for line in json.loads(sys.argv[3]):
    writer.write(line)
writer.close()
assert not set(hidden) & set(sys.modules)
"""


# In a process of its own: TensorBoard imports TensorFlow where it is installed, which takes half a gigabyte.
READ = """
import json, pathlib, sys
from tensorboard.backend.event_processing import event_file_loader
from tensorboard.util import tensor_util

json.dump([
    (value.tag, event.step, tensor_util.make_ndarray(value.tensor).item())
    for path in pathlib.Path(sys.argv[1]).glob("events.out.tfevents.*")
    for event in event_file_loader.EventFileLoader(str(path)).Load()
    for value in event.summary.value
], sys.stdout)
"""


def read_events(workdir):
    """(tag, step) → value, of all event files."""
    done = subprocess.run([sys.executable, "-c", READ, str(workdir)], capture_output=True, text=True, check=True)
    return {(tag, step): value for tag, step, value in json.loads(done.stdout)}


@pytest.mark.parametrize(
    "hidden",
    [
        pytest.param("tensorflow", marks=pytest.mark.slow),
        "tensorflow,tensorboard",
        pytest.param("", marks=pytest.mark.extended),
    ],
)
def test_events_with_what_is_installed(tmp_path, hidden):
    pytest.importorskip("tensorboard")
    if not hidden and not importlib.util.find_spec("tensorflow"):
        pytest.skip("needs TensorFlow")
    arguments = [str(tmp_path), hidden, json.dumps(LINES)]
    command = [sys.executable, "-c", WRITE, *arguments]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "" and (hidden == "" or done.stderr == "")
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == LINES
    if "tensorboard" in hidden:
        assert not list(tmp_path.glob("events*"))
    else:
        assert read_events(tmp_path) == SCALARS


def test_history_replaces_what_was_written_after_it(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("written after the last checkpoint\n")
    writer = writers.Writer(tmp_path, LINES[:1], tensorboard=False)
    writer.write(LINES[1])
    writer.close()
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == LINES
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.extended
def test_a_broken_tensorflow_does_not_stop_a_run(tmp_path, monkeypatch, caplog):
    pytest.importorskip("tensorboard")

    def fail(workdir):
        raise ImportError("libtensorflow is broken")

    monkeypatch.setattr(writers, "_clu_writer", fail)
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # importing it fails
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: name == "tensorflow" or find_spec(name, *more))
    writer = writers.Writer(tmp_path, [], tensorboard=True)
    for line in LINES:
        writer.write(line)
    writer.close()
    assert caplog.messages == ["no TensorBoard files from tensorflow: libtensorflow is broken"]
    assert read_events(tmp_path) == SCALARS


def test_a_failing_event_writer_does_not_stop_the_run(monkeypatch, tmp_path, caplog):
    """As on a full disk: metrics.jsonl stays complete, and there is one warning."""

    class Full:
        def write_scalars(self, step, scalars):
            raise RuntimeError("No space left on device\ndetails")

        flush = close = write_scalars

    monkeypatch.setattr(writers, "open_event_writer", lambda workdir: Full())
    writer = writers.Writer(tmp_path, [], tensorboard=True)
    writer._thread.join()
    for line in LINES:
        writer.write(line)
    writer.close()
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == LINES
    assert caplog.messages == ["no more TensorBoard files are written: No space left on device"]
