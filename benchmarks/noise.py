"""One call of a training step, or of prediction, of a config: clips of noise, weights drawn at random, 50 classes."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from esc_jax import build
from esc_jax.runtime import devices
from esc_jax.training import optim
from esc_jax.training import state as states
from esc_jax.training import step as steps

CLASSES = 50


def _clips(config) -> dict[str, np.ndarray]:
    """A batch of `train.batch_size`, as the input pipeline gives it."""
    rng = np.random.default_rng(0)
    rows, samples = config.train.batch_size, round(config.data.clip_s * config.data.sample_rate)
    audio = (3000 * rng.standard_normal((rows, samples))).astype(np.int16)
    return {"audio": audio, "label": rng.integers(0, CLASSES, rows).astype(np.int32)}


def _count(variables) -> int:
    return sum(p.size for p in jax.tree.leaves(variables["params"]))


def training(config) -> tuple[Callable[[], Any], int]:
    """A function that makes a step and returns what to wait for, and the number of parameters."""
    model, frontend, variables = build.build(config, CLASSES)
    optimizer = optim.build(config.optim, variables["params"], total=1000, per_epoch=10)
    step = devices.pmap_step(steps.train_step(model, frontend, optimizer, config, CLASSES))
    # Where the step will leave it: from elsewhere, the second call would compile again.
    state = devices.replicate(states.create(variables, optimizer, ema=config.train.ema > 0))
    batch, parameters = _clips(config), _count(variables)

    def once():
        nonlocal state
        state, metrics = step(state, batch)
        return state, metrics

    return once, parameters


def prediction(config) -> tuple[Callable[[], Any], int]:
    """The same of the forward pass to probabilities."""
    model, frontend, variables = build.build(config, CLASSES)
    predict, audio = steps.predict_step(model, frontend), _clips(config)["audio"]
    return lambda: predict(variables, audio), _count(variables)
