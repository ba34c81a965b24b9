"""Ablations: the grid, what is run again, and the table, on runs that cost nothing."""

import csv
import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from esc_jax.evaluation import confidence

ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY = str(ROOT / "tests" / "configs" / "tiny.py")
# In the place of esc_jax.main: right more often with mixup than without, whatever the other setting; dies on demand.
FAKE = """
import csv, json, os, pathlib, sys
given = dict(word[2:].split("=", 1) for word in sys.argv[1:])
workdir = pathlib.Path(given["workdir"])
workdir.mkdir(parents=True, exist_ok=True)
tries = workdir / "tries"
tries.write_text(tries.read_text() + "x" if tries.exists() else "x")
if given["config.optim.lr"] == os.environ.get("DIE") and len(tries.read_text()) <= int(os.environ["DIE_TIMES"]):
    sys.exit("the loss is nan")
if given["config.optim.lr"] == os.environ.get("INTERRUPTED"):
    sys.exit()
mixed = given["config.augment.mixup_alpha"] != "0"
with open(workdir / "predictions.csv", "w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(["clip", "fold", "source", "seed", "true", "predicted"])
    for i in range(40):
        writer.writerow([f"{i}.wav", 1 + i // 20, f"r{i // 2}", 0, "a", "a" if i % 4 < 2 + mixed else "b"])
share = (2 + mixed) / 4
part = {"mean": share, "std": 0.0, "ci95": [share, share]}
found = {"accuracy": part, "accuracy_tta": None, "argv": sys.argv[1:], "cwd": os.getcwd()}
(workdir / "results.json").write_text(json.dumps(found))
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
    pytest.importorskip("submitit", reason="ablations run through submitit: pip install -r requirements-test.txt")
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


def test_a_sweep_runs_every_combination_once_and_names_what_matters(start, tmp_path):
    said = start(*ARGUMENTS, "--at_once=2").stdout
    names = {f"lr={lr},mixup_alpha={alpha}" for lr in ("0.1", "0.2") for alpha in ("0", "0.3")}
    assert tries(tmp_path) == dict.fromkeys(names, 1)
    argv = json.loads((tmp_path / "runs" / "lr=0.2,mixup_alpha=0" / "results.json").read_text())["argv"]
    expected = {"--mode=crossval", "--config.crossval.folds=(1, 2)", "--config.crossval.seeds=2", "--config.seed=3"}
    assert expected | {"--config.train.epochs=1", "--config.optim.lr=0.2", f"--config={TINY}"} <= set(argv)
    rows = [line.split(" | ") for line in said.splitlines() if line.startswith(("| augment", "| optim"))]
    table = {row[0].strip("| "): row for row in rows}
    assert table["augment.mixup_alpha"][3] == "+25.00" and table["augment.mixup_alpha"][-1].strip(" |") == "*"
    assert table["optim.lr"][3] == "+0.00" and table["optim.lr"][-1].strip(" |") == ""
    assert (tmp_path / "runs" / "ablation.md").read_text() == said
    start(*ARGUMENTS)  # all of it is done
    assert tries(tmp_path) == dict.fromkeys(names, 1)


def test_a_crash_is_tried_once_more_and_stops_nobody(start, tmp_path):
    start(*ARGUMENTS, DIE="0.1", DIE_TIMES="1")
    assert sorted(tries(tmp_path).values()) == [1, 1, 2, 2]


def test_what_crashes_twice_is_named_and_left_out(start, tmp_path):
    said = start(*ARGUMENTS, check=1, DIE="0.1", DIE_TIMES="2").stdout
    assert "lr=0.1,mixup_alpha=0: the loss is nan" in said and tries(tmp_path)["lr=0.2,mixup_alpha=0.3"] == 1
    assert "+25.00" in said  # from the runs that are left


def test_an_interrupted_run_is_not_done_and_a_broken_result_is_none(start, tmp_path):
    done = start(*ARGUMENTS, check=1, INTERRUPTED="0.1")
    assert "lr=0.1,mixup_alpha=0: not finished" in done.stdout and set(tries(tmp_path).values()) == {1}
    assert "lr=0.1,mixup_alpha=0: not finished" in done.stderr and "lr=0.1,mixup_alpha=0: done" not in done.stderr
    (tmp_path / "runs/lr=0.2,mixup_alpha=0/results.json").write_text('{"accu')
    said = start(*ARGUMENTS)
    assert sorted(tries(tmp_path).values()) == [1, 2, 2, 2] and "left out" not in said.stdout


def test_paths_are_those_of_the_folder_it_is_started_in(start, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(TINY, elsewhere / "mine.py")
    lone = ["--config=mine.py", "--config.optim.lr=0.1", "--config.augment.mixup_alpha=0"]
    table = start(*lone, cwd=elsewhere).stdout.splitlines()
    found = json.loads((tmp_path / "runs/run/results.json").read_text())
    assert found["cwd"] == str(elsewhere) and f"--config={elsewhere}/mine.py" in found["argv"]
    assert {line.count("|") for line in table[:3]} == {4}  # nothing is swept: three columns


def test_writeups_stop_where_a_run_was_interrupted(tmp_path):
    (tmp_path / "launch").mkdir()
    script = shutil.copy(ROOT / "launch/writeups.sh", tmp_path / "launch")
    python = tmp_path / "python"
    python.write_text(
        '#!/bin/sh\ncase "$*" in *simclr*) exit 0;; esac\nmkdir -p runs/resnet34; touch runs/resnet34/results.json\n'
    )
    python.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", script], env=environment, capture_output=True, text=True)
    said = "simclr_writeup was interrupted: the same command goes on from there\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_values_are_parted_at_commas_outside_of_brackets(ablate):
    from esc_jax import config as configs

    grid = ablate.parse_sweeps(["model.encoder.stage_sizes=(2,2),(3,4,6)", "seed=1,2"], configs.load(TINY))
    assert grid == {"model.encoder.stage_sizes": ["(2,2)", "(3,4,6)"], "seed": ["1", "2"]}


def test_differences_pair_the_same_clips(ablate, tmp_path):
    rng = np.random.default_rng(0)
    grid, runs, hits = {"a": ["1", "2"], "b": ["x", "y"]}, [], {}
    for a in grid["a"]:
        for b in grid["b"]:
            folder = tmp_path / f"{a}{b}"
            folder.mkdir()
            hits[a, b] = rng.random(30) < (0.5 if a == "1" else 0.8)
            with open(folder / "predictions.csv", "w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["clip", "fold", "source", "seed", "true", "predicted"])
                order = rng.permutation(30)  # nothing may depend on it
                writer.writerows([i, 1, f"r{i // 3}", 0, "t", "t" if hits[a, b][i] else "f"] for i in order)
            runs.append(ablate.Run({"a": a, "b": b}, folder, []))
    found = {key: gain for key, _, _, gain in ablate.effects(runs, grid)}
    recordings = [f"r{i // 3}" for i in range(30)] * 2
    second, first = np.concatenate([hits["2", "x"], hits["2", "y"]]), np.concatenate([hits["1", "x"], hits["1", "y"]])
    expected = confidence.difference_interval(second, first, recordings)
    assert found["a"].value == pytest.approx(second.mean() - first.mean())
    # The same draws of the same clusters, summed in another order.
    np.testing.assert_allclose((found["a"].low, found["a"].high), (expected.low, expected.high), atol=0.02)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--sweep", "train.epoch=1"], "there is no config.train.epoch; did you mean config.train.epochs?"),
        (["--sweep", "train.epochs"], "give a key and its values, as optim.lr="),
        (["--sweep", "train.epochs=5,5"], "two runs would be called epochs=5: give each value once"),
        (["--seeds=0,2"], "give consecutive seeds"),
        (["--fold=1"], "there is no --fold=1; other settings"),
        (["--folds=one"], "invalid literal"),
    ],
)
def test_mistakes(ablate, arguments, said, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        ablate.main([f"--config={TINY}", f"--runs={tmp_path}", *arguments])
    assert ended.value.code == 2 and said in capsys.readouterr().err
