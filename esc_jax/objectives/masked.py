"""Masked prediction: which patches of a spectrogram are hidden, and how well their tokens are guessed.

Bao et al., "BEiT" (2022); Chen et al., "BEATs" (2022).
"""

from flax import struct
import jax
import jax.numpy as jnp
import optax

# Shapes of the blocks that are hidden together, of (rows, columns) of the grid and the config's block size.
KINDS = ("random", "block", "time", "frequency")


def count(rows: int, columns: int, share: float) -> int:
    """How many of the patches are hidden."""
    return round(rows * columns * share)


def draw(key: jax.Array, rows: int, columns: int, share: float, kind: str = "random", block: int = 1) -> jax.Array:
    """(rows, columns) bool, true in exactly `count` places: those that are hidden.

    The grid is tiled by blocks, from a random offset; blocks are hidden in a random order until there are enough, the
    last one in part. A block is one patch (`random`), `block` × `block` patches (`block`), `block` rows in all columns
    (`time`) or `block` columns in all rows (`frequency`).

    Args:
        key: PRNG key.
        rows, columns: of the grid, time and frequency.
        share: of the patches that are hidden.
        kind: of KINDS.
        block: patches.
    """
    height, width = {"random": (1, 1), "block": (block, block), "time": (block, columns), "frequency": (rows, block)}[
        kind
    ]
    offset_key, block_key, tie_key = jax.random.split(key, 3)
    offsets = jax.random.randint(offset_key, (2,), 0, jnp.array([height, width]))
    # A tile that spans an axis has no offset there: it would be two.
    row = (jnp.arange(rows) + (offsets[0] if height < rows else 0)) // height
    column = (jnp.arange(columns) + (offsets[1] if width < columns else 0)) // width
    order = jax.random.permutation(block_key, (rows // height + 2) * (columns // width + 2))
    rank = order[row[:, None] * (columns // width + 2) + column[None]]
    within = jax.random.uniform(tie_key, (rows, columns))
    places = jnp.argsort((rank.astype(jnp.float32) + within).reshape(-1))[: count(rows, columns, share)]
    return jnp.zeros(rows * columns, bool).at[places].set(True).reshape(rows, columns)


@struct.dataclass
class Guessed:
    """How well hidden patches were guessed, a row per example (B,): means over its hidden patches.

    Attributes:
        loss: cross-entropy.
        hit: whether the likeliest token was the right one.
    """

    loss: jax.Array
    hit: jax.Array


def prediction(logits: jax.Array, tokens: jax.Array, hidden: jax.Array) -> Guessed:
    """Cross-entropy of the tokens of hidden patches; the others have no say.

    Args:
        logits: (B, rows, columns, K).
        tokens: (B, rows, columns) below K.
        hidden: (B, rows, columns) bool, true somewhere in every example.
    """
    losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, tokens)
    hits = (logits.argmax(-1) == tokens).astype(jnp.float32)
    number = hidden.sum((1, 2)).astype(jnp.float32)

    def mean(x: jax.Array) -> jax.Array:
        return jnp.where(hidden, x, 0.0).sum((1, 2)) / number

    return Guessed(loss=mean(losses), hit=mean(hits))


def clip_error(guess: jax.Array, vectors: jax.Array) -> jax.Array:
    """(B,) how far a guess of the clip is from the mean of its patches' vectors, normalised:

        ‖g − (v − mean v) / std v‖² / D,   v = mean over patches

    1 for a guess of zero. Chen et al., "EAT: Self-supervised pre-training with efficient audio transformer" (2024),
    whose utterance-level objective this is.

    Args:
        guess: (B, D).
        vectors: (B, rows, columns, D).
    """
    target = jax.nn.standardize(vectors.mean((1, 2)), epsilon=1e-6)
    return jnp.square(guess - jax.lax.stop_gradient(target)).mean(-1)
