"""Models of masked prediction: an encoder with a head that predicts the tokens of masked patches."""

from flax import linen as nn
from flax import struct
import jax
import jax.numpy as jnp

from esc_jax.models.encoder import Encoded, EncoderModel
from esc_jax.models.patch_transformer import PatchTransformer, sinusoidal_positions
from esc_jax.ops import patches
from esc_jax.ops.dense import Dense
from esc_jax.ops.layer_norm import LayerNorm
from esc_jax.ops.transformer import TransformerLayer, apply_layers


@struct.dataclass
class MaskedPrediction:
    """Output of a model of masked prediction.

    Attributes:
        logits: (B, rows, columns, K) of the token of each patch.
        clip: (B, D), a prediction for the whole clip: a linear function of the encoder's embedding; None without it.
    """

    logits: jax.Array
    clip: jax.Array | None


class MaskedPredictor(EncoderModel):
    """Masked prediction with any encoder of spectrograms.

    Masked patches are replaced in the spectrogram by one learned patch. A linear layer on the encoder's features gives
    the logits. If the features are coarser than the patches, each feature vector gives the logits of all patches that
    it covers; if they are finer (overlapping patches), they are averaged first.

    Attributes:
        encoder: features (B, frames, bins) → Encoded.
        vocabulary_size: K, number of tokens.
        patch_size: frames and bins of a patch.
        clip_dim: D, dimension of the prediction for the clip; 0: none.
    """

    encoder: nn.Module
    vocabulary_size: int
    patch_size: int = 16
    clip_dim: int = 0

    @nn.compact
    def __call__(self, features: jax.Array, mask: jax.Array, *, train: bool = False) -> MaskedPrediction:
        """Predicts the tokens of all patches.

        Args:
            features: (B, frames, bins).
            mask: (B, rows, columns) bool, true for masked patches.
            train: as for the encoder.
        """
        _, frames, bins = features.shape
        rows, columns = mask.shape[1:]
        size = self.patch_size
        # Names of parameters are part of their initialization, and of checkpoints.
        mask_patch = self.param("hidden_patch", nn.initializers.zeros, (size, size))
        tiled = jnp.tile(mask_patch, (-(-frames // size), -(-bins // size)))[:frames, :bins]
        masked = jnp.where(patches.patches_to_pixels(mask, size, (frames, bins)), tiled[None], features)
        encoded = self.encoder(masked, train=train)
        x = encoded.feature_map()
        x = patches.resample(x, min(x.shape[1], rows), min(x.shape[2], columns))
        # Patches per feature vector.
        down, across = -(-rows // x.shape[1]), -(-columns // x.shape[2])
        logits = nn.Dense(down * across * self.vocabulary_size, name="head")(x.astype(jnp.float32))
        logits = logits.reshape(*x.shape[:3], down, across, self.vocabulary_size).swapaxes(2, 3)
        logits = logits.reshape(len(x), x.shape[1] * down, x.shape[2] * across, self.vocabulary_size)
        return MaskedPrediction(logits[:, :rows, :columns], _predict_clip(self.clip_dim, encoded))


class VisiblePredictor(EncoderModel):
    """Masked prediction with an encoder of visible patches only.

    The encoder does not process masked patches. One learned vector represents each of them; with sinusoidal positions,
    these vectors and the encoded visible patches pass through `layers` transformer layers and a linear layer. The
    encoder thus never sees mask tokens, which do not occur in downstream tasks, and computes less for a higher mask
    ratio. He et al., "Masked autoencoders" (2022); the label predictor is that of Chen et al., "BEATs" (2022).

    Attributes:
        encoder: with patches that do not overlap, of the size of masked patches.
        vocabulary_size: K, number of tokens.
        num_masked: masked patches of each example.
        layers: transformer layers after the encoder, with its width, heads and feed-forward width.
        clip_dim: D, dimension of the prediction for the clip; 0: none.
    """

    encoder: PatchTransformer
    vocabulary_size: int
    num_masked: int
    layers: int
    clip_dim: int = 0

    @nn.compact
    def __call__(self, features: jax.Array, mask: jax.Array, *, train: bool = False) -> MaskedPrediction:
        """Predicts the tokens of all patches.

        Args:
            features: (B, frames, bins).
            mask: (B, rows, columns) bool, true for the `num_masked` masked patches of each example.
            train: as for the encoder.
        """
        batch, rows, columns = mask.shape
        encoder = self.encoder
        width, dtype = encoder.width, encoder.dtype
        flat = mask.reshape(batch, -1)
        visible = jnp.argsort(flat, axis=1, stable=True)[:, : flat.shape[1] - self.num_masked]
        encoded = encoder(features, train=train, visible=visible)
        visible_tokens = Dense(width, dtype=dtype, name="seen")(encoded.features)
        mask_token = self.param("hidden_patch", nn.initializers.normal(0.02), (width,)).astype(dtype)
        x = jnp.broadcast_to(mask_token, (batch, rows * columns, width))
        x = jax.vmap(lambda x, positions, tokens: x.at[positions].set(tokens))(x, visible, visible_tokens)
        x = x + sinusoidal_positions(rows, columns, width).reshape(1, -1, width).astype(dtype)
        layer = TransformerLayer(encoder.heads, encoder.ffn, self.layers, dtype=dtype, parent=None)
        *_, x = x, *apply_layers(self, layer, x, train=train)
        x = LayerNorm(dtype, name="norm")(x).astype(jnp.float32)
        logits = nn.Dense(self.vocabulary_size, name="head")(x).reshape(batch, rows, columns, self.vocabulary_size)
        return MaskedPrediction(logits, _predict_clip(self.clip_dim, encoded))


def _predict_clip(width: int, encoded: Encoded) -> jax.Array | None:
    """The prediction for the clip. Must be called in a compact method, whose module gets the layer."""
    return nn.Dense(width, name="clip_head")(encoded.embedding.astype(jnp.float32)) if width else None
