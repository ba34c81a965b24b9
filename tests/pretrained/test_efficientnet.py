"""EfficientNet checkpoints: against transformers on random weights, the other publishers' names, round trip."""

import json

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from esc_jax.models import efficientnet as models
from esc_jax.models import heads
from esc_jax.models.encoder import Classifier
from esc_jax.pretrained import efficientnet
from esc_jax.pretrained.published import PretrainedError
from tests.pretrained.hostile import refusals
from tests.pretrained.trees import assert_equal_trees

LABELS = ("dog", "rain", "sea waves")
FRONTEND = {"name": "log_mel", "mels": 64}

# Rows of published listings of the state dicts: torchvision's efficientnet_b2, timm's efficientnet_b1.
TORCHVISION_B2 = {
    "features.0.0.weight": (32, 3, 3, 3),
    "features.0.1.bias": (32,),
    "features.1.0.block.0.0.weight": (32, 1, 3, 3),
    "features.1.0.block.1.fc1.weight": (8, 32, 1, 1),
    "features.1.0.block.1.fc2.bias": (32,),
    "features.1.0.block.2.0.weight": (16, 32, 1, 1),
    "features.1.1.block.2.1.weight": (16,),
    "features.2.0.block.0.0.weight": (96, 16, 1, 1),
    "features.2.0.block.1.0.weight": (96, 1, 3, 3),
    "features.2.0.block.1.1.bias": (96,),
    "features.2.0.block.2.fc1.weight": (4, 96, 1, 1),
    "features.2.0.block.3.0.weight": (24, 96, 1, 1),
    "features.3.2.block.1.0.weight": (288, 1, 5, 5),
    "features.6.4.block.3.1.bias": (208,),
    "features.7.1.block.0.0.weight": (2112, 352, 1, 1),
    "features.8.0.weight": (1408, 352, 1, 1),
    "features.8.1.weight": (1408,),
    "classifier.1.weight": (1000, 1408),
}
TIMM_B1 = {
    "conv_stem.weight": (32, 3, 3, 3),
    "bn1.weight": (32,),
    "blocks.0.0.conv_dw.weight": (32, 1, 3, 3),
    "blocks.0.0.bn1.weight": (32,),
    "blocks.0.0.se.conv_reduce.weight": (8, 32, 1, 1),
    "blocks.0.0.se.conv_expand.bias": (32,),
    "blocks.0.0.conv_pw.weight": (16, 32, 1, 1),
    "blocks.0.1.bn2.bias": (16,),
    "blocks.1.0.conv_pw.weight": (96, 16, 1, 1),
    "blocks.1.0.bn1.weight": (96,),
    "blocks.1.0.conv_dw.weight": (96, 1, 3, 3),
    "blocks.1.0.bn2.bias": (96,),
    "blocks.1.0.se.conv_reduce.weight": (4, 96, 1, 1),
    "blocks.1.0.conv_pwl.weight": (24, 96, 1, 1),
    "blocks.1.0.bn3.weight": (24,),
    "blocks.4.3.conv_dw.weight": (672, 1, 5, 5),
    "blocks.6.1.conv_pwl.weight": (320, 1920, 1, 1),
    "conv_head.weight": (1280, 320, 1, 1),
    "bn2.weight": (1280,),
    "classifier.weight": (1000, 1280),
}
# The arrays of those listings ("number of layers"); running statistics are not among them.
PUBLISHED_ARRAYS = 301


def build(options, classes=3):
    return Classifier(models.EfficientNet(**options), heads.Linear(classes))


def random_variables(model):
    """Every variable random and every variance positive."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32), jnp.float32))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: rng.uniform(0.1, 1.0, s.shape).astype(np.float32), shapes)


def published_shapes(variant, source, classes=1000):
    """{name: shape in torch's layout} by our map, statistics too."""
    width, depth, _ = models.VARIANTS[variant]
    options = {"width_coefficient": width, "depth_coefficient": depth, "in_channels": 3}
    shapes = jax.eval_shape(
        build(options, classes).init, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32), jnp.float32)
    )
    name = efficientnet._published_name(source, "", options)
    result = {}
    for path, leaf in traverse_util.flatten_dict(dict(shapes)).items():
        shape = leaf.shape
        if len(shape) == 4:
            shape = (shape[3], shape[2], *shape[:2])
        elif len(shape) == 2:
            shape = shape[::-1] if path[1] == "head" else (*shape[::-1], 1, 1)
        result[name(path)] = shape
    return result


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A B0 with three classes in transformers' form."""
    directory = tmp_path_factory.mktemp("efficientnet")
    options = {"same_padding": "transformers", "drop_connect_rate": 0.1}
    efficientnet.write(directory, random_variables(build(options)), options, LABELS, FRONTEND, dropout=0.3)
    return directory


