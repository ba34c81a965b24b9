"""ONNX files compute the probabilities of the run in onnxruntime, or the export fails."""

import ast
import dataclasses
import json
import pathlib
import sys

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from esc_jax.data.layouts.registry import open_source
from esc_jax.data.synthetic import generate
from esc_jax.export import formats
from esc_jax.export.base import ExportError
from esc_jax.frontends import registry as frontends
from esc_jax.tasks import registry as tasks
from tests.export.examples import example_of
from tests.export.factories import CLASSES, ENCODERS, as_multi_label, noise, probabilities, with_model
from tests.export.isolation import isolated, write_wav

REASON = "needs onnx and onnxruntime: pip install 'esc-jax[onnx]'"
onnx = pytest.importorskip("onnx", reason=REASON)
onnxruntime = pytest.importorskip("onnxruntime", reason=REASON)

from esc_jax.export import clips, comparison, model_card  # noqa: E402
from esc_jax.export.frontends import as_products  # noqa: E402
from esc_jax.export.onnx import graph, operators, write  # noqa: E402

RATE = 16_000
FRONTENDS = {
    "log_mel": {"name": "log_mel"},
    "log_mel, window shorter than the DFT": {
        "name": "log_mel", "n_fft": 512, "win_length": 400, "hop": 160, "htk": True, "mels": 40
    },
    "log_mel, not centred": {"name": "log_mel", "n_fft": 1000, "hop": 1100, "center": False, "mels": 40},
    "log_mel, prime length": {"name": "log_mel", "n_fft": 997, "win_length": 301, "hop": 300, "mels": 40},
    "efficientat_mel": {"name": "efficientat_mel", "fmax": 7000.0},
    "efficientat_mel, 40 bands": {"name": "efficientat_mel", "fmax": 8000.0, "bins": 40, "window": 777, "hop": 100},
    "kaldi_fbank": {"name": "kaldi_fbank"},
    "kaldi_fbank, whole clip": {"name": "kaldi_fbank", "snip_edges": False, "window": "hamming", "hop_ms": 30.0},
    "kaldi_fbank, magnitudes": {"name": "kaldi_fbank", "power": False, "remove_dc": False, "bins": 64},
}  # fmt: skip


def sounds(samples: int) -> np.ndarray:
    """(4, samples): noise, quiet noise with an offset, a sweep and silence, in 16 bits."""
    rng, t = np.random.default_rng(0), np.arange(samples) / RATE
    loud, quiet = rng.normal(size=(2, samples)) * np.array([[0.2], [1e-3]])
    waveforms = np.stack([loud, quiet + 0.1, 0.5 * np.sin(2 * np.pi * (100 + 3000 * t) * t), 0 * t])
    return (np.rint(waveforms * 32768) / 32768).astype(np.float32)


@pytest.mark.parametrize("name", FRONTENDS)
@pytest.mark.parametrize("samples", [8000, 5003])
def test_products_equal_the_frontend(name, samples):
    frontend = frontends.build(FRONTENDS[name], RATE)
    waveforms = sounds(samples)
    expected = np.asarray(frontend(waveforms))
    actual = np.asarray(jax.jit(as_products(frontend))(waveforms))
    assert actual.shape == expected.shape
    # The sums round differently. The logarithm enlarges this in bands that are nearly silent beside a loud one, as in
    # the sweep. The features have a standard deviation of about 1.
    np.testing.assert_allclose(actual, expected, atol=5e-3, rtol=0)
    assert np.abs(actual - expected).mean() < 2e-5


def run_graph(function, *shape, batch=3):
    """The result of a function in onnxruntime and in JAX, for random values."""
    built = graph.Graph(operators.OPERATORS, "x", *shape)
    model = built.model(built.call("model", function, built.input), "y")
    onnx.checker.check_model(model, full_check=True)
    x = np.random.default_rng(0).normal(size=(batch, *shape)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0], np.asarray(function(x)), built


