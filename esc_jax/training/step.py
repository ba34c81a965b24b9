"""The compiled steps: waveforms in, updated state and metrics, or probabilities, out."""

from collections.abc import Callable
import functools
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from esc_jax.augment import compose, mix, waveform
from esc_jax.models.encoder import Classifier, evaluating
from esc_jax.objectives import supervised
from esc_jax.runtime import devices
from esc_jax.training import optim
from esc_jax.training import state as states


def to_float(audio: jax.Array) -> jax.Array:
    """16-bit samples as float32 in [−1, 1)."""
    return audio.astype(jnp.float32) / 32768.0


def padding(samples: jax.Array | None, time: int) -> jax.Array | None:
    """(B,) samples of clips that are their own → (B, time), true on the rest; None → None: nothing is padded."""
    return None if samples is None else jnp.arange(time)[None] >= samples[:, None]


class Examples(NamedTuple):
    """What a model learns from: augmented features, soft targets (rows, classes), `padding` of the waveforms."""

    features: jax.Array
    target: jax.Array
    padding: jax.Array | None


def examples(frontend, config, classes: int, key: jax.Array, batch: dict[str, jax.Array]) -> Examples:
    """Those of this device's part of a batch."""
    augment = config.augment
    wave_key, mix_key, spec_key, mel_key = jax.random.split(key, 4)
    if augment.mel_jitter:  # one bank of mel filters for the whole global batch
        frontend = functools.partial(frontend, key=mel_key)
    place = devices.example_positions(len(batch["label"]))
    samples = batch.get("samples")
    audio = compose.waveforms(augment, wave_key, place, to_float(batch["audio"]), config.data.sample_rate, samples)
    target = supervised.targets(batch["label"], classes, config.train.label_smoothing)
    own = padding(samples, audio.shape[-1])
    if not augment.mixup_alpha:
        return Examples(compose.spectrograms(augment, spec_key, place, frontend(audio, own)), target, own)
    share, partner = compose.mixing(augment, mix_key, place, config.train.batch_size)
    blend = jax.vmap(mix.linear)
    both = own
    if samples is not None:  # a mixture ends with the longer of the two
        longer = jnp.maximum(samples, devices.all_gather(samples)[partner])
        both = padding(jnp.where(share < 1.0, longer, samples), audio.shape[-1])
    if augment.mixup_on == "waveform":
        features = frontend(jax.vmap(mix.waveforms)(share, audio, devices.all_gather(audio)[partner]), both)
    else:
        features = frontend(audio, own)
        features = blend(share, features, devices.all_gather(features)[partner])
    target = blend(share, target, devices.all_gather(target)[partner])
    return Examples(compose.spectrograms(augment, spec_key, place, features), target, both)


def _loss(model: Classifier, config, params) -> Callable[..., tuple[jax.Array, tuple[jax.Array, Any]]]:
    """loss(params, batch_stats, examples, key) → (mean loss, (share of hits, new statistics))."""
    still, whole = optim.frozen(config.optim, params), optim.frozen_modules(config.optim, params)
    pattern = re.compile(config.model.evaluating or "(?!)")  # which matches nothing

    def loss(params, batch_stats, examples: Examples, key: jax.Array):
        # No backward pass through what is frozen.
        params = jax.tree.map(lambda p, fixed: jax.lax.stop_gradient(p) if fixed else p, params, still)
        dropout_key, path_key = jax.random.split(key)
        with evaluating(lambda path: path in whole or bool(pattern.fullmatch(path))):
            logits, updates = model.apply(
                {"params": params, "batch_stats": batch_stats},
                examples.features,
                train=True,
                padding=examples.padding,
                mutable=["batch_stats"],
                rngs={"dropout": dropout_key, "droppath": path_key},
            )
        hits = (logits.argmax(-1) == examples.target.argmax(-1)).astype(jnp.float32).mean()
        return supervised.loss(logits, examples.target).mean(), (hits, updates.get("batch_stats", {}))

    return loss


