"""Random weights under the published names, against the same network in torch. No published file is at hand."""

import numpy as np
import pytest

from esc_jax.models.dymn import DyMN, context_size
from esc_jax.models.efficientat import head_width, layout
from esc_jax.models.encoder import Classifier
from esc_jax.models.heads import Mlp
from esc_jax.pretrained import dymn, efficientat
from esc_jax.pretrained.published import PretrainedError


def torch_network(width, classes):
    """The network written down from the paper's equations, as modules with the names of the published state dict."""
    torch = pytest.importorskip("torch", reason="compares with torch: pip install torch")
    nn, functional = torch.nn, torch.nn.functional

    def norm(channels):
        return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)

    class Mixture(nn.Module):
        """For each clip, the convolution with the sum of four kernels, weighted by a softmax."""

        def __init__(self, inputs, outputs, context, kernel=1, stride=1, depthwise=False):
            super().__init__()
            self.shape = (outputs, 1 if depthwise else inputs, kernel, kernel)
            self.options = {"stride": stride, "padding": kernel // 2, "groups": inputs if depthwise else 1}
            self.weight = nn.Parameter(0.3 * torch.randn(1, 1, 4, int(np.prod(self.shape))))
            self.residuals = nn.Sequential(nn.Linear(context, 4))

        def forward(self, x, h):
            shares = self.residuals(h).softmax(-1)
            clips = []
            for clip, share in zip(x, shares, strict=True):
                kernel = sum(share[k] * self.weight[0, 0, k].reshape(self.shape) for k in range(4))
                clips.append(functional.conv2d(clip[None], kernel, **self.options))
            return torch.cat(clips)

    class Pieces(nn.Module):
        def __init__(self, channels, context):
            super().__init__()
            self.coef_net = nn.Sequential(nn.Linear(context, 4 * channels))
            self.register_buffer("lambdas", torch.tensor([1.0, 1.0, 0.5, 0.5]))
            self.register_buffer("init_v", torch.tensor([1.0, 0.0, 0.0, 0.0]))

        def forward(self, x, h):
            theta = 2 * torch.sigmoid(self.coef_net(h)) - 1
            a1, a2, b1, b2 = theta.reshape(len(x), -1, 4, 1, 1).unbind(2)
            return torch.maximum((1 + a1) * x + b1 / 2, a2 * x + b2 / 2)

    class Sequences(nn.Module):
        def __init__(self, inputs, size, expanded, stride):
            super().__init__()
            self.stride = stride
            self.joint_conv, self.joint_norm = nn.Conv2d(inputs, size, 1, bias=False), norm(size)
            self.conv_f, self.conv_t = nn.Conv2d(size, expanded, 1), nn.Conv2d(size, expanded, 1)

        def pool(self, sequence):  # (B, C, length)
            if self.stride == 1:
                return sequence
            padded = functional.pad(sequence, (1, 1))
            return sum(padded[:, :, k : k + sequence.shape[2]] for k in range(3))[:, :, :: self.stride] / 3

        def forward(self, x):
            bins = x.shape[2]
            both = torch.cat([x.mean(3), x.mean(2)], dim=2)[..., None]
            both = functional.hardswish(self.joint_norm(self.joint_conv(both)))[..., 0]
            over_bins = self.conv_f(self.pool(both[:, :, :bins])[..., None])
            over_frames = self.conv_t(self.pool(both[:, :, bins:])[..., None])
            return both.mean(2), torch.sigmoid(over_bins) * torch.sigmoid(over_frames).transpose(2, 3)

    class Block(nn.Module):
        def __init__(self, spec):
            super().__init__()
            size, self.spec = context_size(spec, width), spec
            if spec.expands:
                self.exp_conv, self.exp_norm = Mixture(spec.inputs, spec.expanded, size), norm(spec.expanded)
            self.depth_conv = Mixture(spec.expanded, spec.expanded, size, spec.kernel, spec.stride, depthwise=True)
            self.depth_norm, self.depth_act = norm(spec.expanded), Pieces(spec.expanded, size)
            self.proj_conv, self.proj_norm = Mixture(spec.expanded, spec.outputs, size), norm(spec.outputs)
            self.context_gen = Sequences(spec.inputs, size, spec.expanded, spec.stride)

        def forward(self, x):
            (h, attention), y = self.context_gen(x), x
            if self.spec.expands:
                y = self.exp_norm(self.exp_conv(y, h))
                y = functional.hardswish(y) if self.spec.hard_swish else torch.relu(y)
            y = self.depth_act(self.depth_norm(self.depth_conv(y, h)), h) * attention
            y = self.proj_norm(self.proj_conv(y, h))
            return x + y if self.spec.residual else y

    blocks, hidden = layout(width), head_width(width)
    last, network = 6 * blocks[-1].outputs, nn.Module()
    stem = nn.Conv2d(1, blocks[0].inputs, 3, 2, 1, bias=False)
    network.in_c = nn.Sequential(stem, norm(blocks[0].inputs), nn.Hardswish())
    network.layers = nn.Sequential(*map(Block, blocks))
    network.out_c = nn.Sequential(nn.Conv2d(blocks[-1].outputs, last, 1, bias=False), norm(last), nn.Hardswish())
    network.classifier = nn.Sequential(
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(last, hidden),
        nn.Hardswish(),
        nn.Dropout(0.0),
        nn.Linear(hidden, classes),
    )
    network.forward = lambda x: network.classifier(network.out_c(network.layers(network.in_c(x))))
    return network


def test_random_weights_against_torch(tmp_path):
    import jax

    torch = pytest.importorskip("torch", reason="compares with torch: pip install torch")
    torch.manual_seed(0)
    torch.set_num_threads(1)  # its threads spin while they wait, and there are few cores
    network = torch_network(0.4, classes=7)
    # Bins × frames, with odd and even sizes on the way down. The clips differ in level, and so in their contexts.
    clips = torch.randn(6, 1, 40, 67) * torch.linspace(0.5, 2, 6)[:, None, None, None]
    with torch.no_grad():
        network.train()  # the statistics of these clips, so that no layer enlarges its input
        for name, module in network.named_modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
            if name.endswith("joint_norm"):  # means of noise are small: their statistics would enlarge its rounding
                module.eval()
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.2, 1)
        network.forward(clips)
    torch.save(network.state_dict(), tmp_path / "dymn04.pt")
    pretrained = dymn.read(tmp_path / "dymn04.pt")
    assert (pretrained.architecture, pretrained.labels) == ("dymn", None)
    assert pretrained.options == {"width_mult": 0.4, "temperature": 1.0}

    network.eval()
    with torch.no_grad():
        expected = network.forward(clips).numpy()
        rounding = np.abs(network.double().forward(clips.double()).numpy() - expected).max()
    size = np.ptp(expected, axis=0).max()  # the clips differ
    assert rounding < 1e-4 * size
    head = {key: value for key, value in pretrained.head.items() if key != "name"}
    model = Classifier(DyMN(**pretrained.options), Mlp(**head))
    actual = jax.jit(model.apply)(pretrained.variables, clips[:, 0].numpy().transpose(0, 2, 1))
    np.testing.assert_allclose(actual, expected, atol=1e-4 * size, rtol=0)