OPERATIONS = {
    "reductions": lambda x: x.max((1, 2)) + x.min((1, 2)) - x.sum((1, 2)),
    "token for each clip": lambda x: jnp.concatenate([jnp.ones((x.shape[0], 1, *x.shape[2:])), x], axis=1),
    "constant sums": lambda x: x / jnp.ones(x.shape).sum(-1, keepdims=True),
    "powers": lambda x: lax.integer_pow(x, 3) + lax.integer_pow(x, 2) + lax.rsqrt(jnp.abs(x) + 1.0),
    "error function": lambda x: jax.nn.gelu(x, approximate=False),
    "choice": lambda x: jnp.where((x > 0) & (x < 0.5), x, -1.0) + jnp.clip(x, -0.5, 0.25),
    "hard swish": jax.nn.hard_swish,
    "reverse and slice": lambda x: lax.slice_in_dim(lax.rev(x, (1, 2)), 1, 5, 2, axis=1),
    "attention": lambda x: jnp.einsum("bqhc,bkhc->bhqk", x, 2 * x),
    "two axes contracted": lambda x: jnp.einsum("bhwc,whd->bdc", x, np.ones((5, 6, 2), np.float32)),
    "edges": lambda x: jnp.pad(x, [(0, 0), (0, 0), (2, 1), (0, 0)], mode="edge"),
    "pooling": lambda x: lax.reduce_window(x, -np.inf, lax.max, (1, 3, 2, 1), (1, 2, 1, 1), "SAME"),
    "transposed residual": lambda x: x.transpose(0, 2, 1, 3) + x.mean((1, 2))[:, None, None],
    "pointwise after a convolution": lambda x: lax.conv_general_dilated(
        x, np.ones((3, 3, 4, 2), np.float32), (1, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    ) @ np.arange(6, dtype=np.float32).reshape(2, 3),
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations(name):
    actual, expected, _ = run_graph(OPERATIONS[name], 6, 5, 4)
    np.testing.assert_allclose(actual, expected, atol=1e-5, rtol=1e-5)


def test_a_network_of_convolutions_has_no_transpositions_inside():
    kernel = np.ones((3, 3, 4, 4), np.float32)

    def network(x):
        for _ in range(3):
            x = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            x = jax.nn.relu(x * np.arange(4, dtype=np.float32)[None, None, None] + x)
        return x.mean((1, 2))

    *_, built = run_graph(network, 6, 5, 4)
    kinds = [node.op_type for node in built.nodes]
    assert kinds.count("Transpose") == 1 and kinds.count("Conv") == 3  # of the input


@pytest.mark.parametrize(
    ("function", "message"),
    [(lambda x: jnp.sort(x), "the operation sort"), (lambda x: jnp.fft.rfft(x).real, "the operation fft")],
)
def test_an_operation_without_operator_is_named(function, message):
    with pytest.raises(ExportError, match=f"{message} of the model has no ONNX operator.*--format=stablehlo"):
        run_graph(function, 8)


@pytest.fixture(scope="module")
def exported(restored, tmp_path_factory):
    """Name of an architecture → its export."""
    folders = {}

    def get(name: str) -> pathlib.Path:
        if name not in folders:
            folders[name] = formats.write(restored(name), "onnx", tmp_path_factory.mktemp("onnx") / name)
        return folders[name]

    return get


@pytest.mark.parametrize(
    "name",
    [
        "resnet",
        pytest.param("efficientat", marks=pytest.mark.slow),
        pytest.param("beats", marks=pytest.mark.slow),
        *(
            pytest.param(name, marks=pytest.mark.extended)
            for name in ENCODERS
            if name not in ("resnet", "efficientat", "beats")
        ),
    ],
)
def test_every_architecture_computes_the_same_probabilities(restored, exported, name):
    run, out, audio = restored(name), exported(name), noise(5)
    waveforms, task = audio.astype(np.float32) / 32768, tasks.get("single_label")
    expected = probabilities(run.model, task, audio)
    for batch in (1, 2, 5):
        actual = write.run(out / "model.onnx", waveforms, batch)
        np.testing.assert_allclose(actual, expected, atol=comparison.TOLERANCE, rtol=0)
    assert np.ptp(expected, axis=0).max() > 0.02  # far above the tolerance
    features = np.asarray(run.model.frontend(waveforms))
    assert (out / "features.onnx").exists() == (features.ndim == 3)
    if features.ndim == 3:
        actual = write.run(out / "features.onnx", features, 5)
        np.testing.assert_allclose(actual, expected, atol=comparison.TOLERANCE, rtol=0)
    about = json.loads((out / "model.json").read_text())
    assert about["labels"] == list(CLASSES) and about["opset"] == 21 and "platforms" not in about
    convolutional = name in ("efficientat", "efficientnet", "resnet")
    assert about["files"]["model_int8.onnx"]["kind"] == ("static" if convolutional else "dynamic")
    assert write.run(out / "model_int8.onnx", waveforms, 2).shape == expected.shape


def test_the_files(exported):
    out = exported("resnet")
    names = {path.name for path in out.iterdir()}
    assert names == {"model.onnx", "features.onnx", "model_int8.onnx", "model.json", "example.py", "README.md"}
    model = onnx.load(out / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 21)]
    kinds = {node.op_type for node in model.graph.node}
    assert not kinds & {"DFT", "STFT"} and "MatMul" in kinds
    assert [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == ["batch", 8000]
    card, about = (out / "README.md").read_text(), json.loads((out / "model.json").read_text())
    assert example_of(out) == (out / "example.py").read_text()
    assert "| `model_int8.onnx` | waveform | the same first class for " in card and "synthesised sounds" in card
    assert all(0 <= about["files"][name]["largest_difference"] < 1e-4 for name in ("model.onnx", "features.onnx"))


def test_a_calibrated_multi_label_model(restored, tmp_path):
    task, audio = tasks.get("multi_label"), noise(2)
    run = as_multi_label(restored("resnet"), (0.5,) * 7, temperature=2.0)
    out = formats.write(run, "onnx", tmp_path / "out")
    about = json.loads((out / "model.json").read_text())
    assert about["thresholds"] == [0.5] * 7 and about["temperature"] == 2.0
    shares = task.probabilities(task.logits(probabilities(run.model, task, audio)), temperature=2.0)
    actual = write.run(out / "model.onnx", audio.astype(np.float32) / 32768)
    np.testing.assert_allclose(actual, shares, atol=1e-5, rtol=0)


def test_a_model_in_bfloat16_is_computed_in_float32(restored):
    run = restored("resnet")
    run.config.model.dtype = "bfloat16"
    try:
        model = comparison.in_float32(run)
        assert model.module.encoder.dtype == jnp.float32 and run.config.model.dtype == "bfloat16"
    finally:
        run.config.model.dtype = "float32"


def test_different_outputs_fail_and_leave_nothing(restored, tmp_path, monkeypatch):
    relu = operators.OPERATORS["max"]

    def wrong(graph, equation, operands):
        is_relu = isinstance(operands[1], np.ndarray)
        return relu(graph, equation, [operands[0], np.full((), 0.01, np.float32)] if is_relu else operands)

    monkeypatch.setitem(operators.OPERATORS, "max", wrong)
    with pytest.raises(ExportError, match=r"model.onnx in onnxruntime differ by .* more than 0.0001: use --format"):
        formats.write(restored("resnet"), "onnx", tmp_path / "new/out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [1.0, np.nan])
def test_changed_weights_are_noticed(exported, tmp_path, value):
    out = exported("resnet")
    waveforms = noise(3).astype(np.float32) / 32768
    expected = write.run(out / "model.onnx", waveforms)
    assert write.compare(out / "model.onnx", waveforms, expected) < 1e-6
    model = onnx.load(out / "model.onnx")
    weights = next(t for t in model.graph.initializer if np.prod(t.dims) == 7)
    weights.CopyFrom(
        onnx.numpy_helper.from_array(np.arange(7, dtype=np.float32).reshape(weights.dims) * value, weights.name)
    )
    onnx.save(model, tmp_path / "changed.onnx")
    with pytest.raises(ExportError, match="changed.onnx in onnxruntime differ by"):
        write.compare(tmp_path / "changed.onnx", waveforms, expected)


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named(restored, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ExportError, match=rf"needs the package {package}: pip install 'esc-jax\[onnx\]'"):
        formats.write(restored("resnet"), "onnx", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_too_large(restored, tmp_path, monkeypatch):
    monkeypatch.setattr(write, "MAX_PARAMETERS", 10)
    with pytest.raises(ExportError, match="do not fit into an ONNX file: use --format=stablehlo"):
        formats.write(restored("resnet"), "onnx", tmp_path / "out")


def test_clips_of_the_run_are_checked(restored, tmp_path):
    """The test fold is compared, the other folds calibrate. Without the data, synthesised sounds are."""
    folder = generate(tmp_path / "data", clips_per_fold=1)
    run = restored("resnet")
    config = run.config.copy_and_resolve_references()
    config.data.update(name="esc50", dir=str(folder), test_fold=2)
    run = dataclasses.replace(run, config=config)
    others = clips.find(run)  # the model has none of the classes of the data
    assert others.labels is None and "synthesised" in others.source and others.checked.shape[1] == 8000
    found = clips.find(with_model(run, classes=open_source(folder).categories[:7]))
    assert found.source == "7 clips of esc50, fold 2" and sorted(found.labels.tolist()) == list(range(7))
    assert found.checked.shape == (7, 8000) and len(found.calibration) == 28
    assert np.array_equal(found.checked, np.rint(found.checked * 32768) / 32768)


def test_the_example_needs_numpy_and_onnxruntime_only(exported, tmp_path):
    out = exported("resnet")
    source = (out / "example.py").read_text()
    assert len(source.splitlines()) <= 30
    imported = {
        name.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import) for name in node.names
    }
    assert imported == {"numpy", "onnxruntime", "pathlib", "sys", "wave"}
    audio = np.concatenate(noise(4))[:20_000]
    write_wav(tmp_path / "clip.wav", audio[:, None].repeat(2, 1), RATE)
    write_wav(tmp_path / "other.wav", audio[:, None], 8000)
    soundfile.write(tmp_path / "deep.wav", audio / 32768, RATE, subtype="PCM_24", format="WAVEX")

    names = ("clip.wav", "other.wav", "deep.wav", "missing.wav")
    done, *wrong = (isolated(out, {"numpy", "onnxruntime"}, name, cwd=tmp_path) for name in names)
    assert done.returncode == 0, done.stderr[-3000:]
    starts = (0, 8000, 12_000)  # the last window ends with the file
    expected = write.run(out / "model.onnx", np.stack([audio[i : i + 8000] for i in starts]).astype(np.float32) / 32768)
    lines = []
    for start, row in zip(starts, expected, strict=True):
        best = ", ".join(f"{CLASSES[i]} {row[i]:.3f}" for i in row.argsort()[::-1][:3])
        lines.append(f"{start / RATE:.1f} s: {best}")
    assert done.stdout.splitlines() == lines
    for name, run in zip(names[1:], wrong, strict=True):
        assert run.returncode == 1 and run.stderr.startswith(f"{name} is not a 16-bit wav file of 16000 Hz: ffmpeg")


@pytest.mark.parametrize(("agreement", "marked"), [(1.0, False), (0.89, True)])
def test_an_int8_file_that_decides_otherwise_is_marked(restored, agreement, marked):
    run, count = restored("resnet"), 100
    expected = np.eye(7, dtype=np.float32)[np.arange(count) % 7]
    actual = np.where(np.arange(count)[:, None] < 100 * agreement, expected, 1 - expected)
    chosen = clips.Clips(np.zeros((count, 1), np.float32), None, np.zeros((0, 1), np.float32), "100 clips")
    about = comparison.compare_decisions(run, "model_int8.onnx", chosen, expected, actual)
    assert about["top1_agreement"] == pytest.approx(agreement) and about["below_min_agreement"] == marked
    card = model_card.onnx_card(run, {"model_int8.onnx": about | {"input": "waveform", "kind": "static"}}, "100 clips")
    assert ("has another first class for more than 10 % of them" in card) == marked
