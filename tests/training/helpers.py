"""A training of a few steps, and a small model with padding and dropout, for tests of the training step."""

import functools

import jax
import numpy as np

from esc_jax import config as configs
from esc_jax.data import pipeline
from esc_jax.models import model as models
from esc_jax.objectives.supervised import Supervised
from esc_jax.runtime import devices as parallel
from esc_jax.tasks import registry as tasks
from esc_jax.training import optim
from esc_jax.training import state as states
from esc_jax.training import step as steps


def hubert(head="linear"):
    """Config of transformer layers with dropout; no running statistics."""
    config = configs.defaults("hubert", head, "raw")
    config.data.update(sample_rate=16_000, clip_s=0.5)
    config.model.encoder.update(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, conv_dim=(8, 8),
        conv_kernel=(10, 5), conv_stride=(8, 8), num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2,
        hidden_dropout=0.5,
    )  # fmt: skip
    config.train.update(batch_size=8)
    return config


def resnet():
    """Config of a ResNet of two blocks, for clips of half a second."""
    config = configs.defaults("resnet")
    config.data.update(sample_rate=16_000, clip_s=0.5)
    config.frontend.update(n_fft=512, hop=256, mels=16)
    config.model.encoder.update(stage_sizes=(1, 1), width=8)
    return config


def train(config, clips, count, devices=1):
    """(variables before, state after, losses) of `count` supervised steps; an epoch is two steps."""
    model = models.create(config, clips.classes, config.seed)
    objective = Supervised(config, model, tasks.get("single_label"))
    optimizer = optim.build(config.optim, model.variables["params"], total=count, per_epoch=2)
    options = {"accumulate": config.train.accumulate, "eval_mode": config.model.eval_mode, "ema": config.train.ema}
    before = jax.tree.map(np.array, model.variables)  # a copy: the variables of the state are donated
    state = states.create(before, optimizer, ema=config.train.ema > 0)
    state, lines = run_steps(objective, optimizer, config.optim, state, clips, count, devices, **options)
    return before, state, [line["loss"] for line in lines]


def train_objective(config, objective, model, clips, count, devices=1):
    """(state after, metrics of each step) of `count` steps of an objective, from the weights of a model."""
    optimizer = optim.build(config.optim, model.variables["params"], total=count, per_epoch=2)
    state = states.create(jax.tree.map(np.array, model.variables), optimizer, ema=False)
    return run_steps(objective, optimizer, config.optim, state, clips, count, devices)


def run_steps(objective, optimizer, optim_config, state, clips, count, devices=1, batch_size=8, **options):
    """(state after, metrics of each step) of `count` steps of an objective, on the first devices."""
    step = steps.train_step(objective, optimizer, optim_config, **options)
    step = functools.partial(
        parallel.pmap_step(step, devices), constants=parallel.replicate(objective.constants, devices)
    )
    state = parallel.replicate(state, devices)
    batches = pipeline.train_batches(clips, range(len(clips)), batch_size, seed=0)
    lines = []
    for _ in range(count):
        state, metrics = step(state, next(batches))
        lines.append({name: float(value) for name, value in metrics.items()})
    return state, lines
