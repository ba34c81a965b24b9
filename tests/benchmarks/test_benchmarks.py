"""The benchmarks at a small size: their output, and the equivalence of what they compare. Times are not tested."""

import argparse
import contextlib
import json
import math
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def benchmark(environment, tmp_path):
    """Runs a benchmark: `benchmark("scaling", "--what=clips")` → (tables of its JSON file by title, output)."""

    def start(name: str, *arguments: str, rounds: tuple[str, ...] = ("--rounds=1",)):
        command = [sys.executable, f"benchmarks/{name}.py", "--tiny", *rounds, f"--out={tmp_path}", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr[-4000:]}"
        assert done.stdout.endswith((tmp_path / f"{name}.md").read_text())
        text = (tmp_path / f"{name}.json").read_text()
        results = json.loads(text)
        assert results["date"] and results["machine"]["processor"] and results["versions"]["jax"]
        assert str(tmp_path.parent) not in text  # no folder of this machine
        for title, rows in results["results"].items():
            assert f"## {title}\n\n| {' | '.join(rows[0])} |\n" in done.stdout
            for row in rows:
                assert all(math.isfinite(value) for value in row.values() if not isinstance(value, str))
        return results["results"], done.stdout

    return start


@pytest.mark.extended
def test_frontends_agree(benchmark):
    pytest.importorskip("torch")
    pytest.importorskip("kaldi_native_fbank")
    rows = benchmark("frontends")[0]["frontends"]
    assert [row["implementation"].split(",")[0] for row in rows] == [
        "esc_jax", "librosa", "torch.stft", "esc_jax", "kaldi-native-fbank",
    ]  # fmt: skip
    # Kaldi's logarithm has no offset: a few values in a hundred thousand are rounding errors.
    largest = {"librosa": 1e-3, "torch.stft": 1e-3, "kaldi-native-fbank": 1e-2, "esc_jax": 0.0}
    for row in rows:
        assert row["largest difference"] <= largest[row["implementation"].split(",")[0]]
        assert row["99.9 % below"] <= 1e-3


def test_frontends_name_a_missing_package_at_the_start(environment, tmp_path):
    pytest.importorskip("torch")
    (tmp_path / "without.py").write_text(
        "import importlib.util, runpy, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name: None if name == 'kaldi_native_fbank' else find(name)\n"
        "sys.path[0], sys.argv = 'benchmarks', ['frontends.py', '--tiny']\n"
        "runpy.run_path('benchmarks/frontends.py', run_name='__main__')\n"
    )
    command = [sys.executable, tmp_path / "without.py"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    message = "benchmarks/frontends.py needs kaldi_native_fbank: pip install "
    assert done.returncode == 1 and done.stderr.startswith(message) and done.stderr.count("\n") == 1


@pytest.mark.extended
def test_prediction_compares_equal_networks(load_benchmark):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    classifier, pipeline = load_benchmark("prediction").distilhubert()
    clip = 0.1 * np.random.default_rng(0).standard_normal(80_000).astype(np.float32)
    expected = {r["label"]: r["score"] for r in pipeline({"raw": clip, "sampling_rate": 16_000}, top_k=50)}
    assert dict(classifier(clip, 16_000).top(50)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.extended
def test_epochs_of_grain_and_torch_have_the_same_clips(benchmark):
    pytest.importorskip("torch")
    grain, loader = benchmark("input_pipeline", "--what=epoch")[0]["epoch"]
    assert grain["clips"] == loader["clips"] == 56 and grain["batch"] == 8
    assert grain["batches per second"] > 0 and loader["batches per second"] > 0


@pytest.mark.extended
def test_hotspots_of_both_frameworks(benchmark):
    pytest.importorskip("torch")
    xla, torch = benchmark("hotspots", "--models=resnet34", "--what=train", rounds=())[0]["hotspots"]
    assert [xla["framework"], torch["framework"]] == ["esc_jax", "PyTorch"] and xla["network"] == "resnet34, train"
    for row in (xla, torch):
        assert row["convolutions, ms"] > 0 and row["call, ms"] > 0
    # BatchNorm is one operation in PyTorch and several in XLA; neither network has a Fourier transform.
    assert torch["normalization, ms"] > 0 == xla["normalization, ms"] and xla["fft, ms"] == torch["fft, ms"] == 0


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("conv_general_dilated.20", "convolutions"),
        ("aten::convolution_backward", "convolutions"),
        ("convert_power_fusion.1", "elementwise"),
        ("ynn_fusion.4", "products"),
        ("aten::addmm", "products"),
        ("aten::add_", "elementwise"),
        ("aten::native_batch_norm", "normalization"),
        ("multiply_reduce_fusion.clone", "reductions"),
        ("aten::sum", "reductions"),
        ("transpose_copy_fusion.19", "copies"),
        ("add_transpose_fusion", "elementwise"),
        ("aten::copy_", "copies"),
    ],
)
def test_kinds_of_operations(operation, kind, load_benchmark):
    assert load_benchmark("hotspots").kind(operation) == kind


