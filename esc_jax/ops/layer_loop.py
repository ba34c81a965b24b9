"""Equal transformer layers: one after the other, or as a loop over their stacked parameters.

XLA compiles each of N layers that follow one another anew, but the body of a loop once. The loop needs the parameters
of all layers in one array. They stay separate parameters `layer_0` … `layer_N−1`, for checkpoints and optimizers, and
are stacked within the program. Random draws are those of the other form; values and gradients differ by rounding.

The loop is used on GPU and TPU, for at least four layers that are trained alike. The copies of 90 M parameters into the
stack, and of their gradients out of it, read and write 0.7 GB each: by the bandwidth of an H100, 0.2 ms of a step. On
CPU they would cost more, and XLA computes the operations of a loop with fewer threads.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import contextvars
import dataclasses
import functools
import itertools
from typing import Any

from flax import linen as nn
from flax.core.scope import LazyRng, Scope
import jax
import jax.numpy as jnp

from esc_jax.ops.dropout import layer_drop
from esc_jax.ops.eval_mode import in_eval_mode
from esc_jax.ops.transformer import DROPOUTS, TransformerLayer

_FEWEST_LAYERS = 4
_LOOP: contextvars.ContextVar[bool | None] = contextvars.ContextVar("layer_loop", default=None)


@contextlib.contextmanager
def use_loop(value: bool) -> Iterator[None]:
    """Context in which programs are traced with the loop, or without it, on every platform.

    Args:
        value: whether the loop is used where it can be.
    """
    token = _LOOP.set(value)
    try:
        yield
    finally:
        _LOOP.reset(token)


def apply_layers(
    parent: nn.Module,
    layer: TransformerLayer,
    x: jax.Array,
    bias: jax.Array | None = None,
    padding: jax.Array | None = None,
    *,
    train: bool,
    remat: bool = False,
    drop_rates: Sequence[float] = (),
    gradient: float = 1.0,
    collect: bool = False,
) -> list[jax.Array]:
    """Applies the layers `layer_0` … of a module, with LayerDrop; must be called in its compact method.

    While the parameters are initialized or intermediates are collected, the layers follow one another.

    Args:
        parent: the module. Its PRNG stream "droppath" draws which examples skip a layer.
        layer: unbound layer (`parent=None`) with the fields of all; `layer.layers` is their number.
        x: (B, T, C).
        bias, padding, train: as for `TransformerLayer`.
        remat: recompute the layers in the backward pass.
        drop_rates: rate at which an example skips a layer in training, for each layer; empty: none is skipped.
        gradient: factor on the gradient at the input of each layer.
        collect: return the outputs of all layers.

    Returns:
        The output of the last layer alone, or the outputs of all layers; nothing if there is no layer.
    """
    drops = [(parent.make_rng("droppath"), rate) for rate in drop_rates] if train else []
    shared = _Shared(layer, bias, padding, train, remat, gradient)
    outputs = []
    for numbers in _parts(parent, layer, train):
        part = drops[numbers.start : numbers.stop]
        if len(numbers) < _FEWEST_LAYERS:
            outputs += _in_sequence(parent, shared, numbers, x, part)
        else:
            outputs += _in_loop(parent, shared, numbers, x, part, collect)
        x = outputs[-1]
    return outputs if collect else outputs[-1:]


@dataclasses.dataclass(frozen=True)
class _Shared:
    """What the layers have in common; see `apply_layers`."""

    layer: TransformerLayer
    bias: jax.Array | None
    padding: jax.Array | None
    train: bool
    remat: bool
    gradient: float


def _parts(parent: nn.Module, layer: TransformerLayer, train: bool) -> list[range]:
    """Numbers of the layers that may share a loop. A range of fewer than `_FEWEST_LAYERS` layers has no loop."""
    each = [range(number, number + 1) for number in range(layer.layers)]
    collected = parent.is_mutable_collection("params") or parent.is_mutable_collection("intermediates")
    draws = _draws(layer, train) and not parent.has_rng("dropout")
    if not _is_used() or layer.layers < _FEWEST_LAYERS or collected or draws:
        return each
    # Layers that are frozen run in evaluation mode and need no backward pass: they do not share the loop of others.
    modules = [*_modules(parent.get_variable("params", "layer_0")), *DROPOUTS]

    def mode(number: int) -> tuple[bool, ...]:
        return tuple(in_eval_mode("/".join((*parent.path, f"layer_{number}", *module))) for module in modules)

    parts = []
    for _, group in itertools.groupby(range(layer.layers), mode):
        numbers = list(group)
        alike = range(numbers[0], numbers[-1] + 1)
        parts += [alike] if len(alike) >= _FEWEST_LAYERS else each[alike.start : alike.stop]
    return parts


def _is_used() -> bool:
    """Whether the form of the program that is being traced is the loop."""
    value = _LOOP.get()
    if value is not None:
        return value
    # Not `lax.platform_dependent`: it would keep what the backward pass of either form needs.
    device: Any = getattr(jax.config, "jax_default_device", None) or jax.devices()[0]
    return (device if isinstance(device, str) else device.platform) != "cpu"


def _draws(layer: TransformerLayer, train: bool) -> bool:
    """Whether a layer draws dropout masks."""
    return train and any((layer.dropout, layer.attention_dropout, layer.activation_dropout))


def _modules(params: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of a module and of the modules with parameters in it."""
    yield path
    for name, value in params.items():
        if isinstance(value, Mapping):
            yield from _modules(value, (*path, name))