def _gradients(loss, state: states.TrainState, examples: Examples, key: jax.Array, parts: int):
    """Mean over `parts` equal parts of the rows, one after the other, of gradients and metrics, and new statistics.

    The activations of one part are in memory at a time; BatchNorm normalises each part by itself.
    """
    gradient = jax.value_and_grad(loss, has_aux=True)
    if parts == 1:
        (value, (hits, batch_stats)), grads = gradient(state.params, state.batch_stats, examples, key)
        return grads, {"loss": value, "accuracy": hits}, batch_stats

    def add(carry, part):
        sums, batch_stats = carry
        number, examples = part
        with devices.accumulation_part(number, parts):
            (value, (hits, batch_stats)), grads = gradient(state.params, batch_stats, examples, key)
        return (jax.tree.map(jnp.add, sums, (grads, {"loss": value, "accuracy": hits})), batch_stats), None

    zeros = jax.tree.map(jnp.zeros_like, state.params), {"loss": jnp.zeros(()), "accuracy": jnp.zeros(())}
    rows = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), examples)
    (sums, batch_stats), _ = jax.lax.scan(add, (zeros, state.batch_stats), (jnp.arange(parts), rows))
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
        step(state, {"audio": (rows, time) int16, "label": (rows,)}) → (state, metrics), "samples" in the batch as in
        `pipeline.train_batches`: `loss`, `accuracy` (of the augmented examples, on their dominant label) and
        `grad_norm`, scalars, means over the global batch.
    """

    def step(state: states.TrainState, batch: dict[str, jax.Array]):
        input_key, model_key = jax.random.split(jax.random.fold_in(jax.random.key(state.seed), state.step))
        learned = examples(frontend, config, classes, input_key, batch)
        loss = _loss(model, config, state.params)
        grads, metrics, batch_stats = _gradients(loss, state, learned, model_key, config.train.accumulate)
        # Every device has the mean over its rows; the mean over devices is taken of gradients and metrics alike.
        grads, metrics = devices.all_mean(grads), devices.all_mean(metrics)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema is not None:
            ema = states.update_ema(ema, {"params": params, "batch_stats": batch_stats}, state.step, config.train.ema)
        metrics |= {"grad_norm": optax.global_norm(grads)}
        new = state.replace(step=state.step + 1, params=params, batch_stats=batch_stats, opt_state=opt_state, ema=ema)
        return new, metrics

    return step


def tta_views(audio: jax.Array, views: int, samples: jax.Array | None = None) -> jax.Array:
    """(B, time) → (views, B, time): the clip as it is, then rotated in time by 1/views, 2/views, … of its length.

    Of clips that end in padding, (B,) `samples` of each are rotated.
    """
    numbers = jnp.arange(views)
    if samples is None:
        return jax.vmap(lambda shift: waveform.rotate(audio, shift))(numbers * (audio.shape[-1] // views))
    rotated = jax.vmap(waveform.rotate)
    return jax.vmap(lambda number: rotated(audio, number * (samples // views), samples))(numbers)


def _of_views(frontend, audio: jax.Array, views: int, samples: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
    """Features and padding of all views of a batch, (views · B, …), view after view."""
    waveforms = tta_views(to_float(audio) if audio.dtype == jnp.int16 else audio, views, samples)
    waveforms = waveforms.reshape(-1, waveforms.shape[-1])
    hidden = padding(None if samples is None else jnp.tile(samples, views), waveforms.shape[-1])
    return frontend(waveforms, hidden), hidden


def logits_step(model: Classifier, frontend, views: int = 1) -> Callable[..., jax.Array]:
    """(variables, (B, time) int16, samples=None) → (views, B, classes) logits, jitted.

    `samples`, (B,), is how many of each clip's are its own, for models that leave padding out; None is all.
    """

    @jax.jit
    def predict(variables, audio: jax.Array, samples: jax.Array | None = None) -> jax.Array:
        features, hidden = _of_views(frontend, audio, views, samples)
        return model.apply(variables, features, padding=hidden).reshape(views, len(audio), -1)

    return predict


def predict_step(model: Classifier, frontend, views: int = 1) -> Callable[..., jax.Array]:
    """As `logits_step`, with probabilities."""

    logits = logits_step(model, frontend, views)
    return jax.jit(lambda variables, audio, samples=None: jax.nn.softmax(logits(variables, audio, samples)))


def embed_step(model: Classifier, frontend, views: int = 1) -> Callable[..., jax.Array]:
    """As `logits_step`, with embeddings (views, B, D); the clips may be floating point."""

    @jax.jit
    def embed(variables, audio: jax.Array, samples: jax.Array | None = None) -> jax.Array:
        features, hidden = _of_views(frontend, audio, views, samples)
        found = model.apply(variables, features, padding=hidden, method="encode")
        return found.embedding.reshape(views, len(audio), -1)

    return embed