def test_concurrent_operations_share_their_time(load_benchmark):
    hotspots = load_benchmark("hotspots")
    # a from 0 to 4 s and from 9 to 10, b from 2 to 8: both from 2 to 4, neither from 8 to 9.
    events = [(0, "a", True), (4, "a", False), (2, "b", True), (8, "b", False), (9, "a", True), (10, "a", False)]
    seconds = hotspots.split_time([(second * 1e9, name, starts) for second, name, starts in events])
    assert seconds == pytest.approx({"a": (2 + 1 + 1) / hotspots.CALLS, "b": (1 + 4) / hotspots.CALLS})


@pytest.mark.extended
def test_waiting_is_part_of_the_step(benchmark):
    (row,) = benchmark("input_pipeline", "--what=waiting")[0]["waiting"]
    assert row["config"] == "tiny" and row["steps"] == 3
    assert 0 < row["ms of them in next"] < row["ms per step"] and 0 < row["percent"] < 100


@pytest.mark.extended
def test_startup(benchmark):
    rows = benchmark("startup")[0]["startup"]
    assert [row["start"] for row in rows] == ["--help", "tiny, empty cache", "tiny, filled cache"]
    assert all(row["starts"] == 1 and row["seconds"] > 0 for row in rows)


@pytest.mark.slow
def test_preparation(benchmark):
    (row,) = benchmark("input_pipeline", "--what=preparation")[0]["preparation"]
    assert row["clips"] == 1 and row["Hz"] == "44100 to 16000" and row["seconds"] >= 0


@pytest.mark.extended
def test_scaling_of_clips_and_its_picture(benchmark, tmp_path):
    tables, output = benchmark("scaling", "--what", "audio", "clips")
    assert output.startswith("Prediction on long recordings is skipped") and list(tables) == ["clips"]
    assert [row["clips"] for row in tables["clips"]] == [32, 64]
    assert all(row["peak memory, MiB"] >= row["initial memory, MiB"] > 0 for row in tables["clips"])
    from matplotlib import image

    pixels = image.imread(tmp_path / "scaling.png")[..., :3]
    assert pixels.min() < 0.3 < 0.9 < pixels.max()  # not empty


@pytest.mark.extended
@pytest.mark.parametrize("what, key, sizes", [("batch", "batch", [2, 4]), ("folds", "test folds", [1, 2])])
def test_scaling_of_steps_and_probes(benchmark, tmp_path, what, key, sizes):
    rows = benchmark("scaling", f"--what={what}")[0][what]
    assert [row[key] for row in rows] == sizes
    assert (tmp_path / "scaling.png").exists()


@pytest.mark.extended
def test_scaling_of_recordings(benchmark, tmp_path, untrained):
    rows = benchmark("scaling", "--what=audio", f"--model={untrained}")[0]["audio"]
    assert [row["audio, minutes"] for row in rows] == [1, 2]
    assert (tmp_path / "scaling.png").exists()


@pytest.mark.extended
@pytest.mark.skipif(sys.platform != "linux", reason="reads its memory in /proc")
def test_archive(environment, untrained):
    """All recordings are classified, and the numbers are possible ones."""
    command = [sys.executable, "benchmarks/archive.py", f"--model={untrained}", "--files=25", "--seconds=1.5"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    summary, header, _, row = done.stdout.strip().splitlines()
    assert "25 recordings of 0:37.5 classified" in summary
    values = dict(zip(header.strip("| ").split(" | "), map(float, row.strip("| ").split(" | ")), strict=True))
    assert values["files"] == 25 and 0 <= values["device waits, %"] <= 100
    assert values["memory at the end, MiB"] > 50


@pytest.mark.extended
def test_parts_of_a_step(benchmark):
    rows = benchmark("step_parts")[0]["step_parts"]
    milliseconds = {row["part"]: row["ms"] for row in rows}
    assert list(milliseconds) == [
        "waveforms", "frontend", "mixing", "spectrograms", "inputs", "forward", "backward", "optimizer", "step",
        "step, called", "step, 16 a call",
    ]  # fmt: skip
    gflop, gigabytes = ({row["part"]: row[unit] for row in rows} for unit in ("GFLOP", "GB"))
    # The step contains its parts; the cost analysis counts the same operations again in the backward pass.
    assert gflop["step"] >= gflop["inputs"] + gflop["forward"]
    # A filterbank multiplies 32 mel bands with 257 bins of 61 frames of 8 clips. It reads the clips in float32.
    assert 1 > gflop["frontend"] > 2 * 8 * 61 * 257 * 32 / 1e9
    assert 1 > gigabytes["frontend"] > 4 * 8 * 16_000 / 1e9


def test_a_wrong_config_of_the_memory_benchmark_is_one_sentence(environment):
    command = [sys.executable, "benchmarks/memory.py", "configs/nonesuch.py"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr == "benchmarks/memory.py: --config=configs/nonesuch.py does not exist\n"


@pytest.mark.parametrize("name", ["step_parts", "kernels", "lowered"])
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["configs/resnet34.py", "configs/resnet3.py"], "--config=configs/resnet3.py does not exist"),
        (["--batch_size=-2"], "config.train.batch_size=-2 is out of range"),
    ],
)
def test_a_mistake_in_a_config_is_one_sentence(load_benchmark, monkeypatch, no_xla_setup, name, arguments, sentence):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", [f"{name}.py", *arguments])
    with pytest.raises(SystemExit, match=f"^benchmarks/{name}.py: {sentence}"):
        load_benchmark(name).main()


