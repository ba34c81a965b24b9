"""Ablations and launch scripts with a fake training command: the grid, retries, the tables, exit statuses."""

import csv
import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from esc_jax import config as configs
from esc_jax.evaluation import confidence
from esc_jax.models import model as models
from esc_jax.objectives.supervised import Supervised
from esc_jax.runtime import devices
from esc_jax.tasks import registry as tasks
from esc_jax.training import optim
from esc_jax.training import state as states
from esc_jax.training import step as steps

ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY = str(ROOT / "tests" / "configs" / "tiny.py")
# Replaces esc_jax.main: more accurate with mixup than without, whatever the other setting; fails on demand.
FAKE = """
import csv, json, os, pathlib, sys
given = dict(word[2:].split("=", 1) for word in sys.argv[1:])
workdir = pathlib.Path(given["workdir"])
workdir.mkdir(parents=True, exist_ok=True)
tries = workdir / "tries"
tries.write_text(tries.read_text() + "x" if tries.exists() else "x")
if given["config.optim.lr"] == os.environ.get("FAIL") and len(tries.read_text()) <= int(os.environ["FAIL_TIMES"]):
    sys.exit("the loss is nan")
if given["config.optim.lr"] == os.environ.get("INTERRUPTED"):
    sys.exit(75)
mixed = given["config.augment.mixup_alpha"] != "0"
with open(workdir / "predictions.csv", "w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(["clip", "fold", "source", "seed", "true", "predicted", "predicted_tta", "a", "b"])
    for i in range(40):
        correct = i % 4 < 2 + mixed
        predicted = "a" if correct else "b"
        writer.writerow([f"{i}.wav", 1 + i // 20, f"r{i // 2}", 0, "a", predicted, predicted, +correct, +(not correct)])
share = (2 + mixed) / 4
part = {"mean": share, "std": 0.0, "ci95": [share, share]}
results = {"task": "single_label", "data": {"classes": ["a", "b"]}, "accuracy": part, "accuracy_tta": None}
results |= {"argv": sys.argv[1:], "cwd": os.getcwd()}
(workdir / "results.json").write_text(json.dumps(results))
"""
ARGUMENTS = [
    f"--config={TINY}", "--sweep", "optim.lr=0.1,0.2", "--sweep", "augment.mixup_alpha=0,0.3", "--folds=1,2",
    "--seeds=3,4", "--config.train.epochs=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def ablate():
    spec = importlib.util.spec_from_file_location("ablate", ROOT / "launch" / "ablate.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["ablate"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def start(tmp_path):
    """Runs the script with FAKE as `python`: start(*arguments, check=…, **environment) → CompletedProcess."""
    pytest.importorskip("submitit", reason="ablations run through submitit: pip install 'esc-jax[launch]'")
    fake = tmp_path / "fake.py"
    fake.write_text(FAKE)
    # `python -m esc_jax.main …` becomes `python fake.py …`.
    wrapper = tmp_path / "ablate.py"
    wrapper.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT / 'launch')!r})\n"
        "import ablate\nplan = ablate.plan\n"
        "def planned(options, grid):\n"
        f"    return [ablate.dataclasses.replace(r, command=[r.command[0], {str(fake)!r}, *r.command[3:]])"
        " for r in plan(options, grid)]\n"
        "ablate.plan = planned\nablate.main()\n"
    )

    def run(*arguments, check=0, cwd=None, **environment):
        command = [sys.executable, str(wrapper), *arguments, f"--runs={tmp_path / 'runs'}"]
        paths = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "launch")])}
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | paths | environment, cwd=cwd)
        assert done.returncode == check, done.stdout + done.stderr
        return done

    return run


def tries(tmp_path):
    return {p.parent.name: len(p.read_text()) for p in (tmp_path / "runs").glob("*/tries")}


@pytest.mark.slow
def test_sweep_runs_every_combination_once_and_estimates_effects(start, tmp_path):
    output = start(*ARGUMENTS, "--at_once=2").stdout
    names = {f"lr={lr},mixup_alpha={alpha}" for lr in ("0.1", "0.2") for alpha in ("0", "0.3")}
    assert tries(tmp_path) == dict.fromkeys(names, 1)
    argv = json.loads((tmp_path / "runs" / "lr=0.2,mixup_alpha=0" / "results.json").read_text())["argv"]
    expected = {"--mode=crossval", "--config.crossval.folds=(1, 2)", "--config.crossval.seeds=2", "--config.seed=3"}
    assert expected | {"--config.train.epochs=1", "--config.optim.lr=0.2", f"--config={TINY}"} <= set(argv)
    rows = [line.split(" | ") for line in output.splitlines() if line.startswith(("| augment", "| optim"))]
    table = {row[0].strip("| "): row for row in rows}
    assert table["augment.mixup_alpha"][3] == "+25.00" and table["augment.mixup_alpha"][-1].strip(" |") == "*"
    assert table["optim.lr"][3] == "+0.00" and table["optim.lr"][-1].strip(" |") == ""
    assert (tmp_path / "runs" / "ablation.md").read_text() == output
    start(*ARGUMENTS)  # everything is done
    assert tries(tmp_path) == dict.fromkeys(names, 1)


