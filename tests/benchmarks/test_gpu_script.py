"""The script of the measurements on a GPU, with a small network on the CPU."""

import importlib.util
import json
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def gpu(environment, tmp_path):
    """Runs parts of gpu.sh with a small network: (its exit status, its output), files in `tmp_path`.

    With `stop_after=PATTERN`, it gets SIGTERM when a file has this path.
    """

    def start(*parts: str, stop_after: str = "", cwd: pathlib.Path = ROOT, **variables: str):
        variables = {"SCALE": "tiny", "OUT": str(tmp_path), "PYTHON": sys.executable} | variables
        command = ["bash", str(ROOT / "benchmarks/gpu.sh"), *parts]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        with subprocess.Popen(command, cwd=cwd, env=environment | variables, **pipes) as process:
            while stop_after and not list(tmp_path.glob(stop_after)):
                assert process.poll() is None, process.stdout.read()
                time.sleep(0.05)
            if stop_after:
                process.send_signal(signal.SIGTERM)
            output = process.communicate()[0]
        return process.returncode, output

    return start


def test_the_gpu_script_names_what_it_cannot_run(gpu):
    status, output = gpu("recipe resnet34 2")
    assert status == 1 and output.endswith("failed: recipe resnet34 2 (set DATA to the folder of a data set)\n")
    assert gpu("steps resnet34", BUDGET_S="5")[1].endswith("failed: steps resnet34 (no time left)\n")


@pytest.mark.parametrize(
    ("parts", "variables", "sentence"),
    [
        (["steps resnet34", "unknown"], {}, 'there is no part "unknown": see --help'),
        (["steps resnet"], {}, 'part "steps resnet": configs/resnet.py does not exist'),
        (["ways resnet34"], {}, 'part "ways resnet34": "ways NAME" is followed by a number'),
        ([], {"BUDGET_S": "1.5"}, "BUDGET_S=1.5 must be a whole number of seconds"),
        ([], {"DATA": "/no/such/data"}, "DATA=/no/such/data does not exist"),
        ([], {"OUT": "/dev/null/gpu"}, "OUT=/dev/null/gpu is not a folder that can be written to"),
        ([], {"PYTHON": "/no/python"}, "PYTHON=/no/python does not exist"),
    ],
)
def test_a_mistake_is_reported_before_anything_is_measured(gpu, tmp_path, parts, variables, sentence):
    assert gpu(*parts, **variables) == (64, f"benchmarks/gpu.sh: {sentence}\n")
    assert {path.name for path in tmp_path.iterdir()} <= {"lock"}


def test_the_gpu_script_lists_its_parts_and_variables(gpu):
    status, output = gpu("--help")
    script = (ROOT / "benchmarks" / "gpu.sh").read_text()
    parts = re.findall(r"^    (\w+)\)$", script, re.MULTILINE)
    variables = re.findall(r"\$\{([A-Z_]+):-", script)
    assert status == 0 and len(parts) == 7 and {"DATA", "BUDGET_S"} <= set(variables)
    for name in {*parts, *variables} - {"ESC_JAX_CACHE"}:
        assert re.search(rf"^  {name} ", output, re.MULTILINE), name


@pytest.mark.extended
def test_a_stopped_recipe_continues(gpu, load_benchmark, tmp_path):
    """No process is left after a signal: it would train beside the next call."""
    load_benchmark("input_pipeline").write_esc50(tmp_path / "a data set", 60)
    recipe, data = "recipe resnet34 100 --config.crossval.folds=(1,)", {"DATA": "a data set", "cwd": tmp_path}
    status, output = gpu(recipe, stop_after="recipe_*/run/fold1/metrics.jsonl", **data)
    assert status == 75 and output.endswith("stopped; run the same command again to continue\n")
    (folder,) = tmp_path.glob("recipe_*")
    assert list(folder.glob("run/fold1/checkpoints/[0-9]*")) and not (folder / "done").exists()
    status, output = gpu(recipe, **data)
    assert status == 0, output
    assert "resuming at step" in (tmp_path / "gpu.log").read_text()
    assert len((folder / "run/fold1/metrics.jsonl").read_text().splitlines()) == 100
    assert json.loads((folder / "run/config.json").read_text())["data"]["dir"] == str(tmp_path / "a data set")


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
