"""Prediction and embedding without POSIX, glibc, array_record, TFDS, TensorFlow and grain (`restricted`)."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest
import soundfile

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def run_restricted(environment):
    """Runs `esc-jax` with these arguments in a restricted process; returns its stdout."""

    def start(*arguments: str) -> str:
        command = [sys.executable, "-m", "tests.cli.restricted", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr[-4000:]
        return done.stdout

    return start


@pytest.fixture
def recording(tmp_path):
    path = tmp_path / "noise.wav"
    soundfile.write(path, 0.2 * np.random.default_rng(0).uniform(-1, 1, 40_000), 16_000)
    return path


def test_predict(run_restricted, untrained, recording, tmp_path):
    outputs = [f"--csv={tmp_path}/o.csv", f"--json={tmp_path}/o.json", f"--plot={tmp_path}/o.png"]
    printed = run_restricted("predict", f"--model={untrained}", *outputs, str(recording))
    assert printed.startswith(f"{recording}: 2.5 s, 3 windows\n")
    assert len((tmp_path / "o.csv").read_text().splitlines()) == 1 + 3 * 3
    assert (tmp_path / "o.png").read_bytes()[:4] == b"\x89PNG"


def test_embed(run_restricted, untrained, recording, tmp_path):
    run_restricted("embed", f"--model={untrained}", f"--out={tmp_path}/o.npz", str(recording))
    with np.load(tmp_path / "o.npz") as file:
        assert file["embeddings"].shape == (3, 16)


@pytest.mark.parametrize("module", ["esc_jax.serving.demo", "esc_jax.export.formats"])
def test_modules_that_can_be_imported(run_restricted, module):
    run_restricted("--import", module)


def test_the_restrictions_apply(environment):
    command = [sys.executable, "-m", "tests.cli.restricted", "--import", "grain"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "ModuleNotFoundError: No module named 'grain'" in done.stderr