@pytest.mark.slow
def test_failed_run_is_retried_once(start, tmp_path):
    start(*ARGUMENTS, FAIL="0.1", FAIL_TIMES="1")
    assert sorted(tries(tmp_path).values()) == [1, 1, 2, 2]


@pytest.mark.extended
def test_run_that_fails_twice_is_excluded(start, tmp_path):
    output = start(*ARGUMENTS, check=1, FAIL="0.1", FAIL_TIMES="2").stdout
    assert "lr=0.1,mixup_alpha=0: the loss is nan" in output and tries(tmp_path)["lr=0.2,mixup_alpha=0.3"] == 1
    assert "+25.00" in output  # from the other runs


@pytest.mark.extended
def test_interrupted_run_is_not_retried_and_truncated_results_are_replaced(start, tmp_path):
    done = start(*ARGUMENTS, check=75, INTERRUPTED="0.1")
    message = "lr=0.1,mixup_alpha=0: interrupted; run the same command again to resume it"
    assert message in done.stdout and message in done.stderr and set(tries(tmp_path).values()) == {1}
    assert "lr=0.1,mixup_alpha=0: done" not in done.stderr
    (tmp_path / "runs/lr=0.2,mixup_alpha=0/results.json").write_text('{"accu')
    resumed = start(*ARGUMENTS)
    assert sorted(tries(tmp_path).values()) == [1, 2, 2, 2] and "Excluded" not in resumed.stdout


