"""A transformer over the patches of a spectrogram, for small data sets.

Dosovitskiy et al., "An image is worth 16×16 words" (2021). Overlapping patches are from Gong et al., "AST" (2021);
patchout, and positions for shorter clips, from Koutini et al., "PaSST" (2022).
"""

from collections.abc import Iterator
import math

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from esc_jax.models.encoder import Encoded
from esc_jax.models.limits import MAX_TABLE, Constraint
from esc_jax.ops import patches
from esc_jax.ops.dense import Dense
from esc_jax.ops.dropout import Dropout
from esc_jax.ops.layer_norm import LayerNorm
from esc_jax.ops.transformer import TransformerLayer, apply_layers
from esc_jax.runtime.devices import example_keys


def sinusoidal_positions(rows: int, columns: int, width: int) -> np.ndarray:
    """Sinusoidal position embeddings of a grid (Vaswani et al. 2017, for two axes).

    The first half of the channels encodes the row, the second half the column. Each half is sin(p·ω), cos(p·ω) with
    ω = 10000^(−4k/width).

    Args:
        rows, columns: of the grid.
        width: number of channels, a multiple of 4.

    Returns:
        (rows, columns, width) float32.
    """
    omega = 10_000.0 ** -(np.arange(width // 4) * 4.0 / width)

    def axis(size: int) -> np.ndarray:
        angle = np.arange(size)[:, None] * omega
        return np.concatenate([np.sin(angle), np.cos(angle)], 1)

    shape = (rows, columns, width // 2)
    halves = np.broadcast_to(axis(rows)[:, None], shape), np.broadcast_to(axis(columns)[None], shape)
    return np.concatenate(halves, -1).astype(np.float32)


def grid_positions(table: jax.Array, batch: int, rows: int, columns: int, key: jax.Array | None = None) -> jax.Array:
    """Position embeddings of a grid from a learned table.

    A grid with more rows than the table gets the table resampled to its size. A grid with fewer rows gets a part of it.

    Args:
        table: (R, C, D).
        batch: number of examples.
        rows, columns: of the grid.
        key: PRNG key that draws the first row of the part for each example; None: the first rows of the table.

    Returns:
        (B, rows, columns, D), or (1, rows, columns, D) if all examples have the same positions.
    """
    table = patches.resample(table[None], max(rows, table.shape[0]), columns)
    if key is None or table.shape[1] == rows:
        return table[:, :rows]
    keys = example_keys(key, batch)
    starts = jax.vmap(lambda key: jax.random.randint(key, (), 0, table.shape[1] - rows + 1))(keys)
    return jax.vmap(lambda start: jax.lax.dynamic_slice_in_dim(table[0], start, rows))(starts)


class PatchTransformer(nn.Module):
    """Patches → linear → + learned position → pre-norm layers → LayerNorm; (B, frames, bins) → Encoded.

    The position embeddings are a learned table that is initialized with `sinusoidal_positions`. See `grid_positions`
    for clips of other lengths; shorter clips get a random part of the table in training. Frames and bins that do not
    fill a patch are dropped. An input smaller than a patch is padded by repeating its last frame and bin.

    `Encoded.features` is a feature map (B, rows, columns, width) if all patches are encoded, else the encoded tokens
    (B, tokens, width). Sows the `attention` of each layer (B, heads, tokens, tokens) into "intermediates".

    Attributes:
        patch: frames and bins of a patch.
        stride: distance of patches; patches overlap if it is less than `patch`.
        layers, width, heads, ffn: of the transformer; 6, 256, 8 and 1024 give 4.9 M parameters.
        table: rows and columns of the table of positions.
        dropout, attention_dropout: rates.
        drop_path: rate at which an example skips the last layer (LayerDrop, without rescaling). The rate of layer i of
            n is i/n of it.
        patchout: fraction of the patches that are dropped from each example in training.
        dtype: of the computation; parameters, softmax and norm statistics are float32.
        remat: recompute the layers in the backward pass, to save memory.
    """

    patch: int = 16
    stride: int = 16
    layers: int = 6
    width: int = 256
    heads: int = 8
    ffn: int = 1024
    table: tuple[int, int] = (31, 8)
    dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path: float = 0.0
    patchout: float = 0.0
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.nowrap
    def constraints(self) -> Iterator[Constraint]:
        """See `limits.check_options`."""
        yield self.width % 4 == 0, "width", "a multiple of 4, for positions along two axes"
        yield self.width % self.heads == 0, "heads", f"a divisor of the width, {self.width}"
        yield len(self.table) == 2, "table", "rows and columns"
        size = math.prod(self.table) * self.width
        yield size <= MAX_TABLE, "table", f"so small that rows · columns · width is at most {MAX_TABLE}"

    @nn.compact
    def __call__(
        self,
        features: jax.Array,
        *,
        train: bool = False,
        padding: jax.Array | None = None,
        visible: jax.Array | None = None,
    ) -> Encoded:
        """Encodes a batch. The embedding is the mean of the tokens.

        Args:
            features: (B, frames, bins).
            train: dropout, LayerDrop and patchout are active.
            padding: ignored: padding is silence.
            visible: (B, N) indices of the patches that are encoded, in row-major order of the grid; None: all.
        """
        del padding
        missing = [max(0, self.patch - size) for size in features.shape[1:]]
        features = jnp.pad(features, ((0, 0), (0, missing[0]), (0, missing[1])), mode="edge")
        x = patches.extract_patches(features, self.patch, self.stride)
        batch, rows, columns, _ = x.shape
        x = Dense(self.width, dtype=self.dtype, name="patch_embedding")(x)
        table = self.param("position", lambda _: jnp.asarray(sinusoidal_positions(*self.table, self.width)))
        key = self.make_rng("droppath") if train and rows < self.table[0] else None
        x = x + grid_positions(table, batch, rows, columns, key).astype(self.dtype)
        x = x.reshape(batch, rows * columns, self.width)
        if visible is not None:
            x = jnp.take_along_axis(x, visible[..., None], axis=1)
        if train and self.patchout:
            x = self._drop_patches(x)
        x = Dropout(self.dropout)(x, train=train)
        layer = TransformerLayer(
            self.heads, self.ffn, self.layers, dropout=self.dropout, attention_dropout=self.attention_dropout,
            dtype=self.dtype, parent=None,
        )  # fmt: skip
        rates = [self.drop_path * (i + 1) / self.layers for i in range(self.layers)] if self.drop_path else []
        *_, x = x, *apply_layers(self, layer, x, train=train, remat=self.remat, drop_rates=rates)
        x = LayerNorm(self.dtype, name="last")(x).astype(jnp.float32)
        complete = visible is None and x.shape[1] == rows * columns
        return Encoded(x.mean(1), x.reshape(batch, rows, columns, self.width) if complete else x)

    def _drop_patches(self, x: jax.Array) -> jax.Array:
        """Patchout: keeps a random subset of the tokens of each example, of the same size for all, in their order."""
        count = max(1, round(x.shape[1] * (1.0 - self.patchout)))
        keys = example_keys(self.make_rng("droppath"), len(x))
        kept = jax.vmap(lambda key: jnp.sort(jax.random.permutation(key, x.shape[1])[:count]))(keys)
        return jnp.take_along_axis(x, kept[..., None], axis=1)
