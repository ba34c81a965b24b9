"""The architectures of esc_jax as plain PyTorch modules, for the comparison in `benchmarks/models.py`.

Modules have the names of those in esc_jax, so that `load` needs no table. Forward passes are idiomatic PyTorch: fused
attention with the bias as its mask, library convolutions, in-place activations. EfficientNet and DistilHuBERT are
classes of transformers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from flax import traverse_util
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from esc_jax.models import beats, efficientat


class BasicBlock(nn.Module):
    """x + f(x), f two 3×3 convolutions with batch normalisation; projected where the shape changes."""

    def __init__(self, inputs: int, features: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, features, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(features)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(features)
        self.projects = stride > 1 or inputs != features
        if self.projects:
            self.conv_shortcut = nn.Conv2d(inputs, features, 1, stride, bias=False)
            self.bn_shortcut = nn.BatchNorm2d(features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        if self.projects:
            x = self.bn_shortcut(self.conv_shortcut(x))
        return F.relu(y + x, inplace=True)


class ResNet(nn.Module):
    """ResNet of basic blocks; (B, frames, bins) → (B, embedding)."""

    def __init__(self, stage_sizes: Sequence[int], width: int, layout: torch.memory_format):
        super().__init__()
        self.layout = layout
        self.stem = nn.Conv2d(1, width, 7, 2, padding=3, bias=False)
        self.bn_stem = nn.BatchNorm2d(width)
        self.blocks, self.size = [], width
        for stage, count in enumerate(stage_sizes):
            for number in range(count):
                features = width * 2**stage
                name = f"stage{stage + 1}_block{number + 1}"
                self.add_module(name, BasicBlock(self.size, features, 2 if stage and not number else 1))
                self.blocks.append(name)
                self.size = features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn_stem(self.stem(image(x, self.layout))), inplace=True)
        x = F.max_pool2d(x, 3, 2, padding=1)
        for name in self.blocks:
            x = getattr(self, name)(x)
        return x.mean((2, 3))


class ConvNorm(nn.Module):
    """Convolution without bias → batch normalisation → activation, in place."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, activation=None):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01)
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(x))
        return x if self.activation is None else self.activation(x, inplace=True)


