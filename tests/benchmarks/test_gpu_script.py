"""The script of the measurements on a GPU, with a small network on the CPU."""

import importlib.util
import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def gpu(environment, tmp_path):
    """Runs parts of gpu.sh with a small network: (its exit status, its output), files in `tmp_path`."""

    def start(*parts: str, **variables: str):
        variables = {"SCALE": "tiny", "OUT": str(tmp_path), "PYTHON": sys.executable} | variables
        done = subprocess.run(
            ["bash", "benchmarks/gpu.sh", *parts],
            cwd=ROOT, env=environment | variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        return done.returncode, done.stdout

    return start


def test_the_gpu_script_names_what_it_cannot_run(gpu):
    status, output = gpu("recipe resnet34 2")
    assert status == 1 and output.endswith("failed: recipe resnet34 2 (set DATA to the folder of a data set)\n")
    assert gpu("steps resnet34", BUDGET_S="5")[1].endswith("failed: steps resnet34 (no time left)\n")
    assert gpu("unknown")[0] == 64


@pytest.mark.extended
def test_the_gpu_script_runs_every_part_and_skips_finished_ones(gpu, load_benchmark, tmp_path):
    data = load_benchmark("input_pipeline").write_esc50(tmp_path / "data", 60)
    parts = [
        "steps resnet34",
        "kernels resnet34",
        "startup resnet34",
        "ways resnet34 1",
        "recipe resnet34 1 --config.train.batch_size=6 --config.crossval.folds=(1,2)",
        "quickstart",
    ]
    if importlib.util.find_spec("torch"):
        parts.append("compare resnet34 2")
    status, output = gpu(*parts, DATA=str(data), BUDGET_S="3000")
    assert status == 0, output
    tables = (tmp_path / "gpu.md").read_text()
    for title in ("step_parts", "kernels", "startup", "crossval_ways", "Every fold was tested once"):
        assert title in tables
    (recipe,) = tmp_path.glob("recipe_*")
    results = json.loads((recipe / "results.json").read_text())
    assert len(results["folds"]) == 2
    assert json.loads((recipe / "run" / "config.json").read_text())["train"]["batch_size"] == 6
    status, output = gpu(*parts, DATA=str(data))
    assert status == 0 and output.count("finished before") == len(parts)
