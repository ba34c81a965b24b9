"""The benchmarks at a small size: their output, and the equivalence of what they compare. Times are not tested."""

import argparse
import importlib.util
import json
import math
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from esc_jax.inference import index
from esc_jax.inference.classifier import restore_any
from esc_jax.inference.index_store import Store

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
def test_prediction_compares_equal_networks(monkeypatch):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    classifier, pipeline = importlib.import_module("prediction").distilhubert()
    clip = 0.1 * np.random.default_rng(0).standard_normal(80_000).astype(np.float32)
    expected = {r["label"]: r["score"] for r in pipeline({"raw": clip, "sampling_rate": 16_000}, top_k=50)}
    assert dict(classifier(clip, 16_000).top(50)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.extended
def test_epochs_of_grain_and_torch_have_the_same_clips(benchmark):
    pytest.importorskip("torch")
    grain, loader = benchmark("input_pipeline", "--what=epoch")[0]["epoch"]
    assert grain["clips"] == loader["clips"] == 56 and grain["batch"] == 8
    assert grain["batches per second"] > 0 and loader["batches per second"] > 0


def detectors():
    """The module of benchmarks/novelty.py, which has the name of one of ours."""
    spec = importlib.util.spec_from_file_location("benchmark_novelty", ROOT / "benchmarks/novelty.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_classes_are_left_out_in_turn():
    draws = list(detectors().draw_classes(45, 2, 50))
    assert len(draws) == 20 and all(len(set(draw)) == 45 for draw in draws)
    foreign = [set(range(50)) - set(draw) for draw in draws]
    assert set.union(*foreign[:10]) == set(range(50)) and sum(map(len, foreign[:10])) == 50
    draws = list(detectors().draw_classes(4, 1, 50))
    assert len(draws) == 12 and len({target for draw in draws for target in draw}) == 48


def test_detectors_of_unknown_classes():
    """Of six classes that are far apart, three are known."""
    module = detectors()
    rng = np.random.default_rng(0)
    labels, folds = np.arange(240) % 6, np.arange(240) // 60 + 1
    x = (6 * np.eye(80)[labels] + rng.normal(size=(240, 80))).astype(np.float32)
    weights = rng.normal(size=(80, 20)).astype(np.float32)
    data = module.Data(x, labels, folds, 6, lambda embeddings: embeddings @ weights)
    outcome = module.probe_draw(data, [0, 2, 4], [1, 2, 3], 4)
    assert outcome.keys() == module.DETECTORS.keys()
    for name in ("Mahalanobis", "3 nearest neighbours", "class means"):
        assert outcome[name]["auroc"] > 0.95, name
    assert outcome["class means"]["marked"] > 90 > 20 > outcome["class means"]["false_marks"]
    (row,) = (row for row in module.summarize([outcome, outcome], classes=3) if row["detector"] == "class means")
    assert row["draws"] == 2 and row["auroc"] == f"{outcome['class means']['auroc']:.3f}"
    known, foreign = np.array([3.0, 2.0, 1.0, 4.0]), np.array([2.5, 0.0])
    measures = module.measure(known, foreign, 1.5)
    assert measures["auroc"] == 6 / 8 and measures["marked"] == 50 and measures["false_marks"] == 25


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
def test_kinds_of_operations(operation, kind, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import hotspots

    assert hotspots.kind(operation) == kind


def test_concurrent_operations_share_their_time(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import hotspots

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
    gflop = {row["part"]: row["GFLOP"] for row in rows}
    # The step contains its parts; the cost analysis counts the same operations again in the backward pass.
    assert gflop["step"] >= gflop["inputs"] + gflop["forward"] > 0


@pytest.mark.extended
def test_kernels_of_a_step(benchmark):
    rows = benchmark("kernels", "--top=100000")[0]["kernels"]
    (all_kernels, *kernels), times = rows, [row["µs per step"] for row in rows]
    assert all_kernels["operation"] == "all" and times[1:] == sorted(times[1:], reverse=True)
    # Each row is rounded to 0.05 µs.
    assert times[0] == pytest.approx(sum(times[1:]), abs=0.05 * len(rows) + 1)
    assert any("conv" in row["operation"] for row in kernels)


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
def test_the_gpu_script_runs_every_part_and_skips_finished_ones(gpu, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    data = importlib.import_module("input_pipeline").write_esc50(tmp_path / "data", 60)
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


def load_benchmark(name):
    """A module of benchmarks/ that can be imported without its folder on the path."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", ROOT / f"benchmarks/{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_precision_and_average_precision_of_a_ranking():
    """Against scikit-learn's definition, by hand: relevant at ranks 1, 3 and 12 of 12."""
    module = load_benchmark("search")
    similarity = -np.arange(12.0)[None]
    relevant = np.isin(np.arange(12), [0, 2, 11])[None]
    precision, average = module.rank(similarity, relevant)
    assert precision[0] == pytest.approx(2 / 10) and average[0] == pytest.approx((1 + 2 / 3 + 3 / 12) / 3)


def test_few_shot_curves_and_retrieval(tmp_path):
    """Classes that are far apart: everything is right, from the first label on."""
    module = load_benchmark("search")
    rng = np.random.default_rng(0)
    labels, folds = np.arange(160) % 4, np.arange(160) // 80 + 1
    # A probe standardizes the embeddings: with one label of a class, dimensions of noise would count like the others.
    x = (20 * np.eye(4)[labels] + rng.normal(size=(160, 4))).astype(np.float32)
    data = module.Data(x, labels, folds, np.arange(160).astype(str))
    order = module.nested_order(labels, rng)
    assert all(sorted(labels[order[4 * k : 4 * k + 4]]) == [0, 1, 2, 3] for k in range(40))
    rows = list(module.few_shot(data, draws=2))
    assert len(rows) == 4 and all(values.shape == (2, 5) and (values == 100).all() for _, values in rows)
    assert rows[0][0]["n16"] == "100.0"
    assert module.retrieval([(data, [1, 2])]) == module.retrieval([(data, [1]), (data, [2])])
    assert module.retrieval([(data, [1, 2])])["p10"] == "100.0" and module.retrieval([(data, [2])])["queries"] == "80"
    module.plot([row for row, _ in rows], tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 5000
    low, high = module.student_interval(np.array([1.0, 2.0, 3.0]))
    assert (low, high) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5))


def test_search_in_a_large_store(tmp_path):
    """A second call takes what the folder has, and gives the same; exact search in one pass is the library's."""
    pytest.importorskip("usearch")
    module = load_benchmark("search_graph")
    first = module.measure(tmp_path, 2500, 16, 12)
    assert first["passages"] == "2,500" and float(first["recall"]) > 90
    again = module.measure(tmp_path, 2500, 16, 12)
    assert {name: again[name] for name in ("recall", "build_s", "exact_ms")} == {
        name: first[name] for name in ("recall", "build_s", "exact_ms")
    }
    with Store(tmp_path / "clusters.db") as store:
        assert store.counts() == {"recordings": 3, "files": 3, "passages": 2500}
        wanted = module.Clusters(16).draw(12, 1 << 40)
        exact = index.exact(store)
        for query, expected in zip(wanted, np.load(tmp_path / "expected.npy"), strict=True):
            assert set(exact(query[None], 10)[0]) == set(expected)


def test_an_interrupted_search_benchmark_continues_its_graph(tmp_path, monkeypatch):
    """The time of the part that was saved counts; a part whose time is not known is not used."""
    pytest.importorskip("usearch")
    module = load_benchmark("search_graph")
    monkeypatch.setattr(index, "_ADDED", 500)
    monkeypatch.setattr(index, "_SAVE_INTERVAL_S", 0.0)
    build, calls = index.approximate, []

    def stopped_at(last):
        def approximate(store, progress=None):
            def count(done, total):
                progress(done, total)
                calls.append(done)
                if done == last:
                    raise KeyboardInterrupt

            return build(store, progress and count)

        return approximate

    monkeypatch.setattr(index, "approximate", stopped_at(1000))
    with pytest.raises(KeyboardInterrupt):
        module.measure(tmp_path, 2500, 16, 12)
    path = tmp_path / "measured.json"
    part = json.loads(path.read_text()) | {"part_s": 1000.0}
    path.write_text(json.dumps(part))
    monkeypatch.setattr(index, "approximate", stopped_at(None))
    calls.clear()
    assert float(module.measure(tmp_path, 2500, 16, 12)["build_s"]) >= 1000 and calls == [1500, 2000, 2500]
    assert float(json.loads(path.read_text())["peak_mib"]) >= part["peak_mib"]
    for name in ("build_s", "part_mtime_ns"):
        part.pop(name, None)
    path.write_text(json.dumps(part))
    calls.clear()
    assert float(module.measure(tmp_path, 2500, 16, 12)["build_s"]) < 1000 and calls == [500, 1000, 1500, 2000, 2500]


def test_queries_are_of_the_test_fold_of_a_run(untrained, tmp_path):
    """Any encoder; a run has queries of the fold that it was not trained on."""
    module = load_benchmark("search")
    fold = restore_any(untrained).config.data.test_fold
    rng = np.random.default_rng(0)
    (tmp_path / "audio").mkdir()
    (tmp_path / "meta").mkdir()
    lines = ["filename,fold,target,src_file"]
    for place in range(8):
        lines.append(f"{place}.wav,{fold + place % 2},{place % 4 // 2},{place}")
        soundfile.write(tmp_path / f"audio/{place}.wav", 0.1 * rng.standard_normal(16_000), 16_000)
    (tmp_path / "meta/esc50.csv").write_text("\n".join(lines))
    options = argparse.Namespace(
        what=["retrieval"],
        index=None,
        model=[str(untrained)],
        folder=tmp_path / "stores",
        name="tiny",
        data_dir=tmp_path,
    )
    for _ in range(2):  # the store is kept
        (row,) = module.rows(options)
        assert row["encoder"] == "tiny" and row["queries"] == "4"
    options.what = ["few-shot"]
    with pytest.raises(module.FoldError, match="trained on none of the clips, and not a run"):
        list(module.rows(options))
    options.model *= 2
    with pytest.raises(module.FoldError, match="would count twice"):
        list(module.rows(options))
    with pytest.raises(module.FoldError, match="leaves no fold of the data for queries"):
        module.query_folds(str(untrained), [fold + 1])


def test_estimated_steps_are_those_of_rings(monkeypatch):
    """Against the sum of the messages of each phase: every GPU of a ring of n sends n − 1 parts of 1/n, twice."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    module = importlib.import_module("weak_scaling")
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
