"""The published checkpoint against the published code's outputs; other widths against the same network in torch."""

import functools

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esc_jax.frontends.efficientat_mel import EfficientATMel
from esc_jax.models.efficientat import EfficientAT, head_width, layout
from esc_jax.models.encoder import Classifier
from esc_jax.models.heads import Mlp
from esc_jax.pretrained import efficientat
from esc_jax.pretrained.published import PretrainedError


def model_of(pretrained):
    options = {key: value for key, value in pretrained.head.items() if key != "name"}
    return Classifier(EfficientAT(**pretrained.options), Mlp(**options))


@functools.cache  # tracing the network takes seconds
def shapes_of(width, classes):
    model = Classifier(EfficientAT(width), Mlp(classes, head_width(width)))
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 32)))


def random_state(width, classes=527):
    """A state dict with the published names and shapes; variances are positive."""
    rng, state = np.random.default_rng(0), {}
    for name, _, shape in efficientat._entries(width, classes):
        state[name] = rng.uniform(0.1, 1.0, shape).astype(np.float32)
        if name.endswith("running_var"):
            state[name.replace("running_var", "num_batches_tracked")] = np.zeros((), np.int64)
    return state


@pytest.fixture
def state_file(tmp_path, monkeypatch):
    """A function from a state dict to a path that `read` takes for the file holding it, so that torch is not needed."""

    def write(state, name="mn.pt"):
        monkeypatch.setattr(efficientat, "load_torch", lambda path: state)
        return tmp_path / name

    return write


def torch_network(width, classes):
    """MobileNetV3 in plain torch modules, named as in the published state dict."""
    torch = pytest.importorskip("torch", reason="compares with torch: pip install torch")
    nn = torch.nn

    def conv(inputs, outputs, kernel=1, stride=1, groups=1, act=None):
        norm = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01)
        layers = [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False), norm]
        return nn.Sequential(*layers, *([act()] if act else []))

    class Excite(nn.Module):
        def __init__(self, channels, squeeze):
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(channels, squeeze), nn.Linear(squeeze, channels)

        def forward(self, x):
            return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(x.mean((2, 3))))))[:, :, None, None]

    class Concurrent(nn.Module):
        def __init__(self, *args):
            super().__init__()
            self.conc_se_layers = nn.ModuleList([Excite(*args)])

        def forward(self, x):
            return self.conc_se_layers[0](x)

    class Block(nn.Module):
        def __init__(self, spec):
            super().__init__()
            act = nn.Hardswish if spec.hard_swish else nn.ReLU
            expand = [conv(spec.inputs, spec.expanded, act=act)] if spec.expands else []
            depthwise = conv(spec.expanded, spec.expanded, spec.kernel, spec.stride, spec.expanded, act)
            squeeze = [Concurrent(spec.expanded, spec.squeeze)] if spec.squeeze else []
            self.block = nn.Sequential(*expand, depthwise, *squeeze, conv(spec.expanded, spec.outputs))
            self.residual = spec.residual

        def forward(self, x):
            return x + self.block(x) if self.residual else self.block(x)

    blocks, hidden = layout(width), head_width(width)
    last = 6 * blocks[-1].outputs
    network = nn.Sequential()
    network.features = nn.Sequential(
        conv(1, blocks[0].inputs, 3, 2, act=nn.Hardswish),
        *map(Block, blocks),
        conv(blocks[-1].outputs, last, act=nn.Hardswish),
    )
    pool = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network.classifier = nn.Sequential(
        *pool, nn.Linear(last, hidden), nn.Hardswish(), nn.Dropout(0.0), nn.Linear(hidden, classes)
    )
    return network


def test_published_checkpoint(shared):
    pytest.importorskip("torch", reason="reads a .pt file: pip install torch")
    pretrained = efficientat.read(shared / "weights" / "efficientat" / "mn04_as_mAP_432.pt")
    reference = np.load(shared / "reference" / "efficientat" / "mn04_as_reference.npz")
    assert pretrained.options == {"width_mult": 0.4}
    assert pretrained.head == {"name": "mlp", "classes": 527, "width": 512, "dropout": 0.2}
    assert (len(pretrained.labels), pretrained.labels[0], pretrained.labels[-1]) == (527, "Speech", "Field recording")

    def both(model, features):
        embedding = model.encode(features).embedding
        return embedding, model.head(embedding)

    @jax.jit
    def run(variables, waveforms):
        wanted = lambda module, _: module.name in ("block1", "block8")  # noqa: E731
        outputs, inner = model_of(pretrained).apply(
            variables,
            EfficientATMel()(waveforms),
            method=both,
            capture_intermediates=wanted,
            mutable=["intermediates"],
        )
        maps = [inner["intermediates"]["encoder"][name]["__call__"][0][0].mean((1, 2)) for name in ("block1", "block8")]
        return *maps, *outputs

    outputs = run(pretrained.variables, reference["waveform_32k"])
    for name, ours in zip(("block1_mean", "block8_mean", "embedding", "logits"), outputs, strict=True):
        np.testing.assert_allclose(ours, reference[name], atol=1e-3, err_msg=name)  # float32, 50 layers