@pytest.fixture
def directory(written, tmp_path):
    for path in written.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_read_and_write_are_inverse(written, tmp_path):
    loaded = efficientnet.read(written)
    assert loaded.labels == LABELS
    assert loaded.head == {"name": "linear", "dropout": 0.3, "classes": 3}
    assert loaded.frontend == FRONTEND
    assert loaded.options["drop_connect_rate"] == 0.1
    # Bit for bit, the stem through its three channels too.
    assert_equal_trees(loaded.variables, random_variables(build(loaded.options)))
    efficientnet.write(
        tmp_path, loaded.variables, loaded.options, loaded.labels, loaded.frontend, loaded.head["dropout"]
    )
    again = efficientnet.read(tmp_path)
    assert_equal_trees(again.variables, loaded.variables)
    for field in ("architecture", "options", "head", "frontend", "labels"):
        assert getattr(again, field) == getattr(loaded, field)


def test_the_written_stem_is_three_equal_thirds(written):
    arrays = safetensors.numpy.load_file(written / "model.safetensors")
    stem = arrays["efficientnet.embeddings.convolution.weight"]
    kernel = efficientnet.read(written).variables["params"]["encoder"]["stem"]["conv"]["kernel"]
    assert stem.shape == (32, 3, 3, 3)
    # The third channel takes the rounding of the other two.
    np.testing.assert_allclose(stem, np.broadcast_to(kernel.transpose(3, 2, 0, 1) / 3, stem.shape), rtol=1e-6)


@pytest.mark.parametrize(("source", "variant", "listing"), [("torchvision", 2, TORCHVISION_B2), ("timm", 1, TIMM_B1)])
def test_names_and_shapes_of_published_listings(source, variant, listing):
    result = published_shapes(variant, source)
    assert {name: result.get(name) for name in listing} == listing
    assert len([name for name in result if "running" not in name]) == PUBLISHED_ARRAYS


@pytest.mark.parametrize(
    ("source", "variant", "file", "expected"),
    [
        ("torchvision", 0, "efficientnet_b0.safetensors", (1e-5, 0.9, "torch", 1.0, 1.0)),
        ("timm", 0, "efficientnet_b0.safetensors", (1e-5, 0.9, "torch", 1.0, 1.0)),
        ("timm", 1, "tf_efficientnet_b1.safetensors", (1e-3, 0.99, "tf", 1.0, 1.1)),
    ],
)
def test_the_publisher_is_detected_from_the_names(tmp_path, source, variant, file, expected):
    rng = np.random.default_rng(1)
    shapes = published_shapes(variant, source, classes=4)
    arrays = {name: rng.uniform(0.1, 1.0, shape).astype(np.float32) for name, shape in shapes.items()}
    arrays["features.0.1.num_batches_tracked" if source == "torchvision" else "bn1.num_batches_tracked"] = np.array(7)
    safetensors.numpy.save_file(arrays, tmp_path / file)
    loaded = efficientnet.read(tmp_path / file)
    names = ("bn_epsilon", "bn_momentum", "same_padding", "width_coefficient", "depth_coefficient")
    assert tuple(loaded.options[name] for name in names) == expected
    assert loaded.head == {"name": "linear", "dropout": 0.2, "classes": 4}
    params = loaded.variables["params"]
    stem = arrays["features.0.0.weight" if source == "torchvision" else "conv_stem.weight"]
    # A sum of three float32.
    folded = params["encoder"]["stem"]["conv"]["kernel"][:, :, 0]
    np.testing.assert_allclose(folded, stem.sum(1).transpose(1, 2, 0), rtol=1e-6)
    classifier = arrays["classifier.1.weight" if source == "torchvision" else "classifier.weight"]
    np.testing.assert_array_equal(params["head"]["classifier"]["kernel"], classifier.T)


def test_missing_and_unknown_arrays_are_all_named(directory):
    arrays = safetensors.numpy.load_file(directory / "model.safetensors")
    del arrays["efficientnet.encoder.blocks.3.squeeze_excite.reduce.bias"]
    arrays["efficientnet.extra"] = np.zeros(1, np.float32)
    safetensors.numpy.save_file(arrays, directory / "model.safetensors")
    with pytest.raises(PretrainedError) as error:
        efficientnet.read(directory)
    assert "missing encoder.blocks.3.squeeze_excite.reduce.bias" in str(error.value)
    assert "not used extra" in str(error.value)


def test_other_architectures_and_variants_are_explained(directory, tmp_path):
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"pooling_type": "max"}))
    with pytest.raises(PretrainedError, match="pooling_type='max', where EfficientNet-B0 to B7 have 'mean'"):
        efficientnet.read(directory)
    for wrong, words in (
        ({"width_coefficient": None}, "has an invalid option width_coefficient=None: it must be above 0"),
        ({"depthwise_padding": 3}, "symmetric_blocks=3: it must be whole numbers"),
    ):
        (directory / "config.json").write_text(json.dumps(config | wrong))
        with pytest.raises(PretrainedError, match=words):
            efficientnet.read(directory)
    (directory / "config.json").unlink()
    with pytest.raises(PretrainedError, match="no config.json: give the directory"):
        efficientnet.read(directory)
    safetensors.numpy.save_file({"layer1.weight": np.zeros(2, np.float32)}, tmp_path / "resnet.safetensors")
    with pytest.raises(PretrainedError, match="no known EfficientNet"):
        efficientnet.read(tmp_path / "resnet.safetensors")
    safetensors.numpy.save_file({"conv_stem.weight": np.zeros((8, 3, 3, 3), np.float32)}, tmp_path / "b.safetensors")
    with pytest.raises(PretrainedError, match=r"none of EfficientNet-B0 to B7 \(stem of 8, top of 0 channels"):
        efficientnet.read(tmp_path / "b.safetensors")


