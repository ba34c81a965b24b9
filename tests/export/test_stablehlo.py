"""StableHLO programs run without esc_jax and compute the probabilities of the run."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from esc_jax.export import formats
from esc_jax.tasks import registry as tasks
from tests.export.examples import example_of
from tests.export.factories import CLASSES, ENCODERS, as_multi_label, noise, probabilities

# Runs the example of the model card on clips from a file. esc_jax and the libraries below it cannot be imported.
ISOLATED = """
import sys
for missing in ("esc_jax", "flax", "orbax", "optax", "ml_collections", "librosa"):
    sys.modules[missing] = None
{example}
for count in (1, 2, 5):
    np.save(f"out{{count}}.npy", classify(waveforms[:count]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ENCODERS)
def test_a_program_runs_without_esc_jax(restored, tmp_path, name):
    audio, run = noise(5), restored(name)
    out = formats.write(run, "stablehlo", tmp_path / "out")
    assert {path.name for path in out.iterdir()} == {"model.stablehlo", "model.json", "README.md"}
    np.save(out / "clips.npy", audio.astype(np.float32) / 32768)
    zeros = 'np.zeros((1, model["samples"]), np.float32)'
    example = example_of(out)
    assert zeros in example
    code = ISOLATED.format(example=example.replace(zeros, 'np.load("clips.npy")'))
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=out, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    expected = probabilities(run.model, tasks.get("single_label"), audio)
    assert np.ptp(expected, axis=0).max() > 0.02  # far above the tolerance
    for count in (1, 2, 5):
        # The same operations, with the weights as constants: float32 sums in a different order.
        np.testing.assert_allclose(np.load(out / f"out{count}.npy"), expected[:count], atol=1e-5, rtol=0)
    top = expected[0].argsort()[::-1][:3]
    assert [line.split()[0] for line in done.stdout.splitlines()] == [CLASSES[i] for i in top]


def test_a_multi_label_program_has_thresholds(restored, tmp_path):
    """model.json and the example have those of the probabilities that the program computes."""
    task, audio = tasks.get("multi_label"), noise(2)
    limits = (0.5, 0.4, 0.6, 0.5, 0.5, 0.5, 0.5)
    run = as_multi_label(restored("resnet"), limits, temperature=2.0)
    out = formats.write(run, "stablehlo", tmp_path / "out")
    description = json.loads((out / "model.json").read_text())
    assert description["thresholds"] == list(limits) and description["temperature"] == 2.0
    assert description["task"] == "multi_label" and "cross_validation" not in description
    np.save(out / "clips.npy", audio.astype(np.float32) / 32768)
    example = example_of(out).replace('np.zeros((1, model["samples"]), np.float32)', 'np.load("clips.npy")')
    code = ISOLATED.format(example=example).replace("(1, 2, 5)", "(2,)")
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=out, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    shares = task.probabilities(task.logits(probabilities(run.model, task, audio)), temperature=2.0)
    np.testing.assert_allclose(np.load(out / "out2.npy"), shares, atol=1e-5, rtol=0)
    detected = [name for name, share, limit in zip(CLASSES, shares[0], limits, strict=True) if share >= limit]
    assert [line.split()[0] for line in done.stdout.splitlines()] == detected
    assert 0 < len(detected) < len(CLASSES)


def test_a_program_is_for_three_platforms_and_any_batch_size(resnet_workdir, tmp_path):
    out = formats.export(resnet_workdir, "stablehlo", tmp_path / "a/b/out")
    program = jax.export.deserialize(bytearray((out / "model.stablehlo").read_bytes()))
    assert program.platforms == ("cpu", "cuda", "tpu")
    assert not program.disabled_safety_checks  # only custom calls with a guarantee of compatibility
    (shape,) = (aval.shape for aval in program.in_avals)
    assert str(shape[0]) == "batch" and shape[1] == 8000
    description = json.loads((out / "model.json").read_text())
    assert description["labels"] == list(CLASSES) and description["task"] == "single_label"
    assert (description["sample_rate"], description["samples"]) == (16_000, 8000)
    assert description["input"]["shape"] == ["batch", 8000] and description["output"]["shape"] == ["batch", 7]
    assert description["measured"] == {"mean": None, "reason": "the run has no results"}
