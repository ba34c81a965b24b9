"""`python -m esc_jax.main` from end to end."""

import csv
import json
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import soundfile

from esc_jax import config as configs
from esc_jax import main
from esc_jax.models import model as models
from esc_jax.training import checkpoint

ROOT = pathlib.Path(__file__).resolve().parents[1]
TINY = "--config=tests/configs/tiny.py"


@pytest.fixture(scope="module")
def done(run, tmp_path_factory):
    """A finished run of the tiny config: (workdir, what the command printed)."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    return workdir, run("main", TINY, f"--workdir={workdir}")


def weights(workdir):
    """Every array of a run's newest checkpoint, by item and path."""
    import orbax.checkpoint as ocp

    folder, step = checkpoint.find(workdir)
    arrays = {}
    for item in ("variables", "ema", "optimizer"):
        with ocp.StandardCheckpointer() as reader:
            tree = reader.restore(folder / str(step) / item)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            arrays[item + jax.tree_util.keystr(path)] = np.asarray(leaf)
    return arrays


def test_the_files_of_a_run(done):
    workdir, printed = done
    results = json.loads((workdir / "results.json").read_text())
    assert {
        "config_name", "data", "task", "protocol", "test_selected", "folds", "accuracy", "accuracy_tta", "per_class",
        "confusion", "parameters", "device", "versions",
    } <= set(results)  # fmt: skip
    assert (results["config_name"], results["task"], results["protocol"]) == ("tiny", "single_label", "holdout")
    assert results["test_selected"] is False
    fold = results["folds"][0]
    assert (fold["fold"], fold["total"], fold["epochs"]) == (5, 12, 3)
    assert fold["accuracy"] == fold["correct"] / 12 == results["accuracy"]["mean"]
    assert np.array(results["confusion"]).sum() == 12 and np.trace(results["confusion"]) == fold["correct"]
    for picture in ("confusion_matrix.png", "curves.png"):
        assert (workdir / picture).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3] and lines[-1]["step"] == 18
    assert all(np.isfinite(line["loss"]) for line in lines)
    assert json.loads((workdir / "config.json").read_text())["train"]["epochs"] == 3
    assert f"accuracy            {100 * fold['accuracy']:.2f} %" in printed.stdout
    assert printed.stdout.splitlines()[-1].endswith(f"esc_jax predict --model={workdir} FILE")