def test_paths_are_relative_to_the_current_folder(start, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(TINY, elsewhere / "mine.py")
    single = ["--config=mine.py", "--config.optim.lr=0.1", "--config.augment.mixup_alpha=0"]
    table = start(*single, cwd=elsewhere).stdout.splitlines()
    results = json.loads((tmp_path / "runs/run/results.json").read_text())
    assert results["cwd"] == str(elsewhere) and f"--config={elsewhere}/mine.py" in results["argv"]
    assert {line.count("|") for line in table[:3]} == {4}  # nothing is swept: three columns


@pytest.fixture
def script(tmp_path):
    """Runs a copy of a launch script with a fake `python` and other commands: script(name, *arguments, python=BODY)."""
    (tmp_path / "launch").mkdir()
    (tmp_path / "bin").mkdir()

    def run(name, *arguments, **commands):
        copy = shutil.copy(ROOT / "launch" / name, tmp_path / "launch")
        for command, body in commands.items():
            (tmp_path / "bin" / command).write_text(f"#!/bin/bash\n{body}\n")
            (tmp_path / "bin" / command).chmod(0o755)
        environment = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
        environment.pop("SLURM_SUBMIT_DIR", None)
        return subprocess.run(["bash", copy, *arguments], env=environment, capture_output=True, text=True)

    return run


def test_writeups_stop_at_an_interrupted_run(script):
    done = script("writeups.sh", python='case "$*" in *simclr*) exit 75;; *) exit 1;; esac')
    message = "simclr_writeup was stopped and its state was saved: run the same command again to resume it\n"
    assert (done.returncode, done.stderr) == (75, message)


def test_writeups_continue_after_a_failure(script):
    done = script("writeups.sh", python='echo "$*"; case "$*" in *simclr*) exit 1;; esac')
    assert (done.returncode, done.stderr) == (1, "failed: simclr_writeup\n")
    assert done.stdout.splitlines()[-1] == "-m esc_jax report runs"


# Two tasks; Slurm's SIGTERM reaches the shell of each task as well as the program.
SRUN = """
shift
for task in 1 2; do setsid "$@" & tasks+=($!); done
sleep 1
for task in "${tasks[@]}"; do kill -TERM -- "-$task" 2> /dev/null; done
status=0
for task in "${tasks[@]}"; do wait "$task" || status=$?; done
exit $status
"""


@pytest.mark.parametrize(("status", "requeued"), [(75, True), (0, False), (1, False)])
def test_slurm_requeues_interrupted_runs(script, tmp_path, status, requeued):
    python = f'trap "sleep 0.3; exit {status}" TERM; echo "$*"; for i in $(seq 100); do sleep 0.1; done'
    done = script("slurm.sh", "--config=a b", srun=SRUN, python=python, scontrol='echo "scontrol $*"')
    assert done.returncode == status and done.stdout.count("-m esc_jax.main --distributed --config=a b") == 2
    assert ("scontrol requeue 7" in done.stdout) == requeued
    assert not list(tmp_path.glob(".interrupted*"))


def test_tpu_pod_quotes_its_arguments(script):
    arguments = ["pod", "zone", "--config=a b", "--workdir=w"]
    done = script("tpu_pod.sh", *arguments, gcloud='printf "%s\\n" "$@"; exit 75')
    assert done.returncode == 75 and "run the same command again" in done.stderr
    assert "--config=a\\ b --workdir=w" in done.stdout
    assert script("tpu_pod.sh").returncode == 2


def test_runs_at_a_time_share_the_memory_of_a_gpu_or_have_gpus_of_their_own(ablate, monkeypatch):
    def environments(*arguments: str):
        return [slot[1] for slot in ablate.slots(ablate._parser().parse_args([*ARGUMENTS[:1], "--runs=r", *arguments]))]

    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    assert environments() == [{}]  # XLA's default
    assert environments("--at_once=4") == [{"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.225"}] * 4
    assert environments("--at_once=2", "--gpus=2") == [{"CUDA_VISIBLE_DEVICES": "0,1"}, {"CUDA_VISIBLE_DEVICES": "2,3"}]
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.1")
    assert environments("--at_once=4") == [{}] * 4


def test_sweep_values_are_split_at_commas_outside_brackets(ablate):
    from esc_jax import config as configs

    grid = ablate.parse_sweeps(["model.encoder.stage_sizes=(2,2),(3,4,6)", "seed=1,2"], configs.load(TINY))
    assert grid == {"model.encoder.stage_sizes": ["(2,2)", "(3,4,6)"], "seed": ["1", "2"]}


@pytest.mark.slow
def test_changes_are_compared_with_the_config_itself(start, tmp_path):
    file = tmp_path / "arguments.txt"
    file.write_text(f"# A comment.\n\n--config={TINY}\n--config.optim.lr=0.1\n--config.augment.mixup_alpha=0\n")
    changes = ["--change=mixed: augment.noise=0.1 config.augment.roll=0.5", "--change=loud: augment.gain_db=12"]
    output = start(f"@{file}", *changes, "--config.optim.lr=0.2", "--folds=1").stdout
    assert tries(tmp_path) == dict.fromkeys(("change=none", "change=mixed", "change=loud"), 1)
    argv = json.loads((tmp_path / "runs/change=mixed/results.json").read_text())["argv"]
    assert {"--config.augment.noise=0.1", "--config.augment.roll=0.5", "--config.optim.lr=0.2"} <= set(argv)
    assert "--config.optim.lr=0.1" not in argv and not any("gain_db" in word for word in argv)
    assert output.count("| change | none | ") == 2


@pytest.fixture
def ingredients(ablate, monkeypatch, tmp_path):
    """The planned runs of launch/ingredients.txt."""
    planned = []
    monkeypatch.setattr(ablate, "launch", lambda runs, options: planned.extend(runs) or {})
    small = ["--config.model.encoder.stage_sizes=(1,1)", "--config.data.name=synthetic", "--config.train.batch_size=8"]
    ablate.main([f"@{ROOT}/launch/ingredients.txt", f"--runs={tmp_path}", *small, "--config.train.epochs=1"])
    return planned


def test_one_command_runs_at_least_ten_ingredients(ablate, ingredients):
    names = [run.settings["change"] for run in ingredients]
    assert names[0] == "none" and len(names) > 10
    given = configs.load("resnet18_cpu")
    base = configs.flatten(ablate.config_of(ingredients[0], given))
    for run in ingredients:
        config = ablate.config_of(run, given)
        configs.check(config)
        flat = configs.flatten(config)
        assert run.settings["change"] == "none" or any(flat[key] != base[key] for key in flat)


@pytest.mark.extended
def test_every_ingredient_is_a_training_step(ablate, ingredients):
    """Traced, not computed."""
    task = tasks.get("single_label")
    for run in ingredients:
        config = ablate.config_of(run, configs.load("resnet18_cpu"))
        model, initialize = models.abstract(config, [str(i) for i in range(5)])
        variables = jax.eval_shape(initialize, jax.random.key(0))
        optimizer = optim.build(config.optim, variables["params"], 10, 10)
        step = steps.train_step(Supervised(config, model, task), optimizer, config.optim, ema=config.train.ema)
        state = jax.eval_shape(lambda v, o=optimizer: states.create(v, o, ema=True), variables)
        samples = round(config.data.clip_s * config.data.sample_rate)
        batch = {
            "audio": jax.ShapeDtypeStruct((1, 8, samples), np.int16),
            "label": jax.ShapeDtypeStruct((1, 8), np.int32),
        }
        mapped = jax.vmap(step, in_axes=(None, 0), axis_name=devices.AXIS)
        _, metrics = jax.eval_shape(mapped, state, batch)
        assert metrics["loss"].shape == (1,)


def test_finished_runs_of_another_config_are_refused(ablate, tmp_path, capsys):
    """They have the name of the run that is asked for, and would be reported in its place."""
    arguments = [f"--config={TINY}", f"--runs={tmp_path}", "--sweep", "optim.lr=0.1,0.2", "--folds=1,2"]
    trained = configs.load(TINY)
    trained.update_from_flattened_dict({"optim.lr": 0.2, "crossval.folds": (1, 2), "data.dir": "elsewhere"})
    folder = tmp_path / "lr=0.2"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(trained.to_dict()))
    (folder / "results.json").write_text("{}")
    grid = {"optim.lr": ["0.1", "0.2"]}
    options = ablate._parser().parse_args(arguments)
    options.changes, options.rest = {}, []
    ablate.check_configs(ablate.plan(options, grid), configs.load(TINY))
    for changed in ("--config.train.epochs=7", "--seeds=1"):
        with pytest.raises(SystemExit) as exit_info:
            ablate.main([*arguments, changed])
        assert exit_info.value.code == 2
    errors = capsys.readouterr().err
    assert "contains a run of another config: train.epochs (3, now 7)" in errors
    assert "contains a run of another config: seed (0, now 1)" in errors


