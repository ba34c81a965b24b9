"""The compiled steps: waveforms in, updated state and metrics, or probabilities, out."""

from collections.abc import Callable
import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import optax

from esc_jax.augment import compose, mix, waveform
from esc_jax.models import dropout
from esc_jax.models.encoder import Classifier, evaluating
from esc_jax.objectives import supervised
from esc_jax.training import optim, parallel
from esc_jax.training import state as states


def to_float(audio: jax.Array) -> jax.Array:
    """16-bit samples as float32 in [−1, 1)."""
    return audio.astype(jnp.float32) / 32768.0


def _inputs(frontend, config, classes: int, key: jax.Array, batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Augmented features and soft targets (rows, classes) of this device's part of a batch."""
    augment = config.augment
    wave_key, mix_key, spec_key, mel_key = jax.random.split(key, 4)
    if augment.mel_jitter:  # one bank of mel filters for the whole global batch
        frontend = functools.partial(frontend, key=mel_key)
    place = parallel.positions(len(batch["label"]))
    audio = compose.waveforms(augment, wave_key, place, to_float(batch["audio"]), config.data.sample_rate)
    target = supervised.targets(batch["label"], classes, config.train.label_smoothing)
    if not augment.mixup_alpha:
        return compose.spectrograms(augment, spec_key, place, frontend(audio)), target
    share, partner = compose.mixing(augment, mix_key, place, config.train.batch_size)
    blend = jax.vmap(mix.linear)
    if augment.mixup_on == "waveform":
        features = frontend(jax.vmap(mix.waveforms)(share, audio, parallel.gather(audio)[partner]))
    else:
        features = frontend(audio)
        features = blend(share, features, parallel.gather(features)[partner])
    target = blend(share, target, parallel.gather(target)[partner])
    return compose.spectrograms(augment, spec_key, place, features), target


def _loss(model: Classifier, config, params) -> Callable[..., tuple[jax.Array, tuple[jax.Array, Any]]]:
    """loss(params, batch_stats, features, target, key) → (mean loss, (share of hits, new statistics))."""
    still, whole = optim.frozen(config.optim, params), optim.frozen_modules(config.optim, params)
    pattern = re.compile(config.model.evaluating or "(?!)")  # which matches nothing

    def loss(params, batch_stats, features: jax.Array, target: jax.Array, key: jax.Array):
        # No backward pass through what is frozen.
        params = jax.tree.map(lambda p, fixed: jax.lax.stop_gradient(p) if fixed else p, params, still)
        dropout_key, path_key = jax.random.split(key)
        with evaluating(lambda path: path in whole or bool(pattern.fullmatch(path))):
            logits, updates = model.apply(
                {"params": params, "batch_stats": batch_stats},
                features,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": dropout_key, "droppath": path_key},
            )
        hits = (logits.argmax(-1) == target.argmax(-1)).astype(jnp.float32).mean()
        return supervised.loss(logits, target).mean(), (hits, updates.get("batch_stats", {}))

    return loss


def _gradients(loss, state: states.TrainState, features: jax.Array, target: jax.Array, key: jax.Array, parts: int):
    """Mean over `parts` equal parts of the rows, one after the other, of gradients and metrics, and new statistics.

    The activations of one part are in memory at a time; BatchNorm normalises each part by itself.
    """
    gradient = jax.value_and_grad(loss, has_aux=True)
    if parts == 1:
        (value, (hits, batch_stats)), grads = gradient(state.params, state.batch_stats, features, target, key)
        return grads, {"loss": value, "accuracy": hits}, batch_stats

    def add(carry, part):
        sums, batch_stats = carry
        number, features, target = part
        with dropout.part(number, parts):
            (value, (hits, batch_stats)), grads = gradient(state.params, batch_stats, features, target, key)
        return (jax.tree.map(jnp.add, sums, (grads, {"loss": value, "accuracy": hits})), batch_stats), None

    zeros = jax.tree.map(jnp.zeros_like, state.params), {"loss": jnp.zeros(()), "accuracy": jnp.zeros(())}
    rows = [x.reshape(parts, -1, *x.shape[1:]) for x in (features, target)]
    (sums, batch_stats), _ = jax.lax.scan(add, (zeros, state.batch_stats), (jnp.arange(parts), *rows))
    grads, metrics = jax.tree.map(lambda x: x / parts, sums)
    return grads, metrics, batch_stats


def train_step(
    model: Classifier, frontend, optimizer: optax.GradientTransformation, config, classes: int
) -> Callable[[states.TrainState, dict[str, jax.Array]], tuple[states.TrainState, dict[str, jax.Array]]]:
    """One supervised step, to be mapped over devices.

    Modules that the optimizer freezes whole, and those that `model.evaluating` matches, run as in evaluation.

    Args:
        model: the classifier.
        frontend: waveform → features.
        optimizer: of the parameters.
        config: the whole config.
        classes: number of classes.

    Returns:
        step(state, {"audio": (rows, time) int16, "label": (rows,)}) → (state, metrics): `loss`, `accuracy` (of the
        augmented examples, on their dominant label) and `grad_norm`, scalars, means over the global batch.
    """

    def step(state: states.TrainState, batch: dict[str, jax.Array]):
        input_key, model_key = jax.random.split(jax.random.fold_in(jax.random.key(state.seed), state.step))
        features, target = _inputs(frontend, config, classes, input_key, batch)
        loss = _loss(model, config, state.params)
        grads, metrics, batch_stats = _gradients(loss, state, features, target, model_key, config.train.accumulate)
        # Every device has the mean over its rows; the mean over devices is taken of gradients and metrics alike.
        grads, metrics = parallel.mean(grads), parallel.mean(metrics)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema is not None:
            ema = states.update_ema(ema, {"params": params, "batch_stats": batch_stats}, state.step, config.train.ema)
        metrics |= {"grad_norm": optax.global_norm(grads)}
        new = state.replace(step=state.step + 1, params=params, batch_stats=batch_stats, opt_state=opt_state, ema=ema)
        return new, metrics

    return step


def tta_views(audio: jax.Array, views: int) -> jax.Array:
    """(B, time) → (views, B, time): the clip as it is, then rotated in time by 1/views, 2/views, … of its length."""
    samples = audio.shape[-1]
    shifts = jnp.arange(views) * (samples // views)
    return jax.vmap(lambda shift: waveform.rotate(audio, shift))(shifts)


def logits_step(model: Classifier, frontend, views: int = 1) -> Callable[..., jax.Array]:
    """(variables, (B, time) int16) → (views, B, classes) logits, jitted."""

    @jax.jit
    def predict(variables, audio: jax.Array) -> jax.Array:
        waveforms = tta_views(to_float(audio), views)
        logits = model.apply(variables, frontend(waveforms.reshape(-1, waveforms.shape[-1])))
        return logits.reshape(views, len(audio), -1)

    return predict


def predict_step(model: Classifier, frontend, views: int = 1) -> Callable[..., jax.Array]:
    """(variables, (B, time) int16) → (views, B, classes) probabilities, jitted."""

    logits = logits_step(model, frontend, views)
    return jax.jit(lambda variables, audio: jax.nn.softmax(logits(variables, audio)))


def embed_step(model: Classifier, frontend, views: int = 1) -> Callable[..., jax.Array]:
    """(variables, (B, time) int16 or float) → (views, B, D) embeddings, jitted; views as in `predict_step`."""

    @jax.jit
    def embed(variables, audio: jax.Array) -> jax.Array:
        waveforms = tta_views(to_float(audio) if audio.dtype == jnp.int16 else audio, views)
        features = frontend(waveforms.reshape(-1, waveforms.shape[-1]))
        return model.apply(variables, features, method="encode").embedding.reshape(views, len(audio), -1)

    return embed
