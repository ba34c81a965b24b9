"""Reading and writing of HuBERT checkpoints of transformers.

Read: ntu-spml/distilhubert (the encoder alone), fine-tuned `HubertForSequenceClassification`s such as
sanchit-gandhi/distilhubert-finetuned-gtzan, and other HuBERT models with GroupNorm and post-norm layers (base).
Written: a directory that `HubertForSequenceClassification` and `AutoFeatureExtractor` load.
"""

from collections.abc import Iterable, Mapping
import os
import re
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from esc_jax.frontends.raw import Raw
from esc_jax.frontends.settings import FrontendError
from esc_jax.models import heads, hubert
from esc_jax.models.encoder import Classifier
from esc_jax.pretrained import huggingface
from esc_jax.pretrained.published import PretrainedError, PublishedCheckpoint, check_options

# Fields of `models.hubert.Hubert` that config.json has under the same name, with the defaults of `HubertConfig` in
# transformers. `weighted_layer_sum` and `mask_embedding` follow from the arrays.
_FIELDS = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "conv_dim": (512,) * 7,
    "conv_kernel": (10, 3, 3, 3, 3, 2, 2),
    "conv_stride": (5, 2, 2, 2, 2, 2, 2),
    "conv_bias": False,
    "feat_proj_layer_norm": True,
    "num_conv_pos_embeddings": 128,
    "num_conv_pos_embedding_groups": 16,
    "layer_norm_eps": 1e-5,
    "feat_proj_dropout": 0.0,
    "hidden_dropout": 0.1,
    "attention_dropout": 0.1,
    "activation_dropout": 0.1,
    "layerdrop": 0.1,
}
# Settings of transformers that our encoder supports with one value only.
_FIXED = {
    "hidden_act": "gelu",
    "feat_extract_activation": "gelu",
    "feat_extract_norm": "group",
    "do_stable_layer_norm": False,
    "conv_pos_batch_norm": False,
}
_POSITION = "encoder.pos_conv_embed.conv."
_ENCODER_NAMES = {
    "projection_norm": "feature_projection.layer_norm",
    "projection": "feature_projection.projection",
    "norm": "encoder.layer_norm",
}
_LAYER_NAMES = {
    "attention/query": "attention.q_proj",
    "attention/key": "attention.k_proj",
    "attention/value": "attention.v_proj",
    "attention/out": "attention.out_proj",
    "attention_norm": "layer_norm",
    "intermediate": "feed_forward.intermediate_dense",
    "output": "feed_forward.output_dense",
    "output_norm": "final_layer_norm",
}
_LEAF_NAMES = {"kernel": "weight", "scale": "weight", "bias": "bias"}


def read(path_or_hub_id: str | os.PathLike) -> PublishedCheckpoint:
    """Reads a HuBERT of transformers, with its head if it has one.

    Args:
        path_or_hub_id: a directory with config.json and model.safetensors (or pytorch_model.bin), or a hub id.

    Raises:
        PretrainedError: it is no HuBERT of this kind, or an array is missing, unused or of another shape.
    """
    directory = huggingface.resolve(path_or_hub_id)
    config = huggingface.read_json(directory, huggingface.CONFIG)
    source = str(path_or_hub_id)
    if config.get("model_type") != "hubert":
        raise PretrainedError(
            f"{source} is a model of type {config.get('model_type', 'unknown')}, not hubert: set model.name to its "
            "architecture."
        )
    for name, value in _FIXED.items():
        if config.get(name, value) != value:
            raise PretrainedError(
                f"{source} has {name}={config[name]!r}, and only {value!r} is supported: use DistilHuBERT or HuBERT "
                "base."
            )
    arrays = {_current_name(name): array for name, array in huggingface.read_arrays(directory).items()}
    classes = arrays["classifier.bias"].size if "classifier.bias" in arrays else None
    options = {name: _plain(config.get(name, default)) for name, default in _FIELDS.items()}
    options["weighted_layer_sum"] = "layer_weights" in arrays
    options["mask_embedding"] = "hubert.masked_spec_embed" in arrays
    check_options(hubert.Hubert, options, f"{source}/{huggingface.CONFIG}")
    layers = len({match[1] for name in arrays if (match := re.match(r"hubert\.encoder\.layers\.(\d+)\.", name))})
    if layers != options["num_hidden_layers"]:
        raise PretrainedError(
            f"{source} has weights of {layers} layers, and num_hidden_layers={options['num_hidden_layers']} in"
            f" {huggingface.CONFIG}: take both files from one checkpoint."
        )
    head = {"name": "projected", "width": config.get("classifier_proj_size", 256)}
    check_options(heads.Projected, {"classes": 1, "width": head["width"]}, f"{source}/{huggingface.CONFIG}")
    if classes is not None:
        head["classes"] = classes
    variables = huggingface.to_flax(_shapes(options, head), arrays, _published_name, source)
    if options["mask_embedding"]:
        logging.info("%s: hubert.masked_spec_embed is kept and not used (no SpecAugment inside the encoder)", source)
    return PublishedCheckpoint(
        architecture="hubert",
        options=options,
        variables=variables,
        head=head,
        frontend=_frontend(huggingface.read_json(directory, huggingface.PREPROCESSOR), source),
        labels=None if classes is None else huggingface.read_labels(config, classes, source),
    )


