"""Invalid options of models are rejected before anything is computed; the message names the option."""

import pytest

from esc_jax.models import registry
from esc_jax.models.limits import ModelError


@pytest.mark.parametrize(
    ("encoder", "option", "value", "requirement"),
    [
        ("patch_transformer", "patch", 0, "a whole number of at least 1"),
        ("patch_transformer", "stride", -1, "a whole number of at least 1"),
        ("patch_transformer", "layers", 2.5, "a whole number of at least 1"),
        ("patch_transformer", "heads", 7, "a divisor of the width, 256"),
        ("patch_transformer", "width", 254, "a multiple of 4"),
        ("patch_transformer", "table", (31, 0), "whole numbers of at least 1"),
        ("patch_transformer", "table", (31,), "rows and columns"),
        ("patch_transformer", "patchout", 1.0, "at least 0 and below 1"),
        ("patch_transformer", "drop_path", -0.1, "at least 0 and below 1"),
        ("patch_transformer", "attention_dropout", float("nan"), "at least 0 and below 1"),
        ("resnet", "width", 0, "a whole number of at least 1"),
        ("resnet", "drop_path", 1.0, "at least 0 and below 1"),
        ("resnet", "stage_sizes", (), "whole numbers of at least 1"),
        ("eat", "stem_strides", (4, 0), "whole numbers of at least 1"),
        ("eat", "stage_strides", (2, 17), "whole numbers of at most 16"),
        ("eat", "width", 2048, "so small that the last stage has at most 65536 channels"),
        ("eat", "stage_blocks", 7, "at most 6"),
        ("eat", "kernel_size", 14, "an odd number"),
        ("eat", "kernel_size", 65, "at most 63"),
        ("eat", "heads", 7, "a divisor of the width, 128"),
        ("eat", "positions", 1 << 18, "at most 65536"),
        ("eat", "dropout", 1.0, "at least 0 and below 1"),
        ("efficientat", "width_mult", 0.0, "above 0"),
        ("efficientnet", "same_padding", "valid", "one of tf, torch, transformers"),
        ("efficientnet", "activation", "gelu", "one of silu, relu6"),
        ("efficientnet", "squeeze_excitation", 0, "true or false"),
        ("efficientnet", "in_channels", 0, "a whole number of at least 1"),
        ("efficientnet", "symmetric_blocks", (0, -2), "whole numbers of at least 0"),
        ("efficientnet", "bn_momentum", 1.5, "at most 1"),
        ("beats", "activation_fn", "glu", "one of gelu, "),
        ("beats", "encoder_attention_heads", 5, "a divisor of the width, 768"),
        ("beats", "conv_pos_groups", 7, "a divisor of the width, 768"),
        ("beats", "num_buckets", 3, "at least 4"),
        ("beats", "max_distance", 80, "more than a quarter of num_buckets, 80"),
        ("hubert", "num_attention_heads", 7, "a divisor of the width, 768"),
        ("hubert", "num_conv_pos_embedding_groups", 7, "a divisor of the width, 768"),
        ("hubert", "conv_dim", (512,) * 6, "7 numbers, as many as conv_kernel has"),
        ("hubert", "layerdrop", 2.0, "at least 0 and below 1"),
    ],
)
def test_options_of_encoders(encoder, option, value, requirement):
    config = registry.defaults(encoder)
    registry.build(config, 2)
    config["encoder"][option] = value
    with pytest.raises(ModelError) as error:
        registry.build(config, 2)
    assert str(error.value).startswith(f"model.encoder.{option}={value}: it must be {requirement}")


@pytest.mark.parametrize(
    ("head", "option", "value"),
    [
        ("linear", "dropout", 1.0),
        ("linear", "pooling", "max"),
        ("linear", "attention_width", 0),
        ("mlp", "dropout", -0.1),
        ("projected", "width", 0),
    ],  # fmt: skip
)
def test_options_of_heads(head, option, value):
    config = registry.defaults("resnet", head)
    registry.build(config, 2)
    config["head"][option] = value
    with pytest.raises(ModelError, match=f"^model.head.{option}={value}: it must be "):
        registry.build(config, 2)


def test_options_of_another_head_or_architecture():
    config = registry.defaults("resnet")
    config["head"]["name"] = "mlp"
    with pytest.raises(
        ModelError, match=r"^model.head.name=mlp has no option zero_init.*: take a config that was made with"
    ):
        registry.build(config, 2)
    config = registry.defaults("resnet") | {"name": "efficientat"}
    with pytest.raises(
        ModelError,
        match="^model.name=efficientat has no option stage_sizes, width, zero_init, drop_path: take a config",
    ):
        registry.build(config, 2)