def test_ctrl_c_is_reported_in_one_sentence(ablate, monkeypatch, tmp_path, capsys):
    def interrupted(runs, options):
        raise KeyboardInterrupt

    monkeypatch.setattr(ablate, "launch", interrupted)
    with pytest.raises(SystemExit) as exit_info:
        ablate.main([f"--config={TINY}", f"--runs={tmp_path}"])
    assert exit_info.value.code == 75 and "run the same command again" in capsys.readouterr().err


def test_effects_pair_the_same_clips(ablate, tmp_path):
    rng = np.random.default_rng(0)
    grid, runs, hits = {"a": ["1", "2"], "b": ["x", "y"]}, [], {}
    for a in grid["a"]:
        for b in grid["b"]:
            folder = tmp_path / f"{a}{b}"
            folder.mkdir()
            hits[a, b] = rng.random(30) < (0.5 if a == "1" else 0.8)
            (folder / "results.json").write_text('{"task": "single_label", "data": {"classes": ["a", "b"]}}')
            with open(folder / "predictions.csv", "w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["clip", "fold", "source", "seed", "true", "predicted", "predicted_tta", "a", "b"])
                for i in rng.permutation(30):  # the result must not depend on the order
                    correct = hits[a, b][i]
                    predicted = "a" if correct else "b"
                    writer.writerow([i, 1, f"r{i // 3}", 0, "a", predicted, predicted, int(correct), int(not correct)])
            runs.append(ablate.Run({"a": a, "b": b}, folder, []))
    effects = {key: gain for key, _, _, gain in ablate.effects(runs, grid)}
    recordings = [f"r{i // 3}" for i in range(30)] * 2
    second, first = np.concatenate([hits["2", "x"], hits["2", "y"]]), np.concatenate([hits["1", "x"], hits["1", "y"]])
    expected = confidence.difference_interval(second, first, recordings)
    assert effects["a"].value == pytest.approx(second.mean() - first.mean())
    # The same draws of the same clusters, summed in another order.
    np.testing.assert_allclose((effects["a"].low, effects["a"].high), (expected.low, expected.high), atol=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sweep", "train.epoch=1"], "there is no config.train.epoch; did you mean config.train.epochs?"),
        (["--sweep", "train.epochs"], "give a key and its values, for example optim.lr="),
        (["--change=augment.noise=0.1"], "give a name and settings, for example loud: "),
        (["--change=a: augment.nois=0.1"], "there is no config.augment.nois; did you mean config.augment.noise?"),
        (["--change=a: augment.noise=1", "--change=a: augment.noise=2"], "the name a is used twice"),
        (["--change=a: augment.noise=1", "--config.augment.noise=2"], "augment.noise is set for all runs, or swept"),
        (["--sweep", "train.epochs=5,5"], "two runs would have the name epochs=5: give each value once"),
        (["--seeds=0,2"], "give consecutive seeds"),
        (["--fold=1"], "unknown argument --fold=1; settings"),
        (["--folds=one"], "--folds=one: give whole numbers"),
        (["--sweep", "augment.mixup_alpha=0,high"], "--config.augment.mixup_alpha=high"),
        (["--sweep", "augment.mixup_alpha=0,-1"], "mixup_alpha=-1: config.augment.mixup_alpha=-1.0 is out of range"),
        (["--change=a: optim.schedule=step"], "change=a: optim.schedule=step: the schedules are one_cycle"),
    ],
)
def test_invalid_command_lines(ablate, arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_info:
        ablate.main([f"--config={TINY}", f"--runs={tmp_path}", *arguments])
    assert exit_info.value.code == 2 and message in capsys.readouterr().err
