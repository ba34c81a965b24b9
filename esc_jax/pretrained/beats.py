"""Reading of the released BEATs checkpoints: {"cfg", "model"}, and "label_dict" if fine-tuned.

Format: microsoft/unilm, beats/README.md. The architecture is read from `cfg`. All arrays of `model` must be used, and
all parameters must be present.
"""

from collections.abc import Iterator, Mapping
import csv
import dataclasses
import os
import pathlib
import re
from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from esc_jax.data.rows import MAX_CLASSES
from esc_jax.errors import name_some, shorten
from esc_jax.frontends.kaldi_fbank import KaldiFbank
from esc_jax.models.beats import Beats
from esc_jax.models.encoder import Classifier
from esc_jax.models.heads import Linear
from esc_jax.models.limits import is_integer
from esc_jax.pretrained.published import PretrainedError, PublishedCheckpoint, check_options, is_state_dict
from esc_jax.pretrained.torch_file import load_torch

_NAMED = 40  # arrays that a message names
# Defaults of the published class for settings that are missing in a file. It has no entries for the five settings in
# which the released models differ from the class: the published code could not load a file without them either.
_PUBLISHED_DEFAULTS: dict[str, Any] = {
    "embed_dim": 512,
    "conv_bias": False,
    "encoder_layers": 12,
    "encoder_embed_dim": 768,
    "encoder_ffn_embed_dim": 3072,
    "encoder_attention_heads": 12,
    "activation_fn": "gelu",
    "layer_wise_gradient_decay_ratio": 1.0,
    "layer_norm_first": False,
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "activation_dropout": 0.0,
    "encoder_layerdrop": 0.0,
    "dropout_input": 0.0,
    "conv_pos": 128,
    "conv_pos_groups": 16,
    "num_buckets": 320,
}
_REQUIRED = ("input_patch_size", "deep_norm", "relative_position_embedding", "max_distance", "gru_rel_pos")
_SHARED_BIAS = "encoder.layers.{}.self_attn.relative_attention_bias.weight"

# Published name, path in our variables, layout of the published array.
Name = tuple[str, tuple[str, ...], str]


def read(path: str | os.PathLike) -> PublishedCheckpoint:
    """Reads a released `.pt` file, pretrained or fine-tuned.

    Raises:
        PretrainedError: it is no BEATs checkpoint, or arrays are missing, unused or of another shape.
    """
    cfg, arrays, label_dict = _load(path)
    try:
        return from_arrays(cfg, arrays, label_dict)
    except PretrainedError as error:
        raise PretrainedError(f"{path}: {error}") from None


def _load(path: str | os.PathLike) -> tuple[dict, dict[str, np.ndarray], dict | None]:
    """(cfg, model, label_dict or None) of a file in the released format."""
    file = load_torch(path)
    if not (isinstance(file, dict) and isinstance(file.get("cfg"), dict) and is_state_dict(file.get("model"))):
        raise PretrainedError(
            f"{path} is not a BEATs checkpoint with 'cfg' and 'model': give a released BEATs_iter….pt, or set "
            "model.name to the architecture of the file."
        )
    return file["cfg"], file["model"], file.get("label_dict")


