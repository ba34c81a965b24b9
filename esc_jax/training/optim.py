"""The optimizer of a config, with a schedule, clipping, and a learning rate per group of parameters."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import copy
import math
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from esc_jax.errors import UserError
from esc_jax.extensions import Registry
from esc_jax.training import schedules

_SMALL = 4096  # elements of an array that is concatenated with others for its norm
# Key of `optim`: (lowest, highest) allowed.
RANGES: dict[str, tuple[float, float]] = {
    "lr": (0, 100),
    "lr_examples": (0, 1 << 20),
    "weight_decay": (0, 10),
    "b1": (0, 0.9999),
    "b2": (0, 0.999999),
    "eps": (1e-12, 1),
    "div_factor": (1, 1e9),
    "final_div_factor": (1, 1e12),
    "clip_norm": (0, 1e6),
    "sam_rho": (0, 10),
    "layer_decay": (0, 1),
    "warmup_steps": (-1, 1 << 40),
    "warmup_epochs": (-1, 1 << 20),
    "warmup_percent": (-1, 100),
}


def defaults() -> dict[str, Any]:
    """The `optim` part of a config."""
    return {
        "name": "adamw",  # key of OPTIMIZERS
        "lr": 1e-3,
        "lr_examples": 0,  # lr is for batches of so many examples, and grows with the batch; 0: for any batch
        "weight_decay": 0.01,
        "b1": 0.9,  # used where cycle_momentum does not apply
        "b2": 0.999,
        "eps": 1e-8,
        "clip_norm": 0.0,  # 0: no clipping
        "sam_rho": 0.0,  # sharpness-aware minimization: distance ρ at which the gradient is taken; 0: off
        "schedule": "one_cycle",
        "warmup_steps": -1,  # the first of these three that is not negative is used; none: no warm-up
        "warmup_epochs": -1.0,
        "warmup_percent": 30.0,
        "div_factor": 25.0,  # one_cycle: peak rate over initial rate
        "final_div_factor": 1e4,  # one_cycle: initial rate over final rate
        "cycle_momentum": True,  # one_cycle: β₁ decreases from 0.95 to 0.85 while the rate rises, and increases again
        "groups": (),  # ((regular expression of parameter paths, factor of lr; 0 freezes), …)
        "layer_decay": 0.0,  # factor of lr from each layer of the encoder to the one before it; 0: off
        "unfreeze": (),  # ((regular expression of parameter paths, epochs that they stay frozen), …)
    }


def for_batch(config: Any, batch_size: int) -> Any:
    """`optim` of a config with the learning rate of a batch size: lr · batch size / `lr_examples`.

    The linear rule of Goyal et al., "Accurate, large minibatch SGD: training ImageNet in 1 hour", 2017.
    """
    if not config.lr_examples:
        return config
    scaled = copy.deepcopy(config)
    scaled.lr, scaled.lr_examples = config.lr * batch_size / config.lr_examples, 0
    return scaled


class OptimError(UserError, ValueError):
    """Invalid optimizer settings. The message is one sentence."""


@contextlib.contextmanager
def prefixed_errors(prefix: str) -> Iterator[None]:
    """Context in which the keys in the messages of an OptimError get a prefix: that of their stage, "pretrain."."""
    try:
        yield
    except OptimError as error:
        raise OptimError(f"{prefix}{error}") from None


def path_of(path: tuple) -> str:
    """Path of a parameter as a string, `encoder/stage1_block1/conv1/kernel`."""
    return "/".join(str(getattr(k, "key", getattr(k, "idx", k))) for k in path)


def _pairs(value: Any, key: str) -> tuple[tuple[str, float], ...]:
    """The pairs of `groups` or `unfreeze`. Raises OptimError for anything else."""
    try:
        pairs = tuple((str(pattern), float(number)) for pattern, number in value)
        if not all(0 <= number < math.inf for _, number in pairs):
            raise ValueError
        return pairs
    except (TypeError, ValueError):
        raise OptimError(
            f"optim.{key}={value!r} must be pairs of a regular expression and a number of at least 0, as"
            " (('encoder/.*', 0.1),)"
        ) from None


def check(config: Any) -> None:
    """Checks what needs no parameters: the names of optimizer and schedule, and the forms of `groups` and `unfreeze`.

    Args:
        config: `optim` of a config.

    Raises:
        OptimError: in one sentence.
    """
    if config.name not in OPTIMIZERS:
        raise OptimError(f"optim.name={config.name}: the optimizers are {', '.join(OPTIMIZERS)}")
    if config.schedule not in schedules.SCHEDULES:
        raise OptimError(f"optim.schedule={config.schedule}: the schedules are {', '.join(schedules.SCHEDULES)}")
    for key in ("groups", "unfreeze"):
        _compiled(_pairs(config[key], key), key)


def _compiled(groups: Sequence[tuple[str, float]], key: str) -> list[re.Pattern]:
    """The patterns of groups. Raises OptimError for one that is not a regular expression."""
    try:
        return [re.compile(pattern) for pattern, _ in groups]
    except re.error as error:
        raise OptimError(f"optim.{key}: {error.pattern!r} is not a regular expression ({error})") from None


def labels(params: Any, groups: Sequence[tuple[str, float]], key: str = "groups") -> Any:
    """Tree of group numbers as strings, of the first pattern that the whole path matches; "rest" for none.

    Raises:
        OptimError: a pattern that matches no parameter, or that is not a regular expression.
    """
    patterns = _compiled(groups, key)
    used = set()

    def label(path: tuple, leaf: Any) -> str:
        del leaf
        for number, pattern in enumerate(patterns):
            if pattern.fullmatch(path_of(path)):
                used.add(number)
                return str(number)
        return "rest"

    tree = jax.tree_util.tree_map_with_path(label, params)
    for number, (pattern, _) in enumerate(groups):
        if number not in used:
            raise OptimError(
                f"optim.{key}: {pattern!r} matches no parameter, or only ones that an earlier pattern matches"
            )
    return tree


def frozen(config: Any, params: Any) -> Any:
    """Tree of bools: which parameters are frozen by a group with factor 0."""
    if not config.groups:
        return jax.tree.map(lambda _: False, params)
    zero = {str(number) for number, (_, factor) in enumerate(config.groups) if not float(factor)}
    return jax.tree.map(lambda label: label in zero, labels(params, config.groups))


def frozen_modules(config: Any, params: Any) -> frozenset[str]:
    """Paths of modules all of whose parameters are frozen (`encoder/block3`)."""
    trained: set[str] = set()
    all_modules: set[str] = set()
    for path, is_frozen in jax.tree_util.tree_leaves_with_path(frozen(config, params)):
        parts = path_of(path).split("/")[:-1]
        modules = {"/".join(parts[: i + 1]) for i in range(len(parts))}
        all_modules |= modules
        trained |= set() if is_frozen else modules
    return frozenset(all_modules - trained)


def _depth(path: str) -> tuple[int, ...]:
    """Position of a parameter in its encoder, as a sort key: input, numbered stages or blocks, layers, output."""
    part = path.split("/")[1]
    if re.match(r"(stage|block|layer)_?\d", part):
        return (1, int(part.startswith("layer")), *map(int, re.findall(r"\d+", part)))
    return (2,) if part in ("last", "top", "layer_weights") else (0,)


def layer_factors(params: Any, decay: float) -> Any:
    """Tree of factors of the learning rate: decayᵏ for the k-th layer of the encoder from its output, 1 for the head.

    The layer next to the head has k = 1, the embedding has the largest k (Bao et al., "BEiT", ICLR 2022).
    """
    paths = jax.tree_util.tree_map_with_path(lambda path, _: path_of(path), params)
    order = sorted({_depth(path) for path in jax.tree.leaves(paths) if path.startswith("encoder/")})

    def factor(path: str) -> float:
        return decay ** (len(order) - order.index(_depth(path))) if path.startswith("encoder/") else 1.0

    return jax.tree.map(factor, paths)


def decayed(params: Any) -> Any:
    """Tree of bools: weight decay applies to matrices and kernels, not to biases and scales."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