def random_state(width, classes):
    rng = np.random.default_rng(0)
    return {name: rng.uniform(0.1, 1, shape).astype(np.float32) for name, _, shape in dymn._entries(width, classes)}


def test_names_of_a_file(tmp_path, monkeypatch):
    """The width is read from the shapes, the hop from the name; every array has one place."""
    state = random_state(1.0, 527) | {
        "layers.0.depth_act.init_v": np.zeros(4),
        "in_c.1.num_batches_tracked": np.zeros((), np.int64),
    }
    monkeypatch.setattr(efficientat, "load_torch", lambda path: state)
    pretrained = dymn.read(tmp_path / "dymn10_as_hop_15.pt")
    assert pretrained.options["width_mult"] == 1.0 and pretrained.task == "multi_label"
    assert pretrained.frontend["hop"] == 480 and pretrained.labels[0] == "Speech"
    kernels = pretrained.variables["params"]["encoder"]["block4"]["depthwise"]["kernels"]
    published = state["layers.3.depth_conv.weight"].reshape(4, -1, 5, 5)
    np.testing.assert_array_equal(kernels[2, 4, 1, 0, 3], published[2, 3, 1, 4])  # (frames, bins), not (bins, frames)


@pytest.mark.parametrize("name", ["out_c.0.weight", "layers.3.context_gen.conv_t.bias"])
def test_a_missing_array_is_named(tmp_path, monkeypatch, name):
    state = random_state(0.4, 5)
    del state[name]
    monkeypatch.setattr(efficientat, "load_torch", lambda path: state)
    with pytest.raises(PretrainedError, match=f"not an EfficientAT dymn checkpoint .* missing arrays: {name}"):
        dymn.read(tmp_path / "dymn.pt")


def test_other_kinds_are_refused(tmp_path, monkeypatch):
    with pytest.raises(PretrainedError, match="dynamic blocks in some places only"):
        dymn.read(tmp_path / "dymn10_replace_se_as.pt")
    state = {name: np.zeros(shape, np.float32) for name, _, shape in efficientat._entries(0.4, 5)}
    monkeypatch.setattr(efficientat, "load_torch", lambda path: state)
    with pytest.raises(PretrainedError, match="not an EfficientAT dymn checkpoint"):
        dymn.read(tmp_path / "mn04_as.pt")