def from_arrays(
    cfg: Mapping[str, Any], arrays: Mapping[str, np.ndarray], label_dict: Mapping | None = None
) -> PublishedCheckpoint:
    """Converts the parts of a checkpoint. Does not need torch.

    Args:
        cfg: published settings.
        arrays: published state dict.
        label_dict: {index of the logit: AudioSet id} of a fine-tuned model. Ids are replaced by AudioSet's display
            names if it has them.

    Raises:
        PretrainedError: as for `read`.
    """
    options = _options(cfg)
    classes = None
    if cfg.get("finetuned_model"):
        classes = cfg.get("predictor_class", 527)
        if not is_integer(classes, 1) or classes > MAX_CLASSES:
            raise PretrainedError(
                f"the cfg has predictor_class={shorten(classes)}: it must be a whole number from 1 to {MAX_CLASSES}."
            )
    elif "predictor.weight" in arrays:
        raise PretrainedError("the file has a predictor, but finetuned_model=False in its cfg: correct the cfg.")
    names = [*_encoder_names(options), *(_head_names() if classes else ())]
    head: dict[str, Any] = {"name": "linear"}
    if classes:
        head |= {"classes": classes, "dropout": cfg.get("predictor_dropout", 0.1)}
        check_options(Linear, {"classes": classes, "dropout": head["dropout"]}, "the cfg")
    # The shapes of a model with many layers take seconds: a cfg that does not belong to the file is refused before.
    _check_names(names, arrays, options["encoder_layers"])
    params = _to_flax(names, arrays, _shapes(options, classes))
    frontend = {"name": "kaldi_fbank", **dataclasses.asdict(KaldiFbank())}
    labels = _labels(label_dict, classes)
    return PublishedCheckpoint("beats", options, {"params": params}, head, frontend, labels, "multi_label")