def adamw(config: Any, rate: schedules.Schedule, b1: Any) -> optax.GradientTransformation:
    """AdamW (Loshchilov and Hutter, ICLR 2019).

    Args:
        config: `optim` of a config.
        rate: learning rate as a function of the step.
        b1: β₁, a number or a function of the step (`cycle_momentum`).
    """
    rest = {"b2": config.b2, "eps": config.eps, "weight_decay": config.weight_decay, "mask": decayed}
    if not callable(b1):
        return optax.adamw(rate, b1=b1, **rest)
    cycled = optax.inject_hyperparams(optax.adamw, static_args=("mask", "b2", "eps", "weight_decay"))
    return cycled(learning_rate=rate, b1=b1, **rest)


# By name: (optim of a config, rate, β₁) → transformation, as `adamw`.
OPTIMIZERS: Registry[Callable[[Any, schedules.Schedule, Any], optax.GradientTransformation]] = Registry(
    "esc_jax.optimizers", {"adamw": adamw}
)


class Lengths(NamedTuple):
    """Lengths of a training in steps: of the whole, and of the warm-up."""

    total: schedules.Steps
    warmup: schedules.Steps


def _lengths(config: Any, total: int, per_epoch: int) -> Lengths:
    """Lengths of a training. Raises OptimError for a warm-up that is longer than the training."""
    warmup = schedules.warmup_steps(config, total, per_epoch)
    if warmup > total:
        raise OptimError(f"optim: the warm-up has {warmup} steps, but the training has only {total}")
    return Lengths(total, warmup)


