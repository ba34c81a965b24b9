"""Small models of every architecture, and checkpoints of them."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from esc_jax import config as configs
from esc_jax.models import model as models
from esc_jax.models.model import Model
from esc_jax.training import checkpoint
from esc_jax.training import state as states
from esc_jax.training.restore import Restored
from esc_jax.training.step import predict_step, to_float

CLASSES = ("dog", "sea_waves", "chainsaw", "rain", "wind", "snoring", "hen")
ENCODERS: dict[str, dict[str, Any]] = {
    "resnet": {"stage_sizes": (1, 1), "width": 8},
    "hubert": {
        "hidden_size": 32,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "conv_dim": (16,) * 7,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
        "weighted_layer_sum": True,
    },
    "efficientnet": {"width_coefficient": 0.3, "depth_coefficient": 0.1, "same_padding": "transformers"},
    "efficientat": {"width_mult": 0.1},
    "dymn": {"width_mult": 0.1, "temperature": 1.6},
    "patch_transformer": {"stride": 10, "layers": 1, "width": 16, "heads": 2, "ffn": 24, "table": (4, 2)},
    "eat": {"width": 4, "stage_blocks": 2, "embed_dim": 16, "layers": 1, "heads": 2, "ffn": 24, "positions": 8},
    "beats": {
        "embed_dim": 12,
        "encoder_layers": 1,
        "encoder_embed_dim": 16,
        "encoder_ffn_embed_dim": 24,
        "encoder_attention_heads": 2,
        "conv_pos": 8,
        "conv_pos_groups": 2,
        "input_patch_size": 10,  # does not divide the number of frames, as with clips of five seconds
    },
}
_HEADS = {"hubert": "projected", "efficientat": "mlp", "dymn": "mlp"}
_FRONTENDS = {
    "hubert": "raw",
    "eat": "raw",
    "efficientat": "efficientat_mel",
    "dymn": "efficientat_mel",
    "beats": "kaldi_fbank",
}


def tiny_config(name: str) -> ml_collections.ConfigDict:
    """A config of an architecture for clips of half a second at 16 kHz."""
    config = configs.defaults(name, _HEADS.get(name, "linear"), _FRONTENDS.get(name, "log_mel"))
    config.experiment, config.task = f"tiny_{name}", "single_label"
    config.data.update(sample_rate=16_000, clip_s=0.5, test_fold=2)
    config.model.encoder.update(ENCODERS[name])
    if config.frontend.name == "log_mel":
        config.frontend.update(n_fft=512, hop=256, mels=32, htk=True, win_length=400)
    if config.frontend.name == "efficientat_mel":
        config.frontend.fmax = 7000.0
    if name == "resnet":
        config.model.head.pooling = "attention"
    return config


def noise(count: int) -> np.ndarray:
    """(count, 8000) int16: clips of noise; the last one is silent."""
    audio = np.random.default_rng(1).normal(size=(count, 8000), scale=3000).astype(np.int16)
    audio[-1] = 0
    return audio


def random_model(config: ml_collections.ConfigDict, seed: int = 0) -> Model:
    """A model with random values in every array, including those that are initialized with zeros or ones.

    Only the shapes of the initialization are computed, because compiling it is slow.
    """
    model, initialize = models.abstract(config, CLASSES)
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        if name in ("var", "scale", "magnitude"):
            return jnp.asarray(rng.uniform(*((0.2, 0.5) if name == "var" else (1.0, 2.0)), leaf.shape), jnp.float32)
        fan_in = np.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 100.0
        return jnp.asarray(rng.normal(size=leaf.shape, scale=(2 / fan_in) ** 0.5), jnp.float32)

    return model.with_variables(jax.tree_util.tree_map_with_path(draw, jax.eval_shape(initialize, jax.random.key(0))))


def logits(model: Model, audio: np.ndarray) -> np.ndarray:
    """(B, classes) logits of (B, 8000) int16 clips."""
    apply = jax.jit(lambda x: model.module.apply(model.variables, model.frontend(x)))
    return np.asarray(apply(to_float(audio)))


def probabilities(model: Model, task: Any, audio: np.ndarray) -> np.ndarray:
    """(B, classes) probabilities of (B, 8000) int16 clips, as evaluation computes them."""
    return np.asarray(predict_step(model, task)(model.variables, audio)[0])


def normalize_logits(model: Model) -> Model:
    """Scales and shifts the classifier so that its logits for `noise(5)` have mean 0 and standard deviation 1.

    Most random networks predict the same class for all clips with certainty, so that a comparison would show nothing.
    """
    values = logits(model, noise(5))
    classifier = model.variables["params"]["head"]["classifier"]
    classifier["bias"] = (classifier["bias"] - values.mean(0)) / values.std()
    classifier["kernel"] = classifier["kernel"] / values.std()
    return model


def save_run(
    workdir: pathlib.Path, config: ml_collections.ConfigDict, model: Model | None = None, ema: Any = None
) -> pathlib.Path:
    """Writes the checkpoint of step 3 of a run, and returns the work directory."""
    variables = (model or random_model(config)).variables
    state = states.create(variables, optax.sgd(0.1), ema=False).replace(step=jnp.int32(3), ema=ema)
    meta = {"config": config.to_dict(), "classes": list(CLASSES), "sample_rate": config.data.sample_rate}
    checkpoints = checkpoint.Checkpoints(workdir / "checkpoints")
    checkpoints.save(state, meta)
    checkpoints.close()
    return workdir


def with_model(restored: Restored, **changes: Any) -> Restored:
    """A restored run with other attributes of its model."""
    return dataclasses.replace(restored, model=dataclasses.replace(restored.model, **changes))


def as_multi_label(restored: Restored, thresholds: tuple[float, ...], temperature: float | None = None) -> Restored:
    """A restored run as one of the multi-label task, with thresholds of calibrated probabilities."""
    config = restored.config.copy_and_resolve_references()
    config.task = "multi_label"
    calibration = {"temperature": temperature, "thresholds": list(thresholds)}
    return dataclasses.replace(restored, config=config, meta=restored.meta | {"calibration": calibration})