def _options(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `models.beats.Beats` for a published cfg."""
    missing = [key for key in _REQUIRED if key not in cfg]
    if missing:
        raise PretrainedError(
            f"the cfg does not contain {', '.join(missing)}: this is not a released BEATs checkpoint."
        )
    options = {key: cfg.get(key, _PUBLISHED_DEFAULTS.get(key)) for key in _cfg_fields()}
    check_options(Beats, options, "the cfg")
    return options


def _encoder_names(options: Mapping[str, Any]) -> Iterator[Name]:
    """Names of all arrays of the encoder."""

    def dense(published: str, *path: str) -> Iterator[Name]:
        yield f"{published}.weight", (*path, "kernel"), "linear"
        yield f"{published}.bias", (*path, "bias"), "same"

    def norm(published: str, *path: str) -> Iterator[Name]:
        yield f"{published}.weight", (*path, "scale"), "same"
        yield f"{published}.bias", (*path, "bias"), "same"

    yield "patch_embedding.weight", ("encoder", "patch_embedding", "kernel"), "patch"
    if options["conv_bias"]:
        yield "patch_embedding.bias", ("encoder", "patch_embedding", "bias"), "same"
    yield from norm("layer_norm", "encoder", "patch_norm")
    if options["embed_dim"] != options["encoder_embed_dim"]:
        yield from dense("post_extract_proj", "encoder", "projection")
    yield "encoder.pos_conv.0.weight_g", ("encoder", "position", "magnitude"), "conv"
    yield "encoder.pos_conv.0.weight_v", ("encoder", "position", "direction"), "conv"
    yield "encoder.pos_conv.0.bias", ("encoder", "position", "bias"), "same"
    yield from norm("encoder.layer_norm", "encoder", "norm")
    if options["relative_position_embedding"]:
        yield _SHARED_BIAS.format(0), ("encoder", "relative_bias"), "same"
    for i in range(options["encoder_layers"]):
        published, path = f"encoder.layers.{i}", ("encoder", f"layer_{i}")
        for name, part in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("out_proj", "out")):
            yield from dense(f"{published}.self_attn.{name}", *path, "attention", part)
        if options["gru_rel_pos"]:
            yield from dense(f"{published}.self_attn.grep_linear", *path, "attention", "gate")
            yield f"{published}.self_attn.grep_a", (*path, "attention", "gate_scale"), "heads"
        yield from norm(f"{published}.self_attn_layer_norm", *path, "attention_norm")
        yield from dense(f"{published}.fc1", *path, "intermediate")
        yield from dense(f"{published}.fc2", *path, "output")
        yield from norm(f"{published}.final_layer_norm", *path, "output_norm")


def _check_names(names: list[Name], arrays: Mapping[str, np.ndarray], layers: int) -> None:
    """Raises PretrainedError unless a file has exactly these arrays.

    Args:
        names: of all arrays that the file must contain.
        arrays: of the file.
        layers: of the encoder. They share one position bias, of which the file may contain one copy per layer.
    """
    expected, first = {name for name, _, _ in names}, _SHARED_BIAS.format(0)
    copies = {_SHARED_BIAS.format(i) for i in range(1, layers if first in expected else 1)}
    missing, unused = sorted(expected - set(arrays)), sorted(set(arrays) - expected - copies)
    if missing or unused:
        raise PretrainedError(
            "the arrays do not match the cfg, so the file is damaged or of another architecture; "
            f"missing: {name_some(missing, _NAMED)}; not used: {name_some(unused, _NAMED)}."
        )
    differing = [name for name in sorted(copies & set(arrays)) if not np.array_equal(arrays[name], arrays[first])]
    if differing:
        raise PretrainedError(
            f"{name_some(differing, _NAMED)} differ from that of layer 0, which the layers of BEATs share: this is not"
            " a released model."
        )


def _to_flax(names: list[Name], arrays: Mapping[str, np.ndarray], shapes: Mapping[tuple, tuple]) -> dict[str, Any]:
    """Converts published arrays to a tree of float32 parameters.

    Args:
        names: of all arrays.
        arrays: of the file.
        shapes: {path: shape} of all parameters of the model.
    """
    assert set(shapes) == {path for _, path, _ in names}
    flat, mismatched = {}, []
    for name, path, layout in names:
        array = np.asarray(arrays[name], np.float32)
        if array.ndim == _DIMENSIONS.get(layout, array.ndim):
            array = _from_torch(array, layout)
        if array.shape == shapes[path]:
            flat[path] = array
        else:
            mismatched.append(f"{name} {arrays[name].shape}")
    if mismatched:
        raise PretrainedError(f"arrays whose shapes do not match the cfg: {', '.join(mismatched)}.")
    return traverse_util.unflatten_dict(flat)


_DIMENSIONS = {"linear": 2, "conv": 3, "patch": 4, "heads": 4}


def _from_torch(array: np.ndarray, layout: str) -> np.ndarray:
    if layout in ("linear", "conv"):
        array = array.T  # (out, in) → (in, out); (out, in, taps) → (taps, in, out)
    elif layout == "patch":
        array = array.reshape(array.shape[0], -1).T  # (out, 1, time, frequency) → (time · frequency, out)
    elif layout == "heads":
        array = array.reshape(-1)  # (1, heads, 1, 1) → (heads,)
    return np.ascontiguousarray(array)


def _head_names() -> list[Name]:
    path = ("head", "classifier")
    return [("predictor.weight", (*path, "kernel"), "linear"), ("predictor.bias", (*path, "bias"), "same")]


def _cfg_fields() -> list[str]:
    """Fields of the encoder that a cfg contains: all except those of the computation and of Linen."""
    return [f.name for f in dataclasses.fields(Beats) if f.name not in ("dtype", "remat", "parent", "name")]


def _shapes(options: Mapping[str, Any], classes: int | None) -> dict[tuple, tuple]:
    """{path: shape} of all parameters of the model."""
    model = Classifier(Beats(**options), Linear(classes or 1))
    size = options["input_patch_size"]
    tree = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, size, size)))["params"]
    flat = traverse_util.flatten_dict(tree)
    return {path: leaf.shape for path, leaf in flat.items() if classes or path[0] == "encoder"}


def _labels(label_dict: Mapping | None, classes: int | None) -> tuple[str, ...] | None:
    """Display names in the order of the logits."""
    if label_dict is None or classes is None:
        return None
    by_index = {int(index): str(mid) for index, mid in label_dict.items() if re.fullmatch(r"\d{1,6}", str(index))}
    if sorted(by_index) != list(range(classes)):
        raise PretrainedError(f"the label_dict has {len(by_index)} labels for {classes} outputs: the file is damaged.")
    names = _audioset_names()
    return tuple(names.get(by_index[i], by_index[i]) for i in range(classes))


def _audioset_names() -> dict[str, str]:
    """{AudioSet id: display name}."""
    with (pathlib.Path(__file__).parent / "audioset_labels.csv").open(newline="", encoding="utf-8") as file:
        return {row["mid"]: row["display_name"] for row in csv.DictReader(file)}
