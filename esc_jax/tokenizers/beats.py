"""The BEATs tokenizer: filterbank patches to the ids of a learned codebook, the targets of its masked prediction.

Encoder → linear → tanh → linear → the nearest entry of the codebook by cosine (Chen et al., "BEATs", 2022).
"""

from collections.abc import Mapping
import dataclasses
import os
from typing import Any

from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from esc_jax.frontends.kaldi_fbank import KaldiFbank
from esc_jax.models.beats import Beats
from esc_jax.pretrained import beats
from esc_jax.pretrained.checkpoint import PretrainedError


class Quantizer(nn.Module):
    """Tokens of the encoder (B, T, C) to ids (B, T): argmin_n ‖z/‖z‖ − e_n‖², z = W₂·tanh(W₁·x)."""

    entries: int = 1024
    width: int = 256

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        z = nn.Dense(self.width, name="output")(jnp.tanh(nn.Dense(x.shape[-1], name="hidden")(x)))
        codebook = self.param("codebook", nn.initializers.normal(1.0), (self.entries, self.width))
        z = z / jnp.maximum(jnp.linalg.norm(z, axis=-1, keepdims=True), 1e-12)
        # ‖z‖² is the same for every entry.
        distance = jnp.sum(jnp.square(codebook), -1)[None, None] - 2 * jnp.einsum(
            "btd,nd->btn", z, codebook, precision=jax.lax.Precision.HIGHEST
        )
        return jnp.argmin(distance, -1)


class Tokenizer(nn.Module):
    """Filterbank (B, frames, bins) to ids (B, tokens), the tokens in the order of `models.beats`."""

    encoder: nn.Module
    quantizer: nn.Module

    def __call__(self, features: jax.Array, padding: jax.Array | None = None) -> jax.Array:
        return self.quantizer(self.encoder(features, padding=padding).features)


@dataclasses.dataclass(frozen=True)
class PretrainedTokenizer:
    """A published tokenizer.

    Attributes:
        frontend: waveform (B, time) → features.
        module: features → ids.
        variables: {"params": {"encoder", "quantizer"}, "statistics": what its training kept beside the codebook}.
        entries: size of the codebook; ids are below it.
    """

    frontend: KaldiFbank
    module: Tokenizer
    variables: dict[str, Any]
    entries: int

    def tokens(self, waveform: jax.Array, padding: jax.Array | None = None) -> jax.Array:
        """Ids (B, tokens) of waveforms (B, time) at the frontend's rate; a pure function, to be jitted by the caller.

        `padding` is (B, time), true where padded, or None.
        """
        params = {"params": self.variables["params"]}
        return self.module.apply(params, self.frontend(waveform), padding=padding)


def read_tokenizer(path: str | os.PathLike) -> PretrainedTokenizer:
    """A released `Tokenizer_iter….pt`.

    Raises:
        PretrainedError: in one sentence, with the names of all arrays that are missing or have no place.
    """
    cfg, arrays, _ = beats.load(path)
    try:
        return from_arrays(cfg, arrays)
    except PretrainedError as error:
        raise PretrainedError(f"{path}: {error}") from None


def from_arrays(cfg: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> PretrainedTokenizer:
    """The same from `cfg` and {published name: array}; needs no torch."""
    if "quantize.embedding.weight" not in arrays:
        raise PretrainedError("it has no codebook: this is a BEATs model, not one of its tokenizers.")
    options = beats.options_from(cfg)
    entries, width = int(cfg.get("quant_n", 1024)), int(cfg.get("quant_dim", 256))
    module = Tokenizer(Beats(**options), Quantizer(entries, width))
    size = options["input_patch_size"]
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, size, size)))["params"]
    shapes = {path: leaf.shape for path, leaf in traverse_util.flatten_dict(shapes).items()}
    shapes |= {path: _statistics_shape(path[-1], entries, width) for _, path, _ in _STATISTICS}
    params = beats.convert([*beats.encoder_names(options), *_QUANTIZER, *_STATISTICS], arrays, shapes, options)
    statistics = params.pop("statistics")
    if not statistics["initialised"].all():
        raise PretrainedError("its codebook was never initialised: train the tokenizer before you use it.")
    return PretrainedTokenizer(KaldiFbank(), module, {"params": params, "statistics": statistics}, entries)


_QUANTIZER = [
    ("quantize_layer.0.weight", ("quantizer", "hidden", "kernel"), "linear"),
    ("quantize_layer.0.bias", ("quantizer", "hidden", "bias"), "same"),
    ("quantize_layer.2.weight", ("quantizer", "output", "kernel"), "linear"),
    ("quantize_layer.2.bias", ("quantizer", "output", "bias"), "same"),
    ("quantize.embedding.weight", ("quantizer", "codebook"), "same"),
]
# Moving averages of the codebook's training: kept, because nothing in a file is passed over, and not used.
_STATISTICS = [
    ("quantize.cluster_size", ("statistics", "usage"), "same"),
    ("quantize.embedding.cluster_size", ("statistics", "cluster_size"), "same"),
    ("quantize.embedding.embed_avg", ("statistics", "average"), "same"),
    ("quantize.embedding.initted", ("statistics", "initialised"), "same"),
]


def _statistics_shape(name: str, entries: int, width: int) -> tuple[int, ...]:
    return {"average": (entries, width), "initialised": (1,)}.get(name, (entries,))
