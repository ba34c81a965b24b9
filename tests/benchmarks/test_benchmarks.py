"""The benchmarks run at a tiny size, print what they leave, and compare what is the same. No time is tested."""

import importlib
import json
import math
import pathlib
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def benchmark(environment, tmp_path):
    """Runs a benchmark: `benchmark("scaling", "--what=clips")` → (tables of its JSON by title, what it printed)."""

    def start(name: str, *arguments: str, rounds: tuple[str, ...] = ("--rounds=1",)):
        command = [sys.executable, f"benchmarks/{name}.py", "--tiny", *rounds, f"--out={tmp_path}", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr[-4000:]}"
        assert done.stdout.endswith((tmp_path / f"{name}.md").read_text())
        found = json.loads((tmp_path / f"{name}.json").read_text())
        assert found["date"] and found["machine"]["processor"] and found["versions"]["jax"]
        assert str(tmp_path.parent) not in (tmp_path / f"{name}.json").read_text()  # nobody else has this folder
        for title, lines in found["results"].items():
            assert f"## {title}\n\n| {' | '.join(lines[0])} |\n" in done.stdout
            for line in lines:
                assert all(math.isfinite(value) for value in line.values() if not isinstance(value, str))
        return found["results"], done.stdout

    return start


def test_frontends_compute_the_same(benchmark):
    pytest.importorskip("torch")
    pytest.importorskip("kaldi_native_fbank")
    lines = benchmark("frontends")[0]["frontends"]
    assert [line["by"].split(",")[0] for line in lines] == [
        "esc_jax", "librosa", "torch.stft", "esc_jax", "kaldi-native-fbank",
    ]  # fmt: skip
    # Kaldi's logarithm has nothing added under it: one or two values in a hundred thousand are mere rounding.
    largest = {"librosa": 1e-3, "torch.stft": 1e-3, "kaldi-native-fbank": 1e-2, "esc_jax": 0.0}
    for line in lines:
        assert line["largest difference"] <= largest[line["by"].split(",")[0]]
        assert line["99.9 % below"] <= 1e-3


def test_frontends_say_at_the_start_what_is_missing(environment, tmp_path):
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
    said = "benchmarks/frontends.py needs kaldi_native_fbank: pip install "
    assert done.returncode == 1 and done.stderr.startswith(said) and done.stderr.count("\n") == 1


def test_prediction_compares_one_network(thorough, monkeypatch):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    ours, theirs = importlib.import_module("prediction").distilhubert()
    clip = 0.1 * np.random.default_rng(0).standard_normal(80_000).astype(np.float32)
    expected = {one["label"]: one["score"] for one in theirs({"raw": clip, "sampling_rate": 16_000}, top_k=50)}
    assert dict(ours(clip, 16_000).top(50)) == pytest.approx(expected, abs=1e-5)


def test_epochs_of_the_input_pipeline_and_of_a_torch_data_loader_have_the_same_clips(benchmark):
    pytest.importorskip("torch")
    ours, theirs = benchmark("input_pipeline", "--what=epoch")[0]["epoch"]
    assert ours["clips"] == theirs["clips"] == 56 and ours["batch"] == 8
    assert ours["batches per second"] > 0 and theirs["batches per second"] > 0


def test_hotspots_name_what_each_side_does(benchmark):
    pytest.importorskip("torch")
    ours, theirs = benchmark("hotspots", "--models=resnet34", "--what=train", rounds=())[0]["hotspots"]
    assert [ours["by"], theirs["by"]] == ["esc_jax", "PyTorch"] and ours["of"] == "resnet34, train"
    for line in (ours, theirs):
        assert line["convolutions, ms"] > 0 and line["a call, ms"] > 0
    # BatchNorm is an operation of PyTorch's, and several of ours; neither transforms anything.
    assert theirs["normalisation, ms"] > 0 == ours["normalisation, ms"] and ours["fft, ms"] == theirs["fft, ms"] == 0


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("conv_general_dilated.20", "convolutions"),
        ("aten::convolution_backward", "convolutions"),
        ("convert_power_fusion.1", "elementwise"),
        ("ynn_fusion.4", "products"),
        ("aten::addmm", "products"),
        ("aten::add_", "elementwise"),
        ("aten::native_batch_norm", "normalisation"),
        ("multiply_reduce_fusion.clone", "reductions"),
        ("aten::sum", "reductions"),
        ("transpose_copy_fusion.19", "copies"),
        ("add_transpose_fusion", "elementwise"),
        ("aten::copy_", "copies"),
    ],
)
def test_kinds_of_operations(operation, kind, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import hotspots

    assert hotspots.kind(operation) == kind


def test_operations_that_are_under_way_at_once_share_the_time(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import hotspots

    # a from 0 to 4 s and from 9 to 10, b from 2 to 8: both from 2 to 4, neither from 8 to 9.
    moments = [(0, "a", True), (4, "a", False), (2, "b", True), (8, "b", False), (9, "a", True), (10, "a", False)]
    found = hotspots.shared([(second * 1e9, name, begins) for second, name, begins in moments])
    assert found == pytest.approx({"a": (2 + 1 + 1) / hotspots.CALLS, "b": (1 + 4) / hotspots.CALLS})


def test_waiting_is_a_part_of_the_step(benchmark, patient):
    (line,) = benchmark("input_pipeline", "--what=waiting")[0]["waiting"]
    assert line["config"] == "tiny" and line["steps"] == 3
    assert 0 < line["of them in next"] < line["ms per step"] and 0 < line["percent"] < 100


def test_starts(benchmark, patient):
    helped, first, again = benchmark("startup")[0]["startup"]
    assert helped["start"] == "--help" and first["start"] == "tiny, nothing prepared or compiled"
    assert helped["starts"] == first["starts"] == again["starts"] == 1
    assert all(line["seconds"] > 0 for line in (helped, first, again))


def test_preparation(benchmark, patient):
    (line,) = benchmark("input_pipeline", "--what=preparation")[0]["preparation"]
    assert line["clips"] == 1 and line["Hz"] == "44100 to 16000" and line["seconds"] > 0


def test_scaling_of_clips_and_its_picture(benchmark, tmp_path, patient):
    found, printed = benchmark("scaling", "--what", "audio", "clips")
    assert printed.startswith("No --checkpoint: ") and list(found) == ["clips"]
    assert [line["clips"] for line in found["clips"]] == [32, 64]
    assert all(line["peak memory, MiB"] >= line["before, MiB"] > 0 for line in found["clips"])
    from matplotlib import image

    pixels = image.imread(tmp_path / "scaling.png")[..., :3]
    assert pixels.min() < 0.3 < 0.9 < pixels.max()  # not an empty page


@pytest.mark.parametrize("what, key, sizes", [("batch", "batch", [2, 4]), ("folds", "test folds", [1, 2])])
def test_scaling_of_steps_and_probes(benchmark, tmp_path, patient, what, key, sizes):
    lines = benchmark("scaling", f"--what={what}")[0][what]
    assert [line[key] for line in lines] == sizes
    assert (tmp_path / "scaling.png").exists()


def test_scaling_of_recordings(benchmark, tmp_path, patient, untrained):
    lines = benchmark("scaling", "--what=audio", f"--checkpoint={untrained}")[0]["audio"]
    assert [line["audio, minutes"] for line in lines] == [1, 2]
    assert (tmp_path / "scaling.png").exists()
