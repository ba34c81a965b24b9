"""A linear layer whose gradient is a plain matrix product."""

from flax import linen as nn
import jax
from jax import lax


def rows_product(x: jax.Array, kernel: jax.Array, dimensions: lax.DotDimensionNumbers, precision=None) -> jax.Array:
    """`lax.dot_general` of (…, C) and (C, F), the axes before C as one.

    In bfloat16 on a processor that multiplies it by itself, XLA of JAX 0.11 computes the kernel's gradient over several
    axes in plain loops: 600 ms instead of 24 for 1000 rows of 768 and 3072, a training step of BEATs in 12 s, not 1.9.
    """
    assert dimensions == (((x.ndim - 1,), (0,)), ((), ()))
    rows = x.reshape(-1, x.shape[-1])
    return lax.dot_general(rows, kernel, (((1,), (0,)), ((), ())), precision).reshape(*x.shape[:-1], -1)


class Dense(nn.Dense):
    """flax's, by `rows_product`: for inputs with more than one axis before the channels."""

    dot_general: nn.linear.DotGeneralT | None = rows_product