def write(
    directory: str | os.PathLike,
    variables: Mapping[str, Any],
    options: Mapping[str, Any],
    labels: Iterable[str] | None,
    frontend: Mapping[str, Any],
) -> None:
    """Writes a directory that transformers can load: the inverse of `read`.

    Args:
        directory: is created if it does not exist.
        variables: {"params": {"encoder": …, "head": … (optional)}} of a `Classifier(Hubert, Projected)`.
        options: the encoder's fields. Those of the computation (dtype, remat) are ignored.
        labels: class names in the order of the logits, or None.
        frontend: {"name": "raw", its fields}.

    Raises:
        PretrainedError: transformers has no such frontend or head.
    """
    params = variables["params"]
    head = params.get("head")
    if frontend.get("name") != "raw" or (head is not None and set(head) != {"projector", "classifier"}):
        raise PretrainedError(
            "transformers' HubertForSequenceClassification supports only the raw frontend and the projected head: "
            "train with model.head.name=projected and frontend.name=raw "
            "(configs/distilhubert.py), or export with --format=stablehlo."
        )
    config: dict[str, Any] = {"model_type": "hubert", "architectures": ["HubertModel"]}
    config |= {name: _plain(options.get(name, getattr(hubert.Hubert, name))) for name in _FIELDS} | _FIXED
    # transformers creates the vector for masked frames if a masking rate is positive, and masks frames in training only
    # with apply_spec_augment.
    config |= {"apply_spec_augment": False, "mask_time_prob": 0.05 if "mask_embedding" in params["encoder"] else 0.0}
    config["use_weighted_layer_sum"] = "layer_weights" in params["encoder"]
    if head is not None:
        projection = np.shape(head["classifier"]["kernel"])
        config |= {"architectures": ["HubertForSequenceClassification"], "classifier_proj_size": projection[0]}
        config |= huggingface.label_maps(labels, projection[1])
    arrays = huggingface.to_torch({"params": params}, _published_name)
    if head is None:
        arrays = {name.removeprefix("hubert."): array for name, array in arrays.items()}
    preprocessor = {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": frontend.get("sample_rate", 16000),
        "padding_value": 0.0,
        "padding_side": "right",
        "do_normalize": frontend.get("normalize", True),
        "return_attention_mask": True,
    }
    huggingface.write(directory, config, arrays, preprocessor)


def _current_name(name: str) -> str:
    """The name in current versions of transformers: with a prefix, and weight norm as a parametrization."""
    if not name.startswith(("hubert.", "projector.", "classifier.")) and name != "layer_weights":
        name = "hubert." + name
    name = name.replace(_POSITION + "weight_g", _POSITION + "parametrizations.weight.original0")
    return name.replace(_POSITION + "weight_v", _POSITION + "parametrizations.weight.original1")


def _published_name(path: huggingface.Path) -> str:
    """Path of a variable, such as ("params", "encoder", "layer_0", "attention", "query", "kernel") → published name."""
    _, part, *inner, leaf = path
    if part == "head":
        return ".".join([*inner, _LEAF_NAMES[leaf]])
    if not inner:
        return {"layer_weights": "layer_weights", "mask_embedding": "hubert.masked_spec_embed"}[leaf]
    module, rest = inner[0], "/".join(inner[1:])
    if match := re.fullmatch(r"conv_(\d+)", module):
        return f"hubert.feature_extractor.conv_layers.{match[1]}.{'layer_norm' if rest else 'conv'}.{_LEAF_NAMES[leaf]}"
    if match := re.fullmatch(r"layer_(\d+)", module):
        return f"hubert.encoder.layers.{match[1]}.{_LAYER_NAMES[rest]}.{_LEAF_NAMES[leaf]}"
    if module == "position":
        weights = {"magnitude": "original0", "direction": "original1"}
        return "hubert." + _POSITION + (f"parametrizations.weight.{weights[leaf]}" if leaf in weights else leaf)
    return f"hubert.{_ENCODER_NAMES[module]}.{_LEAF_NAMES[leaf]}"


def _shapes(options: dict[str, Any], head: dict[str, Any]) -> dict[str, Any]:
    """Shapes of the variables of a model: {"params": {"encoder": …, "head": …}}."""
    model = Classifier(hubert.Hubert(**options), heads.Projected(head.get("classes", 1), head["width"]))
    shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 400), jnp.float32))
    return shapes if "classes" in head else {"params": {"encoder": shapes["params"]["encoder"]}}


def _frontend(preprocessor: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The frontend of a preprocessor_config.json, with the defaults of `Wav2Vec2FeatureExtractor`."""
    settings = {
        "sample_rate": preprocessor.get("sampling_rate", 16000),
        "normalize": preprocessor.get("do_normalize", True),
    }
    try:
        Raw(**settings)
    except FrontendError as error:
        raise PretrainedError(f"{source}/{huggingface.PREPROCESSOR} cannot be used: {error}.") from None
    return {"name": "raw", **settings}


def _plain(value: Any) -> Any:
    """Lists become tuples."""
    return tuple(value) if isinstance(value, (list, tuple)) else value