def _in_sequence(
    parent: nn.Module, shared: _Shared, numbers: range, x: jax.Array, drops: Sequence[tuple[jax.Array, float]]
) -> list[jax.Array]:
    """The outputs of layers that follow one another."""
    kind: Any = nn.remat(TransformerLayer, static_argnums=(4,)) if shared.remat else TransformerLayer
    fields = {f.name: getattr(shared.layer, f.name) for f in dataclasses.fields(shared.layer) if f.init}
    outputs = []
    for position, number in enumerate(numbers):
        x = _scaled(x, shared.gradient)
        layer = kind(**fields | {"name": f"layer_{number}", "parent": parent})
        y = layer(x, shared.bias, shared.padding, shared.train)
        x = layer_drop(*drops[position], x, y) if drops else y
        outputs.append(x)
    return outputs


def _in_loop(
    parent: nn.Module,
    shared: _Shared,
    numbers: range,
    x: jax.Array,
    drops: Sequence[tuple[jax.Array, float]],
    collect: bool,
) -> list[jax.Array]:
    """The output of the last of some layers in a loop, or the outputs of all."""
    params: list[Any] = [parent.get_variable("params", f"layer_{number}") for number in numbers]
    dropped: tuple[jax.Array, jax.Array] | None = None
    if drops:
        dropped = jnp.stack([key for key, _ in drops]), jnp.asarray([rate for _, rate in drops], jnp.float32)
    # The path of the first layer: `eval_mode` selects modules by their path, and treats these layers alike.
    path = (*parent.path, f"layer_{numbers.start}")

    def body(x: jax.Array, inputs: Any) -> tuple[jax.Array, jax.Array | None]:
        params, keys, drop = inputs
        layer = shared.layer.clone(parent=Scope({"params": params}, path=path))
        x = _scaled(x, shared.gradient)
        y = layer(x, shared.bias, shared.padding, shared.train, keys)
        y = y if drop is None else layer_drop(drop[0], drop[1], x, y)
        return y, y if collect else None

    if shared.remat:
        body = jax.checkpoint(body, prevent_cse=False)  # which a loop does not need
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
    keys = _dropout_keys(parent, numbers) if _draws(shared.layer, shared.train) else None
    last, outputs = jax.lax.scan(body, x, (stacked, keys, dropped))
    return [last] if outputs is None else list(outputs)


def _dropout_keys(parent: nn.Module, numbers: range) -> jax.Array:
    """(layers, dropout layers of each) keys, as Flax derives them from the paths of layers that follow one another."""
    assert parent.scope is not None
    stream = parent.scope.rngs["dropout"]
    keys = [
        [LazyRng.create(stream, f"layer_{number}", *path, 1).as_jax_rng() for path in DROPOUTS] for number in numbers
    ]
    return jnp.stack([jnp.stack(row) for row in keys])


def _scaled(x: jax.Array, factor: float) -> jax.Array:
    return x if factor == 1 else scale_gradient(x, factor)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def scale_gradient(x: jax.Array, factor: float) -> jax.Array:
    """Identity whose gradient is multiplied by `factor`."""
    return x


scale_gradient.defvjp(lambda x, factor: (x, None), lambda factor, _, gradient: (factor * gradient,))