def _schedule(config: Any, lengths: Lengths, factor: float = 1.0) -> tuple[schedules.Schedule, Any]:
    """Learning rate and β₁ as functions of the step. Raises OptimError."""
    peak = config.lr * factor
    if config.schedule == "one_cycle":
        rate = schedules.one_cycle(peak, *lengths, config.div_factor, config.final_div_factor)
        return rate, schedules.one_cycle_momentum(*lengths) if config.cycle_momentum else config.b1
    return schedules.SCHEDULES[config.schedule](peak, *lengths), config.b1


def schedule(config: Any, total: int, per_epoch: int) -> schedules.Schedule:
    """Learning rate as a function of the step. Raises OptimError."""
    return _schedule(config, _lengths(config, total, per_epoch))[0]


def _promoting(transform: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same under standard dtype promotion: optax raises β₁ to an integer power, which strict promotion refuses."""

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        with jax.numpy_dtype_promotion("standard"):
            return transform.update(updates, state, params)

    return optax.GradientTransformation(transform.init, update)


def global_norm(tree: Any) -> jax.Array:
    """√(Σ x²) over all elements of a tree, as `optax.global_norm`.

    Arrays of less than a few thousand elements are concatenated first: on a GPU, each sum takes two kernels.
    """
    small, sums = [], []
    for leaf in jax.tree.leaves(tree):
        leaf = leaf.astype(jnp.float32)
        if leaf.size < _SMALL:
            small.append(leaf.reshape(-1))
        else:
            sums.append(jnp.sum(jnp.square(leaf)))
    if small:
        sums.append(jnp.sum(jnp.square(jnp.concatenate(small))))
    return jnp.sqrt(sum(sums, jnp.float32(0)))


def _clip(max_norm: float) -> optax.GradientTransformation:
    """As `optax.clip_by_global_norm`: updates of a larger norm are scaled to it."""

    def clip(updates: Any, params: Any) -> Any:
        del params
        norm = global_norm(updates)
        return jax.tree.map(lambda u: jnp.where(norm < max_norm, u, (u / norm.astype(u.dtype)) * max_norm), updates)

    return optax.stateless(clip)


class OptimizerState(NamedTuple):
    """State of `build`. The lengths are part of it, so that one compiled program serves trainings of any length."""

    lengths: Lengths
    inner: Any


def build(config: Any, params: Any, total: int, per_epoch: int) -> optax.GradientTransformation:
    """The optimizer that `config.optim` describes.

    Args:
        config: `optim` of a config. `groups` is a sequence of (regular expression, factor): parameters whose path
            matches get the learning rate times the factor, and 0 freezes them to the bit. `layer_decay` (0 is off)
            multiplies it by `layer_factors`. `unfreeze` is a sequence of (regular expression, epochs): parameters
            that do not change for so many epochs, while the optimizer already averages their gradients.
        params: the parameters, for their paths.
        total: steps of the run.
        per_epoch: steps of an epoch.

    Raises:
        OptimError: in one sentence.
    """
    lengths = _lengths(config, total, per_epoch)

    def init(params: Any) -> OptimizerState:
        inner = _chain(config, params, lengths, per_epoch).init(params)
        return OptimizerState(Lengths(*map(jnp.float32, lengths)), inner)

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        updates, inner = _chain(config, params, state.lengths, per_epoch).update(updates, state.inner, params)
        return updates, OptimizerState(state.lengths, inner)

    _chain(config, params, lengths, per_epoch)  # raises OptimError
    return optax.GradientTransformation(init, update)


def _chain(config: Any, params: Any, lengths: Lengths, per_epoch: int) -> optax.GradientTransformation:
    """As `build`, for a training of these lengths."""

    def member(factor: float) -> optax.GradientTransformation:
        if not factor:
            return optax.set_to_zero()
        return _promoting(OPTIMIZERS[config.name](config, *_schedule(config, lengths, factor)))

    groups = _pairs(config.groups, "groups")
    clip = _clip(config.clip_norm) if config.clip_norm else optax.identity()
    if not groups:
        chain = [clip, member(1.0)]
    else:
        members = {str(number): member(factor) for number, (_, factor) in enumerate(groups)} | {"rest": member(1.0)}
        chain = [clip, optax.multi_transform(members, labels(params, groups))]
    # The following transforms scale finished updates, weight decay included. This equals scaling the learning rate.
    if config.layer_decay:
        factors = layer_factors(params, config.layer_decay)
        chain.append(optax.stateless(lambda updates, _: jax.tree.map(lambda u, f: u * f, updates, factors)))
    if config.unfreeze:
        pairs = _pairs(config.unfreeze, "unfreeze")
        gates = {
            str(number): optax.scale_by_schedule(lambda n, at=round(epoch * per_epoch): (n >= at).astype("float32"))
            for number, (_, epoch) in enumerate(pairs)
        }
        chain.append(optax.multi_transform(gates | {"rest": optax.identity()}, labels(params, pairs, "unfreeze")))
    return optax.chain(*chain)