def test_predictions_agree_with_the_counts(done):
    workdir, _ = done
    results = json.loads((workdir / "results.json").read_text())
    with open(workdir / "predictions.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12 and {r["fold"] for r in rows} == {"5"}
    assert sum(r["true"] == r["predicted"] for r in rows) == results["folds"][0]["correct"]
    assert sum(r["true"] == r["predicted_tta"] for r in rows) == results["folds"][0]["correct_tta"]
    for row in rows:
        shares = [float(row[c]) for c in results["data"]["classes"]]
        assert abs(sum(shares) - 1) < 1e-4  # printed with nine digits
        assert results["data"]["classes"][int(np.argmax(shares))] == row["predicted"]


@pytest.mark.slow
def test_a_finished_run_started_again_prints_the_same(done, run):
    workdir, printed = done
    again = run("main", TINY, f"--workdir={workdir}")
    assert again.stdout == printed.stdout
    evaluated = run("main", TINY, f"--workdir={workdir}", "--mode=evaluate", "--config.eval.batch_size=5")
    assert evaluated.stdout == printed.stdout


@pytest.mark.slow
@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_crops_are_averaged(done, run, tmp_path, average):
    """The average over ten crops, against predictions of the crops one by one."""
    from esc_jax.data.datasets import registry
    from esc_jax.training import restore, step

    workdir = tmp_path / "run"
    shutil.copytree(done[0], workdir)
    settings = ("--config.eval.tta=10", "--config.eval.views=crops", "--config.eval.view_crop_s=0.5")
    printed = run(
        "main", TINY, f"--workdir={workdir}", "--mode=evaluate", *settings, f"--config.eval.view_average={average}"
    )
    results = json.loads((workdir / "results.json").read_text())
    kind = "crops" if average == "probabilities" else "crops, logits"
    assert f"with 10 {kind} (TTA)" in printed.stdout and results["tta_kind"] == kind
    restored = restore.restore(workdir)
    clips = registry.load(restored.config.data)
    audio = clips.read([i for i, fold in enumerate(clips.folds) if fold == 5])
    logits = step.logits_step(restored.model)
    starts = np.linspace(0, 8000, 10).round().astype(int)
    variables = restored.model.variables
    of_crops = np.stack([logits(variables, audio[:, start : start + 8000])[0] for start in starts])

    def softmax(x):
        return np.exp(x) / np.exp(x).sum(-1, keepdims=True)

    expected = softmax(of_crops.mean(0)) if average == "logits" else softmax(of_crops).mean(0)
    with open(workdir / "predictions.csv") as file:
        rows = list(csv.DictReader(file))
    averaged = [[float(row[f"{name}_tta"]) for name in restored.model.classes] for row in rows]
    np.testing.assert_allclose(averaged, expected, rtol=2e-4)  # printed with nine digits
    plain = [[float(row[name]) for name in restored.model.classes] for row in rows]
    np.testing.assert_allclose(plain, softmax(np.asarray(logits(restored.model.variables, audio)[0])), rtol=2e-4)


def start(environment, workdir, *arguments):
    command = [sys.executable, "-m", "esc_jax.main", TINY, f"--workdir={workdir}", *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_epoch(workdir, epochs, process):
    path = workdir / "metrics.jsonl"
    for _ in range(6000):
        if path.exists() and len(path.read_text().splitlines()) >= epochs:
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    raise AssertionError(f"no epoch {epochs} in {workdir}")


@pytest.mark.slow
@pytest.mark.parametrize("how", [pytest.param(signal.SIGTERM, marks=pytest.mark.extended), signal.SIGKILL])
def test_a_killed_run_resumes_to_the_same_bits(done, run, environment, tmp_path, how):
    whole, _ = done
    workdir = tmp_path / "killed"
    process = start(environment, workdir)
    try:
        wait_for_epoch(workdir, 1, process)
        if how == signal.SIGKILL:
            process.send_signal(signal.SIGSTOP)  # it would finish before another process has started
            failed = run("main", TINY, f"--workdir={workdir}", check=1)
            assert f"esc_jax: {workdir} is" in failed.stderr and "by another process" in failed.stderr
        process.send_signal(how)
        output, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    if how == signal.SIGTERM:
        interrupted = process.returncode == 75 and "run the same command again to continue" in errors
        assert interrupted or (process.returncode == 0 and "accuracy" in output)
    run("main", TINY, f"--workdir={workdir}")
    expected, resumed = weights(whole), weights(workdir)
    assert expected.keys() == resumed.keys() and len(resumed) > 30
    for name in expected:
        np.testing.assert_array_equal(resumed[name], expected[name], err_msg=name)
    one, other = (
        [
            {k: v for k, v in json.loads(line).items() if k not in ("seconds", "data_wait")}
            for line in (w / "metrics.jsonl").open()
        ]
        for w in (whole, workdir)
    )
    assert one == other


def test_sigterm_outside_of_the_training_steps_is_a_stop_that_can_be_continued(environment, tmp_path):
    code = "import time; from esc_jax import main; main._run = lambda *_: (print('ready', flush=True), time.sleep(60))"
    command = [sys.executable, "-c", f"{code}; main.cli()", TINY, f"--workdir={tmp_path}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 75
    assert errors.splitlines()[-1] == "esc_jax: stopped; run the same command again to continue"


@pytest.mark.slow
def test_the_final_weights_are_interpolated(run, tmp_path):
    """With a share of 0 of the trained weights, they are the initial ones."""
    run("main", TINY, f"--workdir={tmp_path}", "--config.train.wise_ft_alpha=0.0", "--config.train.epochs=1")
    start = models.create(configs.load(ROOT / "tests/configs/tiny.py"), [str(i) for i in range(12)]).variables
    saved = weights(tmp_path)
    ends = {"ema" + jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(start)}
    assert len(ends) > 20
    for name, leaf in ends.items():  # end + (start − end): two roundings
        np.testing.assert_allclose(saved[name], leaf, atol=1e-6, err_msg=name)
    trained = [saved[name.replace("ema", "variables", 1)] for name in ends]
    # The trained weights are in the checkpoint too.
    assert not all(np.allclose(one, leaf) for one, leaf in zip(trained, ends.values(), strict=True))


@pytest.mark.parametrize(
    ("overrides", "mode", "name"),
    [
        ({"train.epochs": 5, "data.dir": "x"}, "train", "simclr,epochs=5"),
        ({"pretrain.epochs": 5}, "train", "simclr,pretrain.epochs=5"),
        ({"eval.batch_size": 8, "train.batch_size": 4}, "train", "simclr,eval.batch_size=8,train.batch_size=4"),
        ({"optim.groups": (("encoder/.*", 0.1),)}, "train", "simclr,groups=___encoder_.__,0.1_,_"),
        ({"data.test_fold": 2}, "crossval", "simclr,test_fold=2,crossval"),
        ({"eval.tta": 10, "data.test_fold": 2}, "evaluate", "simclr,test_fold=2"),
    ],
)
def test_the_default_workdir_has_the_overridden_keys(overrides, mode, name):
    keys = configs.flatten(configs.load(ROOT / "configs/simclr.py"))
    assert main.default_workdir("configs/simclr.py", overrides, keys, mode) == pathlib.Path("runs") / name


def test_long_names_of_workdirs_are_cut_and_differ():
    keys = ["optim.groups"]
    names = {main.default_workdir("a.py", {"optim.groups": "x" * 300 + y}, keys, "train").name for y in "yz"}
    assert len(names) == 2 and all(len(name) < 205 for name in names)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", [pytest.param("oracle", marks=pytest.mark.extended), "validation"])
def test_protocols_with_selection_keep_the_best_and_the_latest_checkpoint(run, tmp_path, protocol):
    run("main", TINY, f"--workdir={tmp_path}", f"--config.protocol={protocol}", "--config.optim.lr=0.01")
    results = json.loads((tmp_path / "results.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    best = max(lines, key=lambda line: (line["val_accuracy"], line["step"]))
    assert results["checkpoint_step"] == best["step"]
    if protocol == "oracle":  # a second test gives the same results
        arguments = ("--mode=evaluate", f"--config.protocol={protocol}", "--config.optim.lr=0.01")
        run("main", TINY, f"--workdir={tmp_path}", *arguments)
        assert json.loads((tmp_path / "results.json").read_text()) == results
    kept = {int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()}
    last = lines[-1]["step"]
    assert {best["step"], last} <= kept <= {line["step"] for line in lines}
    calibration = checkpoint.read_meta(tmp_path / "checkpoints", best["step"])["calibration"]
    if protocol == "oracle":
        assert results["test_selected"] and results["accuracy"]["mean"] == best["val_accuracy"]
        assert calibration["fitted_on"] == "training clips" and "calibration" not in results
    else:  # a temperature needs clips that neither train nor test the model
        assert not results["test_selected"] and results["calibration"]["temperature"] == calibration["temperature"] > 0


# With NaN as input, XLA of JAX 0.11 loses it in the first loss, but not in the first gradients.
NAN_AT = 1 if jax.__version_info__ < (0, 11) else 2
MISTAKES = [
    (["--config.train.epoch=2"], 2, "there is no config.train.epoch; did you mean config.train.epochs?"),
    (["--config.batch_size=2"], 2, "did you mean config.eval.batch_size or config.train.batch_size?"),
    (["--config.modle.pretrained=x"], 2, "did you mean config.model.pretrained?"),
    (["--config.train.epochs=many"], 2, "config.train.epochs=many: expected a value of type int"),
    (
        ["--config.augment.mixup_probability=8.0"],
        2,
        "mixup_probability=8.0 is out of range: it must be between 0 and 1",
    ),
    (["--config.data.test_fold=7"], 2, "data.test_fold=7: this data set has folds 1, 2, 3, 4 and 5"),
    (["--config.protocol=holdoutt"], 2, "choose one of holdout, validation, oracle, all; did you mean holdout?"),
    (["--config.data.name=esc5"], 2, "did you mean esc50?"),
    (["--config.data.dir=/no/such/place", "--config.data.name=esc50"], 2, "/no/such/place does not exist"),
    (["--config.frontend.mels=400"], 2, "the smallest n_fft that works is"),
    (["--config.train.batch_size=49"], 2, "batch_size=49 is larger than the number of training clips, 48"),
    (["--config.optim.schedule=sgdr"], 2, "the schedules are one_cycle, linear, cosine, constant"),
    (["--config.frontend.std=1e-300"], 1, f"the loss is nan at step {NAN_AT}; there is no checkpoint yet"),
    (["--config.frontend.std=0.0"], 2, "frontend: std is 0, and must be above 0"),
    (["--config.optim.lr=1e30"], 2, "config.optim.lr=1e+30 is out of range: it must be between 0 and 100"),
    (["surplus"], 2, "surplus: unexpected argument"),
    (["--no_such_flag=1"], 2, "no_such_flag"),
    (["--config="], 2, "--config is missing: give an experiment, for example --config=configs/quickstart.py"),
    (["--config=configs/nothing.py"], 2, "--config=configs/nothing.py does not exist"),
    (["--mode=evaluate"], 1, "no such folder"),
    (["--config.model.pretrained=weights.pt"], 2, "no published checkpoints are known for model.name=resnet"),
    (["--config.optim.groups=('encoder/.*',0.1)"], 2, "must be pairs of a regular expression and a number"),
    (["--config.optim.warmup_steps=1000"], 2, "the warm-up has 1000 steps, but the training has only 18"),
    (["--config.optim.div_factor=0"], 2, "config.optim.div_factor=0.0 is out of range"),
    (["--config.model.eval_mode=("], 2, "config.model.eval_mode=( is not a regular expression"),
    (
        ["--config.model.eval_mode=encoder/.*batchnorm"],
        2,
        "matches the path of no module; the paths of model.name=resnet",
    ),
    (["--config.model.head.name=mlp"], 2, "take a config that was made with model.head.name=mlp"),
    (["--config.model.encoder.width=0"], 2, "model.encoder.width=0: it must be a whole number of at least 1"),
    (["--config.seed=-1"], 2, "config.seed=-1 is out of range"),
    (["--config.data.mask_padding=True"], 2, "model.name=resnet has no padding mask; the models that have one are"),
    (["--config.augment.mel_jitter=True"], 2, "requires frontend.name=efficientat_mel, not log_mel"),
    (["--config.method=probe", "--config.protocol=oracle"], 2, "is not available with config.method=probe"),
    (["--config.crossval.vectorized=True", "--config.train.accumulate=3", "--mode=crossval"], 2, "is not divisible by"),
    (["--config.pretrain.temperature=0.1"], 2, 'config.pretrain.objective="", and the key is one of simclr'),
    (["--config.pretrain.objective=simclr"], 2, "the keys of config.pretrain are those of another objective"),
    (["--workdir=gs://bucket/run"], 2, "--workdir=gs://bucket/run: object stores and other URLs are not supported"),
    (["--workdir=s3://bucket/run", "--mode=evaluate"], 2, "--workdir=s3://bucket/run: object stores and other URLs"),
    (["--config.data.cache_dir=gs://b"], 2, "--config.data.cache_dir=gs://b: object stores and other URLs are not"),
    (["--config.eval.views=crops", "--config.eval.view_crop_s=9"], 2, "view_crop_s=9 is longer than the clips"),
    (["--config.eval.views=speed"], 2, "choose one of rotations, crops, speeds; did you mean speeds?"),
    (["--config.task=tagging"], 2, "config.task=tagging: choose one of"),
]

# One process imports the package and forks for every command, which saves the time of the imports.
FORKS = """
import json, os, sys
import esc_jax.main, esc_jax.experiments.crossval
results = []
for arguments in json.load(sys.stdin):
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(writer, 2)
        sys.argv = ["esc_jax.main", *arguments]
        try:
            esc_jax.main.cli()
            status = 0
        except SystemExit as stopped:
            status = stopped.code or 0
        except BaseException:
            import traceback
            traceback.print_exc()
            status = 70
        sys.stderr.flush()
        os._exit(status)
    os.close(writer)
    message = os.fdopen(reader).read()
    results.append([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), message])
json.dump(results, open(sys.argv[1], "w"))
"""


@pytest.fixture(scope="module")
def mistakes(done, environment, tmp_path_factory):
    """Exit status and standard error of every one of MISTAKES."""
    folder = tmp_path_factory.mktemp("mistakes")
    commands = [[TINY, f"--workdir={folder}/{i}", *arguments] for i, (arguments, _, _) in enumerate(MISTAKES)]
    subprocess.run(
        [sys.executable, "-c", FORKS, str(folder / "results.json")],
        input=json.dumps(commands), text=True, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return json.loads((folder / "results.json").read_text())


@pytest.mark.parametrize("number", range(len(MISTAKES)), ids=lambda i: " ".join(MISTAKES[i][0]))
def test_a_mistake_is_reported_in_one_sentence(mistakes, number):
    _, status, sentence = MISTAKES[number]
    exit_status, output = mistakes[number]
    assert sentence in output.strip().splitlines()[-1]
    assert exit_status == status
    assert "Traceback" not in output
    assert output.strip().splitlines()[-1].startswith("esc_jax: ")


@pytest.mark.slow
def test_eight_devices_give_the_numbers_of_one(done, run, tmp_path):
    run("main", TINY, f"--workdir={tmp_path}/run", devices=8)
    histories = [pathlib.Path(folder, "metrics.jsonl").read_text() for folder in (done[0], tmp_path / "run")]
    for one, eight in zip(*[map(json.loads, text.splitlines()) for text in histories], strict=True):
        # Sums over the batch have another order.
        np.testing.assert_allclose(eight["loss"], one["loss"], rtol=1e-5)
        assert eight["accuracy"] == one["accuracy"]
    results = [json.loads(pathlib.Path(folder, "results.json").read_text()) for folder in (done[0], tmp_path / "run")]
    assert results[0]["confusion"] == results[1]["confusion"]


@pytest.mark.slow
def test_a_run_on_two_devices_is_used_on_one(run, tmp_path):
    """The devices that saved a checkpoint need not be there when it is read."""
    workdir, recording = tmp_path / "run", tmp_path / "noise.wav"
    run("main", TINY, f"--workdir={workdir}", devices=2)
    before = json.loads((workdir / "results.json").read_text())
    soundfile.write(recording, 0.1 * np.random.default_rng(0).standard_normal(16_000), 16_000)
    run("predict", f"--model={workdir}", str(recording))
    run("embed", f"--model={workdir}", f"--out={tmp_path}/o.npz", str(recording))
    (workdir / "results.json").unlink()
    run("main", TINY, f"--workdir={workdir}")  # reads the last state and tests again
    assert json.loads((workdir / "results.json").read_text())["confusion"] == before["confusion"]


def test_a_batch_that_does_not_divide_over_the_devices_is_an_error(run, tmp_path):
    failed = run("main", TINY, f"--workdir={tmp_path}/run", "--config.train.batch_size=9", devices=2, check=2)
    assert "train.batch_size=9 is not divisible by the 2 devices: take 8" in failed.stderr


def test_a_workdir_of_another_config_is_an_error_and_stays_as_it_is(done, run):
    workdir, _ = done
    before = {p: p.stat().st_mtime_ns for p in workdir.rglob("*")}
    failed = run("main", TINY, f"--workdir={workdir}", "--config.optim.lr=0.5", check=2)
    assert "contains a run of another config: optim.lr (0.001, now 0.5)" in failed.stderr
    assert before == {p: p.stat().st_mtime_ns for p in workdir.rglob("*")}


@pytest.mark.slow
def test_a_run_resumes_after_a_full_disk(run, done, tmp_path):
    whole, _ = done
    workdir = tmp_path / "full"
    shutil.copytree(whole, workdir)
    shutil.rmtree(workdir / "checkpoints")
    (workdir / "results.json").unlink()

    # No file can grow beyond 20 KiB, which fails as a write to a full disk does.
    failed = run("main", TINY, f"--workdir={workdir}", check=1, largest_file_kib=20)
    assert "could not write the checkpoint of step 6" in failed.stderr and "Traceback" not in failed.stderr
    run("main", TINY, f"--workdir={workdir}")
    expected, resumed = weights(whole), weights(workdir)
    for name in expected:
        np.testing.assert_array_equal(resumed[name], expected[name], err_msg=name)


@pytest.fixture
def corrupt(done, cache, tmp_path):
    """A copy of the synthetic data set with one broken and one empty file: (folder, their names)."""
    original = next(p for p in cache.iterdir() if p.name.startswith("synthetic-") and p.name.endswith("-1-0"))
    tree = tmp_path / "tree"
    shutil.copytree(original, tree)
    files = sorted((tree / "audio").iterdir())
    files[3].write_bytes(b"no audio")
    files[7].write_bytes(b"")
    return tree, [files[3].name, files[7].name]


@pytest.mark.slow
def test_broken_clips_are_named_or_skipped(run, corrupt, tmp_path):
    tree, bad = corrupt
    arguments = [TINY, f"--workdir={tmp_path}/run", "--config.data.name=esc50", f"--config.data.dir={tree}"]
    failed = run("main", *arguments, check=2)
    assert any(name in failed.stderr for name in bad) and "data.on_bad_clip=skip" in failed.stderr
    skipped = run("main", *arguments, "--config.data.on_bad_clip=skip")
    data = json.loads((tmp_path / "run/results.json").read_text())["data"]
    assert sorted(data["bad_clips"]) == sorted(bad) and data["clips"] == 58 * 5  # windows of a second
    assert "excluded: 2 clips that cannot be decoded" in skipped.stdout


def test_help_imports_little():
    code = "import sys; import esc_jax.main; print([m for m in ('jax', 'tensorflow', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    shown = subprocess.run(
        [sys.executable, "-m", "esc_jax.main", "--helpshort"], cwd=ROOT, capture_output=True, text=True
    )
    assert "--workdir" in shown.stdout and "--config" in shown.stdout


def test_configs_are_found_by_name_from_any_folder(environment, tmp_path):
    command = [sys.executable, "-m", "esc_jax.main", "--config=quickstartt"]
    path = {"PYTHONPATH": str(ROOT)}
    failed = subprocess.run(command, cwd=tmp_path, env=environment | path, capture_output=True, text=True)
    assert failed.returncode == 2
    assert failed.stderr == "esc_jax: --config=quickstartt does not exist; did you mean quickstart?\n"
    command[-1] = "--config=quickstart"
    failed = subprocess.run(
        [*command, "--config.train.epochs=0"], cwd=tmp_path, env=environment | path, capture_output=True, text=True
    )
    assert failed.returncode == 2 and "config.train.epochs=0 is out of range" in failed.stderr
    assert not list(tmp_path.iterdir())