def test_other_width_against_torch(tmp_path):
    torch = pytest.importorskip("torch", reason="compares with torch: pip install torch")
    torch.manual_seed(0)
    torch.set_num_threads(1)  # its threads spin while they wait, and there are few cores
    network = torch_network(0.2, classes=7)
    with torch.no_grad():  # statistics that matter: those of training on noise
        network.train()
        for _ in range(2):
            network.classifier(network.features(torch.randn(4, 1, 64, 96)))
    torch.save(network.state_dict(), tmp_path / "mn02.pt")
    pretrained = efficientat.read(tmp_path / "mn02.pt")
    assert (pretrained.options, pretrained.labels) == ({"width_mult": 0.2}, None)

    bins_frames = torch.randn(2, 1, 40, 67)  # odd and even sizes on the way down
    features = jnp.asarray(bins_frames[:, 0].numpy().transpose(0, 2, 1))
    model = model_of(pretrained)
    with torch.no_grad():
        network.eval()
        expected = network.classifier(network.features(bins_frames))
        network.train()
        network.features(bins_frames)
    # Fifty float32 layers in two orders of summation.
    logits = jax.jit(model.apply)(pretrained.variables, features)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    train = functools.partial(model.apply, train=True, mutable=["batch_stats"], method="encode")
    _, changed = jax.jit(train)(pretrained.variables, features)
    flat, state = traverse_util.flatten_dict(changed), network.state_dict()
    after = {name: flat[path] for name, path, _ in efficientat._entries(0.2, 7) if path in flat}
    for name in after:
        if name.endswith("running_mean"):
            # Batches of few values in the last blocks amplify rounding; 1 % of a batch's mean enters.
            np.testing.assert_allclose(after[name], state[name], atol=1e-4, err_msg=name)
    stem = "features.0.1.running_var"  # torch's is the unbiased variance: 1/1359 of 1 % more
    np.testing.assert_allclose(after[stem], state[stem], rtol=2e-5)


# Millions, from the README of fschmid56/EfficientAT, cut or rounded after two or three digits.
@pytest.mark.parametrize(
    ("width", "millions"), [(0.4, 0.983), (0.5, 1.43), (1.0, 4.88), (2.0, 17.91), (3.0, 39.09), (4.0, 68.43)]
)
def test_published_parameter_counts(width, millions):
    entries = efficientat._entries(width, classes=527)
    parameters = sum(int(np.prod(shape)) for name, _, shape in entries if "running" not in name)
    assert parameters / 1e6 == pytest.approx(millions, rel=2e-3)


@pytest.mark.parametrize("width", [0.1, 1.0])
def test_every_variable_is_read(width, state_file):
    state = random_state(width)
    pretrained = efficientat.read(state_file(state))
    assert pretrained.options == {"width_mult": width}
    shapes = jax.tree.map(lambda leaf: leaf.shape, dict(shapes_of(width, 527)))
    assert jax.tree.map(np.shape, pretrained.variables) == shapes
    values = np.sort(np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(pretrained.variables)]))
    expected = np.sort(np.concatenate([array.ravel() for array in state.values() if array.ndim]))
    np.testing.assert_array_equal(values, expected)


def test_both_lists_of_names(state_file):
    state = random_state(0.1)
    del state["features.16.1.bias"]
    state["extra.weight"] = np.zeros(3, np.float32)
    with pytest.raises(PretrainedError, match="unknown arrays: extra.weight, missing arrays: features.16.1.bias"):
        efficientat.read(state_file(state))


def test_another_architecture_and_no_state_dict(state_file):
    with pytest.raises(PretrainedError, match=r"unknown arrays: conv1.weight, missing arrays: classifier.2.bias.*more"):
        efficientat.read(state_file({"conv1.weight": np.zeros((64, 3, 7, 7), np.float32)}))
    for state in ({"cfg": {}, "model": {}}, {0: np.zeros(3)}):
        with pytest.raises(PretrainedError, match="not a plain state dict"):
            efficientat.read(state_file(state))


def test_a_bias_without_dimensions(state_file):
    state = random_state(0.1) | {"classifier.5.bias": np.zeros((), np.float32)}
    with pytest.raises(PretrainedError, match="classifier.5"):
        efficientat.read(state_file(state))


def test_unknown_width(state_file):
    state = random_state(1.0)
    state = {name: array.repeat(3, axis=0) if array.ndim else array for name, array in state.items()}
    with pytest.raises(PretrainedError, match="width that is none of the published"):
        efficientat.read(state_file(state))


def test_labels_and_frontend_of_the_file(state_file, tmp_path):
    state = random_state(0.1)
    assert efficientat.read(state_file(state)).labels[526] == "Field recording"
    (tmp_path / "class_labels_indices.csv").write_text(
        "index,mid,display_name\n" + "".join(f'{i},/m/{i},"name, {i}"\n' for i in range(527))
    )
    pretrained = efficientat.read(state_file(state, "mn10_as_hop_15_mAP_463.pt"))
    assert pretrained.labels[3] == "name, 3"
    assert pretrained.frontend == {"name": "efficientat_mel", "sample_rate": 32_000, "hop": 480}
    assert efficientat.read(state_file(state, "mn10_as_mels_40_mAP_453.pt")).frontend["bins"] == 40