class SqueezeExcitation(nn.Module):
    """x · σ(W₂ ReLU(W₁ mean x))."""

    def __init__(self, channels: int, squeeze: int):
        super().__init__()
        self.reduce, self.expand = nn.Linear(channels, squeeze), nn.Linear(squeeze, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = self.expand(F.relu(self.reduce(x.mean((2, 3)))))
        return x * torch.sigmoid(scale)[:, :, None, None]


class InvertedResidual(nn.Module):
    """Expansion → depthwise → squeeze-and-excitation → projection."""

    def __init__(self, spec: efficientat.BlockSpec):
        super().__init__()
        activation = F.hardswish if spec.hard_swish else F.relu
        self.residual = spec.residual
        self.expand = ConvNorm(spec.inputs, spec.expanded, activation=activation) if spec.expands else nn.Identity()
        self.depthwise = ConvNorm(spec.expanded, spec.expanded, spec.kernel, spec.stride, spec.expanded, activation)
        self.se = SqueezeExcitation(spec.expanded, spec.squeeze) if spec.squeeze else nn.Identity()
        self.project = ConvNorm(spec.expanded, spec.outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.project(self.se(self.depthwise(self.expand(x))))
        return x + y if self.residual else y


class EfficientAT(nn.Module):
    """EfficientAT's MobileNetV3; (B, frames, bins) → (B, embedding)."""

    def __init__(self, width_mult: float, layout: torch.memory_format):
        super().__init__()
        self.layout = layout
        specs = efficientat.layout(width_mult)
        self.stem = ConvNorm(1, specs[0].inputs, 3, 2, activation=F.hardswish)
        self.blocks = [f"block{number}" for number in range(1, len(specs) + 1)]
        for name, spec in zip(self.blocks, specs, strict=True):
            self.add_module(name, InvertedResidual(spec))
        self.size = 6 * specs[-1].outputs
        self.last = ConvNorm(specs[-1].outputs, self.size, activation=F.hardswish)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(image(x, self.layout))
        for name in self.blocks:
            x = getattr(self, name)(x)
        return self.last(x).mean((2, 3))


class Attention(nn.Module):
    """Self-attention with the gated relative position bias of WavLM and BEATs."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.gate = nn.Linear(width // heads, 8)
        self.gate_scale = nn.Parameter(torch.ones(heads))

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        batch, time, width = x.shape
        query, key, value = (
            project(x).view(batch, time, self.heads, -1).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        gate = self.gate(query).view(batch, self.heads, time, 2, 4).sum(-1)
        a, b = torch.sigmoid(gate).unbind(-1)
        gate = a * (b * self.gate_scale[:, None] - 1) + 2
        mask = (gate[..., None] * bias).to(query.dtype)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out(mixed.transpose(1, 2).reshape(batch, time, width))


class Layer(nn.Module):
    """Post-norm transformer layer with DeepNet's α on the residual."""

    def __init__(self, width: int, hidden: int, heads: int, layers: int):
        super().__init__()
        self.alpha = (2 * layers) ** 0.25
        self.attention = Attention(width, heads)
        self.attention_norm, self.output_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.intermediate, self.output = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        x = self.attention_norm(self.alpha * x + self.attention(x, bias))
        return self.output_norm(self.alpha * x + self.output(F.gelu(self.intermediate(x))))


class Beats(nn.Module):
    """BEATs as released (deep norm, norm after, gated bias, no dropout); (B, frames, bins) → (B, width)."""

    def __init__(self, options: Mapping[str, Any], longest: int = 512):
        super().__init__()
        patch, embed, self.size = options["input_patch_size"], options["embed_dim"], options["encoder_embed_dim"]
        heads, layers = options["encoder_attention_heads"], options["encoder_layers"]
        self.patch_embedding = nn.Conv2d(1, embed, patch, patch, bias=options["conv_bias"])
        self.patch_norm = nn.LayerNorm(embed)
        self.projection = nn.Linear(embed, self.size)
        taps = options["conv_pos"]
        position = nn.Conv1d(self.size, self.size, taps, padding=taps // 2, groups=options["conv_pos_groups"])
        self.position = nn.utils.parametrizations.weight_norm(position, dim=2)
        self.norm = nn.LayerNorm(self.size)
        self.relative_bias = nn.Parameter(0.02 * torch.randn(options["num_buckets"], heads))
        # A bucket depends on the distance only: the buckets of fewer tokens are a corner of this matrix.
        buckets = beats.distance_buckets(longest, options["num_buckets"], options["max_distance"])
        self.register_buffer("buckets", torch.as_tensor(buckets), persistent=False)
        self.layers = [f"layer_{number}" for number in range(layers)]
        for name in self.layers:
            self.add_module(name, Layer(self.size, options["encoder_ffn_embed_dim"], heads, layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch_embedding(x[:, None]).flatten(2).transpose(1, 2)
        x = self.projection(self.patch_norm(x))
        position = self.position(x.transpose(1, 2))[..., : x.shape[1]]  # an even kernel gives one position too many
        x = self.norm(x + F.gelu(position).transpose(1, 2))
        buckets = self.buckets[: x.shape[1], : x.shape[1]]
        bias = F.embedding(buckets, self.relative_bias).permute(2, 0, 1).contiguous()
        for name in self.layers:
            x = getattr(self, name)(x, bias)
        return x.mean(1)


class Linear(nn.Module):
    """The linear head."""

    def __init__(self, inputs: int, classes: int):
        super().__init__()
        self.classifier = nn.Linear(inputs, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(x)


class Mlp(nn.Module):
    """The head of MobileNetV3 and EfficientAT: linear, hard-swish, dropout, linear."""

    def __init__(self, inputs: int, classes: int, width: int, dropout: float):
        super().__init__()
        self.hidden, self.classifier = nn.Linear(inputs, width), nn.Linear(width, classes)
        self.dropout = dropout

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(F.dropout(F.hardswish(self.hidden(x)), self.dropout, self.training))


class Classifier(nn.Module):
    """Encoder and head; features → logits."""

    def __init__(self, encoder: nn.Module, head: nn.Module):
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(x))


class Transformers(nn.Module):
    """A classifier of transformers; features → logits."""

    def __init__(self, network: nn.Module, layout: torch.memory_format | None):
        super().__init__()
        self.network, self.layout = network, layout

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(image(x, self.layout) if self.layout else x).logits


def image(x: torch.Tensor, layout: torch.memory_format) -> torch.Tensor:
    """(B, H, W) → (B, 1, H, W) in a memory format, which the following layers keep."""
    # `contiguous` would change nothing: with one channel, both formats are equal to it.
    return x[:, None].to(memory_format=layout)


def build(model: Mapping[str, Any], classes: int, layout: torch.memory_format = torch.channels_last) -> nn.Module:
    """The network of a config's `model` with PyTorch's initialization: features → logits (B, classes).

    Args:
        model: `model` of a config.
        classes: number of classes.
        layout: memory format of images.

    Raises:
        ValueError: the config has options that these networks do not support.
    """
    options, head = dict(model["encoder"]), model["head"]
    if model["name"] == "efficientnet":
        return _efficientnet(options, head, classes, layout)
    if model["name"] == "hubert":
        return _hubert(options, head, classes)
    if model["name"] == "resnet":
        encoder = ResNet(options["stage_sizes"], options["width"], layout)
    elif model["name"] == "efficientat":
        encoder = EfficientAT(options["width_mult"], layout)
    elif model["name"] == "beats":
        unsupported = [name for name in ("layer_norm_first", "encoder_layerdrop", "dropout") if options[name]]
        unsupported += [
            name for name in ("deep_norm", "relative_position_embedding", "gru_rel_pos") if not options[name]
        ]
        if unsupported:
            raise ValueError(
                f"unsupported BEATs options: {', '.join(unsupported)} must be as released, without layer drop"
            )
        encoder = Beats(options)
    else:
        raise ValueError(f"model.name={model['name']} has no PyTorch module")
    if head["name"] == "linear":
        return Classifier(encoder, Linear(encoder.size, classes))
    return Classifier(encoder, Mlp(encoder.size, classes, head["width"], head["dropout"]))


def _efficientnet(
    options: Mapping[str, Any], head: Mapping[str, Any], classes: int, layout: torch.memory_format
) -> nn.Module:
    import transformers

    names = ("width_coefficient", "depth_coefficient", "drop_connect_rate")
    description = transformers.EfficientNetConfig(
        num_channels=options["in_channels"],
        hidden_dim=efficientat.round_channels(1280 * options["width_coefficient"]),
        dropout_rate=head["dropout"],
        num_labels=classes,
        **{name: options[name] for name in names},
    )
    return Transformers(transformers.EfficientNetForImageClassification(description), layout)


def _hubert(options: Mapping[str, Any], head: Mapping[str, Any], classes: int) -> nn.Module:
    import transformers

    shared = set(options) - {"weighted_layer_sum", "mask_embedding", "remat"}
    description = transformers.HubertConfig(
        **{name: options[name] for name in shared},
        feat_extract_norm="group",
        do_stable_layer_norm=False,
        apply_spec_augment=False,
        classifier_proj_size=head["width"],
        num_labels=classes,
    )
    return Transformers(transformers.HubertForSequenceClassification(description), None)


_NAMES = {
    "kernel": "weight",
    "scale": "weight",
    "mean": "running_mean",
    "var": "running_var",
    "magnitude": "parametrizations.weight.original0",
    "direction": "parametrizations.weight.original1",
}


def load(network: nn.Module, variables: Mapping[str, Any]) -> None:
    """Copies the variables {"params", "batch_stats"} of esc_jax into the `Classifier` of the same config."""
    shapes = {name: array.shape for name, array in network.state_dict().items()}
    state = {}
    for tree in variables.values():
        for path, leaf in traverse_util.flatten_dict(tree).items():
            name, array = ".".join((*path[:-1], _NAMES.get(path[-1], path[-1]))), np.array(leaf)
            if path[-1] in ("kernel", "magnitude", "direction"):  # inputs, outputs → outputs, inputs
                array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
            # 1×1 convolutions and patch embeddings are matrices in esc_jax.
            state[name] = torch.from_numpy(array.reshape(shapes[name]).copy())
    missing, unknown = network.load_state_dict(state, strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unknown:
        raise ValueError(f"missing: {', '.join(missing)}; unexpected: {', '.join(unknown)}")
