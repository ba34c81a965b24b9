"""The released BEATs checkpoints: `{"cfg", "model"}`, and `label_dict` where fine-tuned; both directions.

Format: microsoft/unilm, beats/README.md. The architecture is read from `cfg`, never assumed; every array of `model`
must be used and every parameter filled.
"""

from collections.abc import Iterator, Mapping
import csv
import dataclasses
import os
import pathlib
from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from esc_jax.frontends.kaldi_fbank import KaldiFbank
from esc_jax.models.beats import Beats
from esc_jax.models.encoder import Classifier
from esc_jax.models.heads import Linear
from esc_jax.pretrained.checkpoint import Pretrained, PretrainedError, check_options, is_state_dict
from esc_jax.pretrained.torch_file import load_torch

# What the published class assumes for a setting that the file does not name. The five released settings that differ
# from the class are not here: a file that leaves them out could not be loaded by the published code either.
_PUBLISHED_DEFAULTS = {
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

Name = tuple[str, tuple[str, ...], str]  # name in the file, path in our tree, how the array is laid out there


def read(path: str | os.PathLike) -> Pretrained:
    """A released `.pt`, pretrained or fine-tuned.

    Raises:
        PretrainedError: in one sentence, with the names of all arrays that are missing or have no place.
    """
    cfg, arrays, label_dict = load(path)
    try:
        return from_arrays(cfg, arrays, label_dict)
    except PretrainedError as error:
        raise PretrainedError(f"{path}: {error}") from None


def load(path: str | os.PathLike) -> tuple[dict, dict[str, np.ndarray], dict | None]:
    """(cfg, model, label_dict or None) of a file in the released format."""
    file = load_torch(path)
    if not (isinstance(file, dict) and isinstance(file.get("cfg"), dict) and is_state_dict(file.get("model"))):
        raise PretrainedError(
            f"{path} is no BEATs checkpoint, which holds a 'cfg' and a 'model': give a released BEATs_iter….pt, or set "
            "model.name to the architecture that the file is of."
        )
    return file["cfg"], file["model"], file.get("label_dict")


def from_arrays(
    cfg: Mapping[str, Any], arrays: Mapping[str, np.ndarray], label_dict: Mapping | None = None
) -> Pretrained:
    """A checkpoint's parts in our own terms; needs no torch.

    Args:
        cfg: the settings as published.
        arrays: {name in the published state dict: array}.
        label_dict: {output index: AudioSet id} of a fine-tuned model. Ids that AudioSet's own table knows become its
            display names.
    """
    options = options_from(cfg)
    classes = None
    if cfg.get("finetuned_model"):
        classes = int(cfg.get("predictor_class", 527))
    elif "predictor.weight" in arrays:
        raise PretrainedError("the file has a predictor, but its cfg says finetuned_model=False: repair the cfg.")
    names = [*encoder_names(options), *(_head_names() if classes else ())]
    head = {"name": "linear"}
    if classes:
        head |= {"classes": classes, "dropout": float(cfg.get("predictor_dropout", 0.1))}
    params = convert(names, arrays, _shapes(options, classes), options)
    frontend = {"name": "kaldi_fbank", **dataclasses.asdict(KaldiFbank())}
    return Pretrained("beats", options, {"params": params}, head, frontend, _labels(label_dict, classes))


def to_torch(
    variables: Mapping[str, Any],
    options: Mapping[str, Any],
    head: Mapping[str, Any] | None = None,
    labels: tuple[str, ...] | None = None,
) -> dict[str, Any]:
    """The inverse of `from_arrays`: {"cfg", "model", "label_dict" (with labels)}, numpy arrays for tensors.

    Args:
        variables, options, head, labels: as in `Pretrained`.
    """
    params = variables["params"]
    cfg = {**_PUBLISHED_DEFAULTS, **{key: options[key] for key in options if key in _cfg_fields()}}
    cfg["finetuned_model"] = "head" in params
    names = list(encoder_names(cfg))
    if "head" in params:
        names += _head_names()
        cfg["predictor_class"] = int(params["head"]["classifier"]["bias"].shape[0])
        cfg["predictor_dropout"] = float((head or {}).get("dropout", 0.0))
    file = {"cfg": cfg, "model": to_arrays(names, params, cfg)}
    if labels is not None:
        ids = {name: mid for mid, name in _audioset_names().items()}
        file["label_dict"] = {i: ids.get(label, label) for i, label in enumerate(labels)}
    return file


def options_from(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `models.beats.Beats` that a published cfg describes."""
    absent = [key for key in _REQUIRED if key not in cfg]
    if absent:
        raise PretrainedError(f"its cfg does not say {', '.join(absent)}: this is no released BEATs checkpoint.")
    options = {key: cfg.get(key, _PUBLISHED_DEFAULTS.get(key)) for key in _cfg_fields()}
    check_options(Beats, options, "its cfg")
    return options


def encoder_names(options: Mapping[str, Any]) -> Iterator[Name]:
    """What the published names of the encoder's arrays are in our tree."""

    def dense(theirs: str, *ours: str) -> Iterator[Name]:
        yield f"{theirs}.weight", (*ours, "kernel"), "linear"
        yield f"{theirs}.bias", (*ours, "bias"), "same"

    def norm(theirs: str, *ours: str) -> Iterator[Name]:
        yield f"{theirs}.weight", (*ours, "scale"), "same"
        yield f"{theirs}.bias", (*ours, "bias"), "same"

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
        theirs, ours = f"encoder.layers.{i}", ("encoder", f"layer_{i}")
        for name, part in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("out_proj", "out")):
            yield from dense(f"{theirs}.self_attn.{name}", *ours, "attention", part)
        if options["gru_rel_pos"]:
            yield from dense(f"{theirs}.self_attn.grep_linear", *ours, "attention", "gate")
            yield f"{theirs}.self_attn.grep_a", (*ours, "attention", "gate_scale"), "heads"
        yield from norm(f"{theirs}.self_attn_layer_norm", *ours, "attention_norm")
        yield from dense(f"{theirs}.fc1", *ours, "intermediate")
        yield from dense(f"{theirs}.fc2", *ours, "output")
        yield from norm(f"{theirs}.final_layer_norm", *ours, "output_norm")


def convert(
    names: list[Name], arrays: Mapping[str, np.ndarray], shapes: Mapping[tuple, tuple], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Our parameter tree, float32; strict in both directions.

    Args:
        names: of all arrays that the file must hold.
        arrays: the file's.
        shapes: {path: shape} of all parameters of the model.
        options: of the encoder. Its layers share one position bias, which the file may repeat in each.
    """
    used, first = {name for name, _, _ in names}, _SHARED_BIAS.format(0)
    copies = {_SHARED_BIAS.format(i) for i in range(1, options["encoder_layers"] if first in used else 1)}
    missing = sorted(used - set(arrays)) + sorted("/".join(p) for p in set(shapes) - {path for _, path, _ in names})
    unused = sorted(set(arrays) - used - copies)
    if missing or unused:
        raise PretrainedError(
            "the arrays are not those of the model that its cfg describes, so the file is damaged or of another "
            f"architecture; missing: {', '.join(missing) or 'none'}; without a place: {', '.join(unused) or 'none'}."
        )
    differing = [name for name in sorted(copies & set(arrays)) if not np.array_equal(arrays[name], arrays[first])]
    if differing:
        raise PretrainedError(f"{', '.join(differing)} differ from layer 0's, and BEATs shares it: no released model.")
    flat, wrong = {}, []
    for name, path, layout in names:
        array = np.asarray(arrays[name], np.float32)
        if array.ndim == _DIMENSIONS.get(layout, array.ndim):
            array = _from_torch(array, layout)
        if array.shape == shapes[path]:
            flat[path] = array
        else:
            wrong.append(f"{name} {arrays[name].shape}")
    if wrong:
        raise PretrainedError(f"arrays of another shape than its cfg says: {', '.join(wrong)}.")
    return traverse_util.unflatten_dict(flat)


def to_arrays(names: list[Name], params: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The inverse of `convert`, the repeated position bias included."""
    flat = traverse_util.flatten_dict(params)
    arrays = {name: _to_torch(np.asarray(flat[path]), layout, options) for name, path, layout in names}
    if options["relative_position_embedding"]:
        for i in range(1, options["encoder_layers"]):
            arrays[_SHARED_BIAS.format(i)] = arrays[_SHARED_BIAS.format(0)]
    return arrays


_DIMENSIONS = {"linear": 2, "conv": 3, "patch": 4, "heads": 4}


def _from_torch(array: np.ndarray, layout: str) -> np.ndarray:
    if layout in ("linear", "conv"):
        array = array.T  # (out, in) → (in, out); (out, in, taps) → (taps, in, out)
    elif layout == "patch":
        array = array.reshape(array.shape[0], -1).T  # (out, 1, time, frequency) → (time · frequency, out)
    elif layout == "heads":
        array = array.reshape(-1)  # (1, heads, 1, 1) → (heads,)
    return np.ascontiguousarray(array)


def _to_torch(array: np.ndarray, layout: str, options: Mapping[str, Any]) -> np.ndarray:
    if layout in ("linear", "conv", "patch"):
        array = array.T
    if layout == "patch":
        array = array.reshape(-1, 1, options["input_patch_size"], options["input_patch_size"])
    elif layout == "heads":
        array = array.reshape(1, -1, 1, 1)
    return np.ascontiguousarray(array)


def _head_names() -> list[Name]:
    path = ("head", "classifier")
    return [("predictor.weight", (*path, "kernel"), "linear"), ("predictor.bias", (*path, "bias"), "same")]


def _cfg_fields() -> list[str]:
    """The fields of the encoder that a cfg has: all but those of the computation, and Linen's own two."""
    return [f.name for f in dataclasses.fields(Beats) if f.name not in ("dtype", "remat", "parent", "name")]


def _shapes(options: Mapping[str, Any], classes: int | None) -> dict[tuple, tuple]:
    """{path: shape} of every parameter, asked of the model itself."""
    model = Classifier(Beats(**options), Linear(classes or 1))
    size = options["input_patch_size"]
    tree = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, size, size)))["params"]
    flat = traverse_util.flatten_dict(tree)
    return {path: leaf.shape for path, leaf in flat.items() if classes or path[0] == "encoder"}


def _labels(label_dict: Mapping | None, classes: int | None) -> tuple[str, ...] | None:
    if label_dict is None or classes is None:
        return None
    by_index = {int(index): mid for index, mid in label_dict.items() if str(index).isdecimal()}
    if sorted(by_index) != list(range(classes)):
        raise PretrainedError(f"its label_dict has {len(by_index)} labels for {classes} outputs: the file is damaged.")
    names = _audioset_names()
    return tuple(names.get(by_index[i], by_index[i]) for i in range(classes))


def _audioset_names() -> dict[str, str]:
    """{AudioSet id: display name}."""
    with (pathlib.Path(__file__).parent / "audioset_labels.csv").open(newline="", encoding="utf-8") as file:
        return {row["mid"]: row["display_name"] for row in csv.DictReader(file)}
