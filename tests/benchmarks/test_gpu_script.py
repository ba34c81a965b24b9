"""The script of the measurements on a GPU, with a small network on the CPU."""

import importlib.util
import json
import pathlib
import re
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
            ["bash", str(ROOT / "benchmarks" / "gpu.sh"), *parts],
            cwd=tmp_path, env=environment | variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        return done.returncode, done.stdout

    return start


def test_the_gpu_script_names_what_it_cannot_run(gpu):
    status, output = gpu("recipe resnet34 2")
    assert status == 1 and output.endswith("failed: recipe resnet34 2 (set DATA to the folder of a data set)\n")
    assert gpu("steps resnet34", BUDGET_S="5")[1].endswith("failed: steps resnet34 (no time left)\n")


@pytest.mark.parametrize("part", ["unknown", "steps", "recipe resnet34", "ways resnet34 many", "compare resnet34 2 3"])
def test_the_gpu_script_checks_all_parts_before_the_first(gpu, tmp_path, part):
    status, output = gpu("quickstart", part, OUT="results")
    assert (
        status == 64 and output.startswith(f'benchmarks/gpu.sh: there is no part "{part}"') and output.count("\n") == 1
    )
    assert not (tmp_path / "results").exists()


def test_the_gpu_script_lists_its_parts_and_variables(gpu):
    status, output = gpu("--help")
    script = (ROOT / "benchmarks" / "gpu.sh").read_text()
    parts = re.findall(r"^    (\w+)\)$", script, re.MULTILINE)
    variables = re.findall(r"\$\{([A-Z_]+):-", script)
    assert status == 0 and len(parts) == 7 and {"DATA", "BUDGET_S"} <= set(variables)
    for name in {*parts, *variables} - {"ESC_JAX_CACHE"}:
        assert re.search(rf"^  {name} ", output, re.MULTILINE), name


@pytest.mark.slow
def test_a_recipe_that_the_time_limit_stops_continues(gpu, tmp_path):
    recipe = "recipe resnet34 100000 --config.crossval.folds=(1,)"
    metrics = tmp_path / "recipe_resnet34_100000_--config.crossval.folds__1__" / "run" / "fold1" / "metrics.jsonl"

    def epochs() -> list[int]:
        return [json.loads(line)["epoch"] for line in metrics.read_text().splitlines()]

    status, output = gpu(recipe, DATA="unused", BUDGET_S="70")
    assert status == 1 and output.endswith(f"failed: {recipe} (stopped by the time limit of 50 s)\n"), output
    first = epochs()
    assert first, "no epoch within the time limit"
    gpu(recipe, DATA="unused", BUDGET_S="70")
    assert epochs()[: len(first)] == first and len(epochs()) > len(first)
    assert (tmp_path / "gpu.log").read_text().count("epoch 1/100000:") == 1


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
