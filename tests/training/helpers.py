"""A training of a few steps, and a small model with padding and dropout, for tests of what the step does."""

import jax
import numpy as np

from esc_jax import build
from esc_jax import config as configs
from esc_jax.data import pipeline
from esc_jax.training import optim
from esc_jax.training import state as states
from esc_jax.training import step as steps


def hubert(head="linear"):
    """Transformer layers with dropout; no running statistics."""
    config = configs.defaults("hubert", head, "raw")
    config.data.update(sample_rate=16_000, clip_s=0.5)
    config.model.encoder.update(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, conv_dim=(8, 8),
        conv_kernel=(10, 5), conv_stride=(8, 8), num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2,
        hidden_dropout=0.5,
    )  # fmt: skip
    config.train.update(batch_size=8)
    return config


def train(config, clips, count, devices=1):
    """(variables before, state after, losses) of `count` steps; two are an epoch."""
    model, frontend, variables = build.build(config, len(clips.classes))
    optimizer = optim.build(config.optim, variables["params"], total=count, per_epoch=2)
    before = jax.tree.map(np.array, variables)  # a copy: the state's own is donated
    state = devices.replicate(states.create(before, optimizer, ema=config.train.ema > 0), devices)
    step = devices.pmap_step(steps.train_step(model, frontend, optimizer, config, len(clips.classes)), devices)
    batches = pipeline.train_batches(clips, range(len(clips)), config.train.batch_size, seed=0)
    losses = []
    for _ in range(count):
        state, metrics = step(state, next(batches))
        losses.append(float(metrics["loss"]))
    return before, state, losses
