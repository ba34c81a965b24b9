"""The one shape every architecture has: an encoder, and a head on its embedding.

Parameters of every model live under `encoder/…` and `head/…`, so that one regular expression freezes, slows
down or exports either part of any of them.
"""

from collections.abc import Callable
import contextlib

from flax import linen as nn
from flax import struct
import jax


@struct.dataclass
class Encoded:
    """What an encoder gives for a batch of B clips.

    Attributes:
        embedding: (B, D), pooled over the clip.
        features: what was pooled: a map (B, frames, bins, D) of a CNN or the tokens (B, tokens, D) of a transformer.
        padding: (B, tokens), true where a token is padding and was left out of the pooling; None without padding.
        columns: tokens that share a moment: they lie side by side.
    """

    embedding: jax.Array
    features: jax.Array
    padding: jax.Array | None = None
    columns: int = struct.field(pytree_node=False, default=1)

    def map(self) -> jax.Array:
        """The features as (B, moments, columns, D)."""
        batch, width = self.features.shape[0], self.features.shape[-1]
        return self.features if self.features.ndim == 4 else self.features.reshape(batch, -1, self.columns, width)


class Encoding(nn.Module):
    """A module around an encoder, which can be asked for it alone."""

    encoder: nn.Module

    def encode(self, features: jax.Array, *, train: bool = False, padding: jax.Array | None = None) -> Encoded:
        """The encoder alone, on all of its input; a head is not touched."""
        return self.encoder(features, train=train, padding=padding)


class Classifier(Encoding):
    """An encoder with a head: frontend features in, logits out.

    Every encoder is called as `encoder(features, train=…, padding=…)` and returns `Encoded`. `features` is what its
    frontend gives: (B, frames, bins), or (B, samples) for the raw waveform. `padding` is the mask of the *waveform*,
    (B, samples), true where it is padding, or None; an encoder folds it to its own frame rate by its published
    rule, and a CNN, which has none, ignores it. Dropout draws from the stream "dropout", stochastic depth and
    patch dropping from "droppath"; running statistics are in the collection "batch_stats".
    """

    head: nn.Module

    def __call__(self, features: jax.Array, *, train: bool = False, padding: jax.Array | None = None) -> jax.Array:
        """Logits (B, classes)."""
        return self.head(self.encoder(features, train=train, padding=padding).embedding, train=train)


@contextlib.contextmanager
def evaluating(chosen: Callable[[str], bool]):
    """Inside, the modules whose path (`encoder/block3`) is chosen run as in evaluation, and all that is in them.

    Their BatchNorm uses and keeps its running statistics, their dropout is off. `train` is the only Python bool that
    modules are called with, which is how it is found here.
    """

    def call(function, args, kwargs, context):
        if context.method_name == "__call__" and chosen("/".join(context.module.path)):
            args = tuple(False if a is True else a for a in args)
            kwargs = {k: False if a is True else a for k, a in kwargs.items()}
        return function(*args, **kwargs)

    with nn.intercept_methods(call):
        yield
