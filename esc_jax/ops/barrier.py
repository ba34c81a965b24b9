"""An optimization barrier for XLA on a CUDA GPU."""

from typing import TypeVar

import jax
from jax import lax

Arrays = TypeVar("Arrays")


def cuda_barrier(arrays: Arrays) -> Arrays:
    """The arrays, which XLA for CUDA computes once and stores before any operation that uses them.

    XLA may compute an array again in each kernel that reads it, and then read the larger arrays that it depends on.
    On other platforms, this is the identity.

    Args:
        arrays: tree of arrays.
    """
    leaves, structure = jax.tree.flatten(arrays)
    stored = lax.platform_dependent(*leaves, cuda=lambda *x: lax.optimization_barrier(x), default=lambda *x: x)
    return jax.tree.unflatten(structure, stored)
