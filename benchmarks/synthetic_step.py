"""Training steps and predictions of any config on noise, with random weights and 50 classes."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from esc_jax.models import model as models
from esc_jax.models.model import Model
from esc_jax.objectives.supervised import Supervised
from esc_jax.runtime import devices
from esc_jax.tasks import registry as tasks
from esc_jax.training import optim
from esc_jax.training import state as states
from esc_jax.training import step as steps

CLASSES = [f"class {number}" for number in range(50)]


def batch_of(config: Any) -> dict[str, np.ndarray]:
    """A batch of `train.batch_size` clips of noise in the format of `pipeline.train_batches`."""
    rng = np.random.default_rng(0)
    rows, samples = config.train.batch_size, round(config.data.clip_s * config.data.sample_rate)
    audio = (3000 * rng.standard_normal((rows, samples))).astype(np.int16)
    return {"audio": audio, "label": rng.integers(0, len(CLASSES), rows).astype(np.int32)}


def random_model(config: Any) -> Model:
    """The model of a config with random weights."""
    return models.create(config, CLASSES)


def model_of_shapes(config: Any) -> Model:
    """The model of a config whose weights are `jax.ShapeDtypeStruct`."""
    model, initialize = models.abstract(config, CLASSES)
    return model.with_variables(jax.eval_shape(initialize, jax.random.key(0)))


def supervised_step(config: Any, model: Model, optimizer: Any) -> steps.TrainStep:
    """The supervised training step of a config, not yet mapped over devices."""
    train = config.train
    return steps.train_step(
        Supervised(config, model, tasks.get("single_label")),
        optimizer,
        config.optim,
        ema=train.ema,
        accumulate=train.accumulate,
        eval_mode=config.model.eval_mode,
    )


def train_call(config: Any) -> tuple[Callable[[], Any], int]:
    """A function that executes one training step and returns its output, and the number of parameters."""
    model = random_model(config)
    optimizer = optim.build(config.optim, model.variables["params"], total=1000, per_epoch=10)
    step = devices.pmap_step(supervised_step(config, model, optimizer))
    # Placed as the step returns it: with another placement, the second call would compile again.
    state = devices.replicate(states.create(model.variables, optimizer, ema=config.train.ema > 0))
    batch, parameters = batch_of(config), model.parameter_count

    def call() -> Any:
        nonlocal state
        state, metrics = step(state, batch)
        return state, metrics

    return call, parameters


def predict_call(config: Any) -> tuple[Callable[[], Any], int]:
    """The same for a forward pass to probabilities."""
    model = random_model(config)
    predict, audio = steps.predict_step(model, tasks.get("single_label")), batch_of(config)["audio"]
    return lambda: predict(model.variables, audio), model.parameter_count
