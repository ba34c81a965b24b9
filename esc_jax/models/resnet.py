"""ResNet with basic blocks (He et al. 2016), for one-channel spectrograms."""

from collections.abc import Iterator, Sequence
import functools

from flax import linen as nn
import jax
import jax.numpy as jnp

from esc_jax.models.encoder import Encoded
from esc_jax.models.limits import MAX_LAYERS, MAX_SIZE, Constraint
from esc_jax.ops.batch_norm import BatchNorm
from esc_jax.ops.convolution import Conv
from esc_jax.ops.dropout import drop_path
from esc_jax.ops.max_pool import max_pool

# He et al. 2015, fan out: keeps the variance of the gradients through the blocks.
_he_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class BasicBlock(nn.Module):
    """x + f(x) with two 3×3 convolutions and batch normalization; x is projected if the shape changes.

    In training, f(x) is dropped for an example at `drop_rate` (PRNG stream "droppath"), see `ops.dropout.drop_path`.
    """

    features: int
    strides: int
    zero_init: bool
    drop_rate: float
    dtype: jnp.dtype
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        conv = functools.partial(Conv, kernel_init=_he_init, dtype=self.dtype)
        norm = functools.partial(BatchNorm, momentum=0.9, dtype=self.dtype, axis_name=self.axis_name)
        strides = (self.strides, self.strides)
        y = conv(self.features, (3, 3), strides, padding=1, name="conv1")(x)
        y = nn.relu(norm(name="bn1")(y, train))
        y = conv(self.features, (3, 3), padding=1, name="conv2")(y)
        # A last scale of zero makes every block the identity at initialization (Goyal et al. 2017).
        scale_init = nn.initializers.zeros if self.zero_init else nn.initializers.ones
        y = norm(name="bn2", scale_init=scale_init)(y, train)
        if x.shape != y.shape:
            x = norm(name="bn_shortcut")(conv(self.features, (1, 1), strides, name="conv_shortcut")(x), train)
        if train and self.drop_rate > 0:
            y = drop_path(self.make_rng("droppath"), self.drop_rate, y)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """ResNet of basic blocks. Stage sizes (3, 4, 6, 3) give ResNet-34.

    Attributes:
        stage_sizes: blocks per stage; (2, 2, 2, 2) is ResNet-18.
        width: channels of the first stage, doubled in each further one; 64 is the published width.
        zero_init: initialize the last batch-norm scale of every block with zeros.
        drop_path: stochastic depth of the last block (Huang et al. 2016); of L blocks, block l has the rate
            `drop_path` · l / L.
        dtype: of the computation; parameters are float32.
        axis_name: mapped axis over which batch statistics are averaged in training, or None.
    """

    stage_sizes: Sequence[int] = (3, 4, 6, 3)
    width: int = 64
    zero_init: bool = True
    drop_path: float = 0.0
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    def constraints(self) -> Iterator[Constraint]:
        """See `limits.check_options`."""
        yield sum(self.stage_sizes) <= MAX_LAYERS, "stage_sizes", f"at most {MAX_LAYERS} blocks in total"
        channels = self.width << (len(self.stage_sizes) - 1)
        yield channels <= MAX_SIZE, "width", f"so small that the last stage has at most {MAX_SIZE} channels"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False, padding: jax.Array | None = None) -> Encoded:
        """Encodes a batch.

        Args:
            x: (B, frames, bins).
            train: use batch statistics and stochastic depth.
            padding: ignored: padding is silence.

        Returns:
            Embedding (B, 8 · width) and feature map (B, frames / 32, bins / 32, 8 · width), for four stages.
        """
        del padding
        x = x[..., None].astype(self.dtype)
        x = Conv(self.width, (7, 7), (2, 2), padding=3, kernel_init=_he_init, dtype=self.dtype, name="stem")(x)
        norm = BatchNorm(momentum=0.9, dtype=self.dtype, axis_name=self.axis_name, name="bn_stem")
        x = nn.relu(norm(x, train))
        x = max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        number, total = 0, sum(self.stage_sizes)
        for stage, blocks in enumerate(self.stage_sizes):
            for block in range(blocks):
                number += 1
                x = BasicBlock(
                    features=self.width * 2**stage,
                    strides=2 if stage and not block else 1,
                    zero_init=self.zero_init,
                    drop_rate=self.drop_path * number / total,
                    dtype=self.dtype,
                    axis_name=self.axis_name,
                    name=f"stage{stage + 1}_block{block + 1}",
                )(x, train=train)
        return Encoded(embedding=x.astype(jnp.float32).mean((1, 2)), features=x)
