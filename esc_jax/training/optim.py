"""The optimizer of a config: AdamW with a schedule, clipping, and a learning rate per group of parameters."""

from collections.abc import Sequence
import re

import jax
import optax

from esc_jax.training import schedules

SCHEDULES = ("one_cycle", "linear", "cosine", "constant")


class OptimError(ValueError):
    """Settings that make no optimizer. The message is one sentence."""


def path_of(path: tuple) -> str:
    """Path of a parameter as a string, `encoder/stage1_block1/conv1/kernel`."""
    return "/".join(str(getattr(k, "key", getattr(k, "idx", k))) for k in path)


def labels(params, groups: Sequence[tuple[str, float]]):
    """Tree of group numbers as strings, of the first pattern that the whole path matches; "rest" for none.

    Raises:
        OptimError: a pattern that matches no parameter, or that is not a regular expression.
    """
    try:
        patterns = [re.compile(pattern) for pattern, _ in groups]
    except re.error as error:
        raise OptimError(f"optim.groups: {error.pattern!r} is not a regular expression ({error})") from None
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
            raise OptimError(f"optim.groups: {pattern!r} matches no parameter that an earlier pattern left")
    return tree


def _decayed(params):
    """True where weight decay applies: matrices and kernels, not biases and scales."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


def schedule(config, total: int, per_epoch: int, factor: float = 1.0) -> tuple[schedules.Schedule, object]:
    """Learning rate and β₁ as functions of the step. Raises OptimError."""
    peak = config.lr * factor
    try:
        warmup = schedules.steps(config, "warmup", total, per_epoch)
    except ValueError as error:
        raise OptimError(f"optim: {error}") from None
    if config.schedule == "one_cycle":
        pct = warmup / total if warmup else 0.3
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
            matches get the learning rate times the factor, and 0 freezes them to the bit.
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

    groups = tuple((str(pattern), float(factor)) for pattern, factor in config.groups)
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    if not groups:
        return optax.chain(clip, adamw(1.0))
    tree = labels(params, groups)
    members = {str(number): adamw(factor) for number, (_, factor) in enumerate(groups)} | {"rest": adamw(1.0)}
    frozen = {str(number) for number, (_, factor) in enumerate(groups) if not factor}
    # The gradient of a frozen part must not count in the norm either.
    mute = optax.multi_transform(
        {name: optax.set_to_zero() if name in frozen else optax.identity() for name in members}, tree
    )
    return optax.chain(mute, clip, optax.multi_transform(members, tree))
