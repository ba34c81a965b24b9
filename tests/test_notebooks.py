"""The notebooks, executed from top to bottom on small runs."""

import json
import pathlib
import subprocess
import sys
from types import SimpleNamespace

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
TINY = "tests/configs/tiny.py"


def execute(name, environment, **settings):
    """Executes a notebook in a kernel of its own; returns the text output and the number of pictures."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "commit notebooks without outputs"
    client = nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3")
    client.execute(env=environment | settings, cwd=str(ROOT / "notebooks"))
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = sum("image/png" in output.get("data", {}) for output in outputs)
    texts = [output.get("text", "") + output.get("data", {}).get("text/markdown", "") for output in outputs]
    return "".join(texts), pictures


@pytest.mark.slow
def test_data(environment):
    text, pictures = execute("data", environment, ESC_JAX_CONFIG=TINY)
    assert "60 clips of 1 s at 16000 Hz, 12 classes" in text and "[1]" in text and pictures == 2


@pytest.mark.extended
def test_checkpoint(run, environment, tmp_path):
    shape = ["data.name=synthetic", "data.clips_per_fold=1", "data.sample_rate=16000", "data.clip_s=1.0"]
    shape += ["frontend.hop=256", "frontend.n_fft=512", "frontend.mels=32", "augment.crop_s=0.9"]
    shape += ["model.encoder.layers=2", "model.encoder.width=16", "model.encoder.heads=2", "model.encoder.ffn=16"]
    shape += ["train.epochs=1", "pretrain.epochs=1", "pretrain.batch_size=16", "pretrain.clusters=8"]
    shape += ["pretrain.augment.crop_s=0.9", "train.tensorboard=False"]
    shape = [f"--config.{option}" for option in shape]
    run("main", "--config=configs/masked_transformer.py", *shape, f"--workdir={tmp_path}/run")
    text, pictures = execute("checkpoint", environment, ESC_JAX_RUN=f"{tmp_path}/run")
    assert "encoder/layer_1/attention/query/kernel" in text and "accuracy" in text and "tokens.png" in text
    assert pictures == 5  # patches, embeddings, attention, tokens, energies


@pytest.mark.extended
def test_ablation(environment, tmp_path):
    command = [
        sys.executable, "launch/ablate.py", f"--config={TINY}", "--sweep", "augment.roll=0,1", "--folds=1",
        f"--runs={tmp_path}/runs", "--config.train.epochs=1",
    ]  # fmt: skip
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, timeout=600)
    text, pictures = execute("ablation", environment, ESC_JAX_RUNS=f"{tmp_path}/runs")
    assert text.startswith("2 runs") and "95 % CI" in text and "augment.roll" in text and pictures == 1


def test_ablation_draws_intervals_that_exclude_the_mean():
    """The mean is over folds and the interval over recordings, so that this can happen."""
    from matplotlib import pyplot

    from esc_jax.evaluation.confidence import ConfidenceInterval
    from esc_jax.tasks import registry

    cells = json.loads((ROOT / "notebooks/ablation.ipynb").read_text())["cells"]
    (drawing,) = ["".join(cell["source"]) for cell in cells if "plt.errorbar" in "".join(cell["source"])]
    runs = [
        SimpleNamespace(name="a", score=ConfidenceInterval(0.5, low, high, 3), task=registry.get("single_label"))
        for low, high in ((0.3, 0.4), (0.6, 0.7))
    ]
    exec(drawing.replace("plt.show()", "plt.close()"), {"plt": pyplot, "runs": runs})
