"""The interface of all architectures: an encoder, and a head on its embedding.

The parameters of every model are under `encoder/…` and `head/…`, so that regular expressions that freeze, scale the
learning rate of or export one part work for all models.
"""

from flax import linen as nn
from flax import struct
import jax


@struct.dataclass
class Encoded:
    """Output of an encoder for a batch of B clips.

    Attributes:
        embedding: (B, D), pooled over the clip.
        features: before pooling: the feature map (B, time steps, bins, D) of a CNN, or the tokens (B, tokens, D) of a
            transformer.
        padding: (B, tokens), true where a token is padding and excluded from pooling; None without padding.
        columns: number of frequency patches per time step. Tokens of one time step are consecutive.
    """

    embedding: jax.Array
    features: jax.Array
    padding: jax.Array | None = None
    columns: int = struct.field(pytree_node=False, default=1)

    def feature_map(self) -> jax.Array:
        """The features as (B, time steps, columns, D)."""
        batch, width = self.features.shape[0], self.features.shape[-1]
        return self.features if self.features.ndim == 4 else self.features.reshape(batch, -1, self.columns, width)


class EncoderModel(nn.Module):
    """A module that contains an encoder, with a method that applies the encoder only."""

    encoder: nn.Module

    def encode(self, features: jax.Array, *, train: bool = False, padding: jax.Array | None = None) -> Encoded:
        """Applies the encoder; use as `module.apply(variables, features, method="encode")`."""
        return self.encoder(features, train=train, padding=padding)


class Classifier(EncoderModel):
    """An encoder with a head: features of a frontend → logits.

    Encoders are called as `encoder(features, train=…, padding=…)` and return `Encoded`. Features are (B, frames, bins),
    or (B, samples) for the raw waveform. `padding` is a mask of the *waveform*, (B, samples), true where it is padding;
    or None. Encoders reduce it to their frame rate by their published rule; CNNs ignore it. PRNG streams are "dropout",
    and "droppath" for stochastic depth and patch dropout. Running statistics are in the collection "batch_stats".

    A head whose `pools` is true replaces the embedding by `pool(encoded)`, (B, D), its own pooling of the features.

    Attributes:
        encoder: features → `Encoded`.
        head: embedding (B, D) → logits (B, classes).
    """

    head: nn.Module

    @property
    def pools(self) -> bool:
        """Whether the embedding depends on the head."""
        return bool(getattr(self.head, "pools", False))

    def encode(self, features: jax.Array, *, train: bool = False, padding: jax.Array | None = None) -> Encoded:
        """Applies the encoder and the pooling; use as `module.apply(variables, features, method="encode")`."""
        encoded = self.encoder(features, train=train, padding=padding)
        return encoded.replace(embedding=self.head.pool(encoded)) if self.pools else encoded

    def __call__(self, features: jax.Array, *, train: bool = False, padding: jax.Array | None = None) -> jax.Array:
        """Computes logits.

        Args:
            features: (B, frames, bins) or (B, samples).
            train: use batch statistics and dropout.
            padding: (B, samples), true where the waveform is padding; or None.

        Returns:
            (B, classes).
        """
        return self.head(self.encode(features, train=train, padding=padding).embedding, train=train)

    def classify(self, embedding: jax.Array) -> jax.Array:
        """Applies the head to (B, D) embeddings; use as `module.apply(variables, embedding, method="classify")`."""
        return self.head(embedding)
