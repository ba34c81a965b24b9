"""The optimizer of a config: AdamW with a schedule, clipping, and a learning rate per group of parameters."""

from collections.abc import Sequence
import re

import jax
import optax

from esc_jax.errors import UserError
from esc_jax.training import schedules

SCHEDULES = ("one_cycle", "linear", "cosine", "constant")


class OptimError(UserError, ValueError):
    """Settings that make no optimizer. The message is one sentence."""


def path_of(path: tuple) -> str:
    """Path of a parameter as a string, `encoder/stage1_block1/conv1/kernel`."""
    return "/".join(str(getattr(k, "key", getattr(k, "idx", k))) for k in path)


def _pairs(value, key: str) -> tuple[tuple[str, float], ...]:
    """The pairs of `groups` or `unfreeze`. Raises OptimError where they are none."""
    try:
        return tuple((str(pattern), float(number)) for pattern, number in value)
    except (TypeError, ValueError):
        raise OptimError(
            f"optim.{key}={value!r} must be pairs of a regular expression and a number, as (('encoder/.*', 0.1),)"
        ) from None


def labels(params, groups: Sequence[tuple[str, float]], key: str = "groups"):
    """Tree of group numbers as strings, of the first pattern that the whole path matches; "rest" for none.

    Raises:
        OptimError: a pattern that matches no parameter, or that is not a regular expression.
    """
    try:
        patterns = [re.compile(pattern) for pattern, _ in groups]
    except re.error as error:
        raise OptimError(f"optim.{key}: {error.pattern!r} is not a regular expression ({error})") from None
    used = set()

    def label(path, leaf) -> str:
        del leaf
        for number, pattern in enumerate(patterns):
            if pattern.fullmatch(path_of(path)):
                used.add(number)
                return str(number)
        return "rest"

    tree = jax.tree_util.tree_map_with_path(label, params)
    for number, (pattern, _) in enumerate(groups):
        if number not in used:
            raise OptimError(f"optim.{key}: {pattern!r} matches no parameter that an earlier pattern left")
    return tree


def frozen(config, params):
    """Tree of bools: which parameters a group with factor 0 keeps as they are."""
    if not config.groups:
        return jax.tree.map(lambda _: False, params)
    still = {str(number) for number, (_, factor) in enumerate(config.groups) if not float(factor)}
    return jax.tree.map(lambda label: label in still, labels(params, config.groups))


def frozen_modules(config, params) -> frozenset[str]:
    """Paths of the modules that are frozen whole (`encoder/block3`)."""
    moving, seen = set(), set()
    for path, still in jax.tree_util.tree_leaves_with_path(frozen(config, params)):
        parts = path_of(path).split("/")[:-1]
        modules = {"/".join(parts[: i + 1]) for i in range(len(parts))}
        seen |= modules
        moving |= set() if still else modules
    return frozenset(seen - moving)


def _depth(path: str) -> tuple[int, ...]:
    """Where in its encoder a parameter lies, in an order: the input, its numbered layers or blocks, what follows."""
    part = path.split("/")[1]
    if re.match(r"(stage|block|layer)_?\d", part):
        return (1, *map(int, re.findall(r"\d+", part)))
    return (2,) if part in ("last", "top", "layer_weights") else (0,)


def layer_factors(params, decay: float):
    """Tree of factors of the learning rate: decayᵏ for the k-th layer of the encoder from its output, 1 for the head.

    The layer next to the head has k = 1 (Bao et al., "BEiT", ICLR 2022); the embedding is the last of all.
    """
    paths = jax.tree_util.tree_map_with_path(lambda path, _: path_of(path), params)
    order = sorted({_depth(path) for path in jax.tree.leaves(paths) if path.startswith("encoder/")})

    def factor(path: str) -> float:
        return decay ** (len(order) - order.index(_depth(path))) if path.startswith("encoder/") else 1.0

    return jax.tree.map(factor, paths)


def _decayed(params):
    """True where weight decay applies: matrices and kernels, not biases and scales."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


def schedule(config, total: int, per_epoch: int, factor: float = 1.0) -> tuple[schedules.Schedule, object]:
    """Learning rate and β₁ as functions of the step. Raises OptimError."""
    peak = config.lr * factor
    warmup = schedules.steps(config, "warmup", total, per_epoch)
    if warmup > total:
        raise OptimError(f"optim: the rate rises for {warmup} steps, and the training has {total}")
    if config.schedule == "one_cycle":
        pct = warmup / total
        rate = schedules.one_cycle(peak, total, pct, config.div, config.final_div)
        return rate, schedules.one_cycle_momentum(total, pct) if config.cycle_momentum else config.b1
    made = {"linear": schedules.linear, "cosine": schedules.cosine, "constant": schedules.constant}
    if config.schedule not in made:
        raise OptimError(f"optim.schedule={config.schedule}: the schedules are {', '.join(SCHEDULES)}")
    return made[config.schedule](peak, total, warmup), config.b1


def _promoting(transform: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same; optax raises β₁ to an integer power, which strict promotion refuses."""

    def update(updates, state, params=None):
        with jax.numpy_dtype_promotion("standard"):
            return transform.update(updates, state, params)

    return optax.GradientTransformation(transform.init, update)


def build(config, params, total: int, per_epoch: int) -> optax.GradientTransformation:
    """AdamW as `config.optim` describes it.

    Args:
        config: `optim` of a config. `groups` is a sequence of (regular expression, factor): parameters whose path
            matches get the learning rate times the factor, and 0 freezes them to the bit. `layer_decay` (0 is off)
            multiplies it by `layer_factors`. `unfreeze` is a sequence of (regular expression, epoch): parameters
            that stay as they are until that many are over, while the optimizer already averages their gradients.
        params: the parameters, for their paths.
        total: steps of the run.
        per_epoch: steps of an epoch.

    Raises:
        OptimError: in one sentence.
    """

    def adamw(factor: float) -> optax.GradientTransformation:
        if not factor:
            return optax.set_to_zero()
        rate, b1 = schedule(config, total, per_epoch, factor)
        rest = {"b2": config.b2, "eps": config.eps, "weight_decay": config.weight_decay, "mask": _decayed}
        if not callable(b1):
            return _promoting(optax.adamw(rate, b1=b1, **rest))
        cycled = optax.inject_hyperparams(optax.adamw, static_args=("mask", "b2", "eps", "weight_decay"))
        return _promoting(cycled(learning_rate=rate, b1=b1, **rest))

    groups = _pairs(config.groups, "groups")
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    if not groups:
        chain = [clip, adamw(1.0)]
    else:
        members = {str(number): adamw(factor) for number, (_, factor) in enumerate(groups)} | {"rest": adamw(1.0)}
        chain = [clip, optax.multi_transform(members, labels(params, groups))]
    # What follows scales finished updates, weight decay included: the same as scaling the learning rate.
    if config.layer_decay:
        factors = layer_factors(params, config.layer_decay)
        chain.append(optax.stateless(lambda updates, _: jax.tree.map(lambda u, f: u * f, updates, factors)))
    if config.unfreeze:
        gates = _pairs(config.unfreeze, "unfreeze")
        opened = {
            str(number): optax.scale_by_schedule(lambda n, at=round(epoch * per_epoch): (n >= at).astype("float32"))
            for number, (_, epoch) in enumerate(gates)
        }
        chain.append(optax.multi_transform(opened | {"rest": optax.identity()}, labels(params, gates, "unfreeze")))
    return optax.chain(*chain)
