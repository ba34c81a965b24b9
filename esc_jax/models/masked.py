"""Encoders with the head of masked prediction: what tokens do the hidden patches have?"""

from flax import linen as nn
from flax import struct
import jax
import jax.numpy as jnp

from esc_jax.models.encoder import Encoded, Encoding
from esc_jax.models.patch_transformer import PatchTransformer, sine_table
from esc_jax.ops import patches
from esc_jax.ops.dense import Dense
from esc_jax.ops.transformer import Layer, layer_norm


@struct.dataclass
class Guess:
    """What is made of a spectrogram with hidden patches.

    Attributes:
        logits: (B, rows, columns, K) of every patch's token.
        clip: (B, D) of the clip as a whole, by a linear layer on the encoder's embedding; None where that isn't asked.
    """

    logits: jax.Array
    clip: jax.Array | None


class MaskedPredictor(Encoding):
    """Hidden patches are overwritten in the spectrogram by one learned patch: any encoder of spectrograms will do.

    A linear layer reads the tokens' logits from the encoder's features. Where these are coarser than the patches, each
    cell says those of all patches that it covers; where they are finer (overlapping patches), they are averaged first.

    Attributes:
        encoder: features (B, frames, bins) → Encoded.
        tokens: K.
        size: frames and bins of a patch.
        clip: D of the guess of the clip; 0: none is made.
    """

    encoder: nn.Module
    tokens: int
    size: int = 16
    clip: int = 0

    @nn.compact
    def __call__(self, features: jax.Array, hidden: jax.Array, *, train: bool = False) -> Guess:
        """What it guesses.

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
        encoded = self.encoder(masked, train=train)
        x = encoded.map()
        x = patches.resample(x, min(x.shape[1], rows), min(x.shape[2], columns))
        down, across = -(-rows // x.shape[1]), -(-columns // x.shape[2])
        logits = nn.Dense(down * across * self.tokens, name="head")(x.astype(jnp.float32))
        logits = logits.reshape(*x.shape[:3], down, across, self.tokens).swapaxes(2, 3)
        logits = logits.reshape(len(x), x.shape[1] * down, x.shape[2] * across, self.tokens)
        return Guess(logits[:, :rows, :columns], _of_clip(self.clip, encoded))


class VisiblePredictor(Encoding):
    """The encoder sees the patches that are not hidden, and no others; a few layers behind it guess the rest.

    One learned vector stands for every hidden patch; with sines for the positions, it and what the encoder made of the
    visible ones go through `layers` transformer layers and a linear one. The encoder never meets that vector, which no
    later task will show it, and has the less to compute the more is hidden. He et al., "Masked autoencoders" (2022);
    Chen et al., "BEATs" (2022), whose label predictor this is.

    Attributes:
        encoder: of patches that lie side by side, as those that are hidden.
        tokens: K.
        hidden: how many patches of an example are hidden.
        layers: behind the encoder, of its width, heads and feed-forward width.
        clip: D of the guess of the clip; 0: none is made.
    """

    encoder: PatchTransformer
    tokens: int
    hidden: int
    layers: int
    clip: int = 0

    @nn.compact
    def __call__(self, features: jax.Array, hidden: jax.Array, *, train: bool = False) -> Guess:
        """What it guesses; the arguments are MaskedPredictor's, `hidden` true in `self.hidden` places."""
        batch, rows, columns = hidden.shape
        own = self.encoder
        flat = hidden.reshape(batch, -1)
        visible = jnp.argsort(flat, axis=1, stable=True)[:, : flat.shape[1] - self.hidden]
        encoded = own(features, train=train, visible=visible)
        seen = Dense(own.width, dtype=own.dtype, name="seen")(encoded.features)
        unseen = self.param("hidden_patch", nn.initializers.normal(0.02), (own.width,)).astype(own.dtype)
        x = jnp.broadcast_to(unseen, (batch, rows * columns, own.width))
        x = jax.vmap(lambda x, where, what: x.at[where].set(what))(x, visible, seen)
        x = x + sine_table(rows, columns, own.width).reshape(1, -1, own.width).astype(own.dtype)
        for i in range(self.layers):
            layer = Layer(own.heads, own.ffn, self.layers, dtype=own.dtype, name=f"layer_{i}")
            x = layer(x, None, None, train)
        x = layer_norm(own.dtype, "norm")(x).astype(jnp.float32)
        logits = nn.Dense(self.tokens, name="head")(x).reshape(batch, rows, columns, self.tokens)
        return Guess(logits, _of_clip(self.clip, encoded))


def _of_clip(width: int, encoded: Encoded) -> jax.Array | None:
    """The guess of the clip; only within a compact method, whose module gets the layer."""
    return nn.Dense(width, name="clip_head")(encoded.embedding.astype(jnp.float32)) if width else None
