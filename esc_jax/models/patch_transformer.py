"""A transformer over the patches of a spectrogram, small enough for small data.

Dosovitskiy et al., "An image is worth 16×16 words" (2021); Gong et al., "AST" (2021), whose overlapping patches it has;
Koutini et al., "PaSST" (2022), whose patchout and positions cut to shorter clips it has.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from esc_jax.models.encoder import Encoded
from esc_jax.ops import patches
from esc_jax.ops.dense import Dense
from esc_jax.ops.dropout import Dropout, skip_rows
from esc_jax.ops.transformer import Layer, layer_norm
from esc_jax.runtime.devices import example_keys


def sine_table(rows: int, columns: int, width: int) -> np.ndarray:
    """(rows, columns, width): the first half of the channels says the row, the second the column.

    Each half is sin(p·ω), cos(p·ω) with ω = 10000^(−4k/width) (Vaswani et al. 2017, for two axes).
    """
    omega = 10_000.0 ** -(np.arange(width // 4) * 4.0 / width)

    def axis(size: int) -> np.ndarray:
        angle = np.arange(size)[:, None] * omega
        return np.concatenate([np.sin(angle), np.cos(angle)], 1)

    row, column = axis(rows)[:, None], axis(columns)[None]
    both = np.broadcast_to(row, (rows, columns, width // 2)), np.broadcast_to(column, (rows, columns, width // 2))
    return np.concatenate(both, -1).astype(np.float32)


def places(table: jax.Array, batch: int, rows: int, columns: int, key: jax.Array | None = None) -> jax.Array:
    """Positions of a grid from a learned table; (B, rows, columns, D), or (1, …) where all examples have the same.

    Args:
        table: (R, C, D).
        batch, rows, columns: of what needs positions. More rows than the table has: it is stretched.
        key: draws for every example which of more rows it takes; None: the first.
    """
    table = patches.resample(table[None], max(rows, table.shape[0]), columns)
    if key is None or table.shape[1] == rows:
        return table[:, :rows]
    keys = example_keys(key, batch)
    starts = jax.vmap(lambda key: jax.random.randint(key, (), 0, table.shape[1] - rows + 1))(keys)
    return jax.vmap(lambda start: jax.lax.dynamic_slice_in_dim(table[0], start, rows))(starts)


class PatchTransformer(nn.Module):
    """Patches → linear → + learned position → pre-norm layers → LayerNorm; (B, frames, bins) → Encoded.

    The positions are a learned table of `table` rows and columns, which starts as `sine_table`. A clip with fewer rows
    takes the beginning of it, in training a random part; one with more gets the table stretched by linear
    interpolation. Frames and bins that do not fill a patch are dropped; an input shorter than a patch is filled up by
    repeating its last frame.

    Attributes:
        patch: frames and bins of a patch.
        stride: from one patch to the next; below `patch` they overlap.
        layers, width, heads, ffn: of the transformer; 6, 256, 8 and 1024 make 4.9 M parameters.
        table: rows and columns that have positions of their own.
        dropout, attention_dropout: rates.
        drop_path: rate at which an example skips the last layer, in proportion fewer the earlier ones; what it does
            not skip isn't scaled up (layer drop, Fan et al. 2020).
        patchout: share of the patches that training leaves out of an example, drawn anew every time.
        dtype: of the computation; parameters, softmax and norm statistics stay float32.
        remat: recompute the layers in the backward pass, to save memory.

    `Encoded.features` are tokens where some are left out, else a map (B, rows, columns, width). Sows each layer's
    `attention` (B, heads, tokens, tokens).
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
    def needs(self):
        """See `limits.check`."""
        yield self.width % 4 == 0, "width", "a multiple of 4, which positions need in two directions"
        yield self.width % self.heads == 0, "heads", f"a divisor of the width, {self.width}"
        yield len(self.table) == 2, "table", "rows and columns"

    @nn.compact
    def __call__(
        self,
        features: jax.Array,
        *,
        train: bool = False,
        padding: jax.Array | None = None,
        visible: jax.Array | None = None,
    ) -> Encoded:
        """Tokens and their mean. Padding is silence to it, as to a CNN: `padding` is ignored.

        Args:
            features: (B, frames, bins).
            train: whether it drops what it may drop.
            padding: ignored.
            visible: (B, N) numbers of the patches that are looked at, counted along the bins first; None: all.
        """
        del padding
        short = [max(0, self.patch - size) for size in features.shape[1:]]
        features = jnp.pad(features, ((0, 0), (0, short[0]), (0, short[1])), mode="edge")
        x = patches.cut(features, self.patch, self.stride)
        batch, rows, columns, _ = x.shape
        x = Dense(self.width, dtype=self.dtype, name="patch_embedding")(x)
        table = self.param("position", lambda _: jnp.asarray(sine_table(*self.table, self.width)))
        key = self.make_rng("droppath") if train and rows < self.table[0] else None
        x = x + places(table, batch, rows, columns, key).astype(self.dtype)
        x = x.reshape(batch, rows * columns, self.width)
        if visible is not None:
            x = jnp.take_along_axis(x, visible[..., None], axis=1)
        if train and self.patchout:
            x = self._some(x)
        x = Dropout(self.dropout)(x, train=train)
        layer = nn.remat(Layer, static_argnums=(4,)) if self.remat else Layer
        for i in range(self.layers):
            y = layer(
                self.heads, self.ffn, self.layers, dropout=self.dropout, attention_dropout=self.attention_dropout,
                dtype=self.dtype, name=f"layer_{i}",
            )(x, None, None, train)  # fmt: skip
            if train and self.drop_path:
                y = skip_rows(self.make_rng("droppath"), self.drop_path * (i + 1) / self.layers, x, y)
            x = y
        x = layer_norm(self.dtype, "last")(x).astype(jnp.float32)
        whole = visible is None and x.shape[1] == rows * columns
        return Encoded(x.mean(1), x.reshape(batch, rows, columns, self.width) if whole else x)

    def _some(self, x: jax.Array) -> jax.Array:
        """The same number of tokens of every example, each drawn without replacement, in their order."""
        count = max(1, round(x.shape[1] * (1.0 - self.patchout)))
        keys = example_keys(self.make_rng("droppath"), len(x))
        kept = jax.vmap(lambda key: jnp.sort(jax.random.permutation(key, x.shape[1])[:count]))(keys)
        return jnp.take_along_axis(x, kept[..., None], axis=1)
