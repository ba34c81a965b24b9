"""An encoder with the head of masked prediction: what tokens do the hidden patches have?"""

from flax import linen as nn
import jax
import jax.numpy as jnp

from esc_jax.models import patches
from esc_jax.models.encoder import Encoded


class MaskedPredictor(nn.Module):
    """Hidden patches are overwritten in the spectrogram by one learned patch: any encoder of spectrograms will do.

    A linear layer reads the tokens' logits from the encoder's features. Where these are coarser than the patches, each
    cell says those of all patches that it covers; where they are finer (overlapping patches), they are averaged first.

    Attributes:
        encoder: features (B, frames, bins) → Encoded.
        tokens: K.
        size: frames and bins of a patch.
    """

    encoder: nn.Module
    tokens: int
    size: int = 16

    @nn.compact
    def __call__(self, features: jax.Array, hidden: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits (B, rows, columns, K).

        Args:
            features: (B, frames, bins).
            hidden: (B, rows, columns) bool, of the patches that fit.
            train: as for the encoder.
        """
        _, frames, bins = features.shape
        rows, columns = hidden.shape[1:]
        tile = self.param("hidden_patch", nn.initializers.zeros, (self.size, self.size))
        tiled = jnp.tile(tile, (-(-frames // self.size), -(-bins // self.size)))[:frames, :bins]
        masked = jnp.where(patches.spread(hidden, self.size, (frames, bins)), tiled[None], features)
        x = self.encoder(masked, train=train).map()
        x = patches.resample(x, min(x.shape[1], rows), min(x.shape[2], columns))
        down, across = -(-rows // x.shape[1]), -(-columns // x.shape[2])
        logits = nn.Dense(down * across * self.tokens, name="head")(x.astype(jnp.float32))
        logits = logits.reshape(*x.shape[:3], down, across, self.tokens).swapaxes(2, 3)
        logits = logits.reshape(len(x), x.shape[1] * down, x.shape[2] * across, self.tokens)
        return logits[:, :rows, :columns]

    def encode(self, features: jax.Array, *, train: bool = False, padding: jax.Array | None = None) -> Encoded:
        """The encoder alone, nothing hidden."""
        return self.encoder(features, train=train, padding=padding)
