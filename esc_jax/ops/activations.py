"""Activation functions by name, with gradients that keep their input only."""

from collections.abc import Callable
import functools

from flax import linen as nn
import jax
import jax.numpy as jnp

from esc_jax.ops.barrier import cuda_barrier


def from_input(function: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    """An element-wise function whose gradient is computed from the input.

    Automatic differentiation keeps intermediate results: for the exact GELU, two arrays of the size of the input.
    """

    @jax.custom_vjp
    def activation(x: jax.Array) -> jax.Array:
        return function(x)

    def forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return function(x), x

    def backward(x: jax.Array, g: jax.Array) -> tuple[jax.Array]:
        x, g = cuda_barrier((x, g))  # else XLA stores what both passes compute
        return jax.vjp(function, x)[1](g)

    activation.defvjp(forward, backward)
    return activation


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": from_input(functools.partial(nn.gelu, approximate=False)),
    "gelu_fast": from_input(functools.partial(nn.gelu, approximate=True)),
    "gelu_accurate": from_input(functools.partial(nn.gelu, approximate=True)),
    "relu": nn.relu,
    "tanh": jnp.tanh,
    "linear": lambda x: x,
}