def test_what_transformers_cannot_hold_is_refused(written, tmp_path):
    loaded = efficientnet.read(written)
    options = loaded.options | {"same_padding": "torch"}
    with pytest.raises(PretrainedError, match="start from google/efficientnet-b0"):
        efficientnet.write(tmp_path, loaded.variables, options, LABELS, FRONTEND)
    params = loaded.variables["params"] | {"head": {"hidden": {}, "classifier": {}}}
    with pytest.raises(PretrainedError, match="supports only a linear head"):
        efficientnet.write(tmp_path, loaded.variables | {"params": params}, loaded.options, LABELS, FRONTEND)


@pytest.fixture(scope="module")
def b0(tmp_path_factory):
    """transformers' B0 with random weights and statistics, and its directory."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.EfficientNetConfig(
        width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280, num_labels=1000, dropout_rate=0.2
    )
    model = transformers.EfficientNetForImageClassification(config).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight)
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
                module.weight.normal_(1, 0.1)
                module.bias.normal_(0, 0.1)
    directory = tmp_path_factory.mktemp("b0")
    model.save_pretrained(directory)
    return model, directory


def torch_logits(model, spectrogram):
    import torch

    with torch.no_grad():
        return model(torch.tensor(spectrogram)[:, None].expand(-1, 3, -1, -1)).logits.numpy()


def test_logits_of_transformers_and_what_is_written_again(b0, tmp_path):
    import transformers

    model, directory = b0
    assert sum(p.numel() for p in model.parameters()) == 5_288_548
    loaded = efficientnet.read(directory)
    assert loaded.options["same_padding"] == "transformers"
    assert loaded.frontend == {"name": "log_mel"}
    assert sum(a.size for a in jax.tree.leaves(loaded.variables["params"])) == 5_288_548 - 2 * 9 * 32
    # Odd sizes: there transformers pads as neither TensorFlow nor torch does.
    spectrogram = np.random.default_rng(0).normal(size=(2, 101, 71)).astype(np.float32)
    expected = torch_logits(model, spectrogram)
    result = jax.jit(build(loaded.options, 1000).apply)(loaded.variables, spectrogram)
    # Float32 leaves about 1e-6 on logits of size one.
    np.testing.assert_allclose(result, expected, atol=1e-4, rtol=0)
    efficientnet.write(tmp_path, loaded.variables, loaded.options, loaded.labels, loaded.frontend)
    again, info = transformers.EfficientNetForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    np.testing.assert_allclose(torch_logits(again.eval(), spectrogram), expected, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_torch_padding_and_epsilon_under_the_other_names(b0, tmp_path):
    """The same weights with other names, against the same modules with torch's padding and epsilon."""
    import copy

    import torch

    model, directory = copy.deepcopy(b0[0]), b0[1]
    published = efficientnet.read(directory)
    state = {name.removeprefix("efficientnet."): a for name, a in model.state_dict().items()}
    for source in ("torchvision", "timm"):
        old, new = (efficientnet._published_name(s, "", published.options) for s in ("transformers", source))
        renamed = {new(path): state[old(path)] for path in traverse_util.flatten_dict(published.variables)}
        assert {name: tuple(a.shape) for name, a in renamed.items()} == published_shapes(0, source)
        torch.save(renamed, tmp_path / f"{source}.pth")
        loaded = efficientnet.read(tmp_path / f"{source}.pth")
        assert_equal_trees(loaded.variables, published.variables)

    model.efficientnet.embeddings.padding = torch.nn.ZeroPad2d(1)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = 1e-5
        if isinstance(getattr(module, "depthwise_conv_pad", None), torch.nn.ZeroPad2d):
            module.depthwise_conv_pad = torch.nn.ZeroPad2d(module.depthwise_conv.kernel_size[0] // 2)
    spectrogram = np.random.default_rng(0).normal(size=(2, 64, 71)).astype(np.float32)
    result = jax.jit(build(loaded.options, 1000).apply)(loaded.variables, spectrogram)
    # As above.
    np.testing.assert_allclose(result, torch_logits(model, spectrogram), atol=1e-4, rtol=0)


@pytest.mark.extended
def test_every_value_of_a_config_of_a_stranger(directory):
    """It is allowed, or not used, or refused in one sentence before anything is built."""
    path = directory / "config.json"
    good = json.loads(path.read_text())
    number = refusals(
        lambda: efficientnet.read(directory),
        lambda key, value: path.write_text(json.dumps(good | {key: value})),
        [key for key in good if key not in efficientnet._FIXED],  # those have one value
    )
    assert number > 50