@pytest.mark.parametrize(
    ("name", "argument", "sentence"),
    [
        ("step_parts", "--calls=0", "argument --calls: 0 must be above 0"),
        ("startup", "--rounds=-1", "argument --rounds: -1 must be above 0"),
        ("weak_scaling", "--inside_gb=0", "argument --inside_gb: 0 must be above 0"),
        ("weak_scaling", "--batch=x", "argument --batch: invalid int value: 'x'"),
        ("crossval_ways", "--folds=1,x", "argument --folds: invalid fold_numbers value: '1,x'"),
    ],
)
def test_an_impossible_argument_is_one_sentence(load_benchmark, monkeypatch, capsys, name, argument, sentence):
    monkeypatch.setattr("sys.argv", [f"{name}.py", argument])
    with pytest.raises(SystemExit, match="2"):
        load_benchmark(name).main()
    assert capsys.readouterr().err.endswith(f"error: {sentence}\n")


def test_ways_that_a_stopped_call_has_measured_are_kept(load_benchmark, monkeypatch, tmp_path):
    module, measured = load_benchmark("crossval_ways"), []

    def run(way, workdir, arguments, folds):
        if way == stopped:
            sys.exit("stopped")
        measured.append(way)
        workdir.mkdir()
        (workdir / "results.json").write_text('{"folds": [{"epochs": 2}], "accuracy": {"mean": 0.5}}')

    def call(*arguments):
        """Ways that a call has measured, and those in its table."""
        measured.clear()
        monkeypatch.setattr("sys.argv", ["crossval_ways.py", "--tiny", f"--out={tmp_path}", *arguments])
        with contextlib.suppress(SystemExit):
            module.main()
        table = json.loads((tmp_path / "crossval_ways.json").read_text())["results"]["crossval_ways"]
        return measured.copy(), [row["way"] for row in table]

    monkeypatch.setattr(module, "start", lambda *_: None)
    monkeypatch.setattr(module, "wait", lambda *_: None)
    monkeypatch.setattr(module, "run", run)
    monkeypatch.setattr(module.subprocesses, "exit_at_sigterm", lambda: None)
    first, second, third = module.WAYS
    stopped = third
    assert call("--resume") == ([first, second], [first, second])
    stopped = ""
    assert call("--resume") == ([third], [first, second, third])
    assert call("--resume") == ([], [first, second, third])
    assert call("--resume", "--folds=1") == ([first, second, third], [first, second, third])
    assert call("--folds=1") == ([first, second, third], [first, second, third])


@pytest.mark.extended
def test_a_stopped_cross_validation_leaves_no_files_and_no_process(environment, tmp_path):
    (tmp_path / "temporary").mkdir()
    command = [sys.executable, "benchmarks/crossval_ways.py", "--tiny", f"--out={tmp_path}/out"]
    variables = {"TMPDIR": str(tmp_path / "temporary")}
    with subprocess.Popen(command, cwd=ROOT, env=environment | variables, stderr=subprocess.PIPE) as process:
        while not list((tmp_path / "temporary").glob("*/warmup/config.json")):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        process.communicate()  # returns when no process has the pipe
    assert process.returncode == 128 + signal.SIGTERM and not list((tmp_path / "temporary").glob("*/*"))


@pytest.mark.extended
def test_kernels_of_a_step(benchmark):
    rows = benchmark("kernels", "--top=100000")[0]["kernels"]
    (all_kernels, *kernels), times = rows, [row["µs per step"] for row in rows]
    assert all_kernels["operation"] == "all" and times[1:] == sorted(times[1:], reverse=True)
    # Each row is rounded to 0.05 µs.
    assert times[0] == pytest.approx(sum(times[1:]), abs=0.05 * len(rows) + 1)
    assert any("conv" in row["operation"] for row in kernels)


def test_estimated_steps_are_those_of_rings(load_benchmark):
    """Against the sum of the messages of each phase: every GPU of a ring of n sends n − 1 parts of 1/n, twice."""
    module = load_benchmark("weak_scaling")
    options = argparse.Namespace(
        step_ms=4.0, batch=32, parameters=10.0, inside_gb=400.0, between_gb=40.0, inside_us=2.0, between_us=5.0
    )
    size, machines = 40e6, 4
    inside = sum(size / 8 / 400e9 for _ in range(2 * 7))
    between = sum(size / 8 / machines / 40e9 for _ in range(2 * (machines - 1)))
    latency = 14 * 2e-6 + 6 * 5e-6
    assert module.step_ms(8 * machines, options) == pytest.approx([1e3 * inside, 1e3 * between, 1e3 * latency])
    row = module.rows(options)[2]
    assert row["GPUs"] == 32 and row["batch"] == 1024
    assert row["computing, %"] == round(100 * 4.0 / (4.0 + 1e3 * (inside + between + latency)))
