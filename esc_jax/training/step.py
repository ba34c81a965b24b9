"""The compiled steps: waveforms in, updated state and metrics, or probabilities, out."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from esc_jax.augment import compose, mix
from esc_jax.models.encoder import Classifier
from esc_jax.objectives import supervised
from esc_jax.training import parallel
from esc_jax.training import state as states


def to_float(audio: jax.Array) -> jax.Array:
    """16-bit samples as float32 in [−1, 1)."""
    return audio.astype(jnp.float32) / 32768.0


def train_step(
    model: Classifier, frontend, optimizer: optax.GradientTransformation, config, classes: int
) -> Callable[[states.TrainState, dict[str, jax.Array]], tuple[states.TrainState, dict[str, jax.Array]]]:
    """One supervised step, to be mapped over devices.

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
    augment = config.augment

    def inputs(key: jax.Array, batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        wave_key, mix_key, spec_key = jax.random.split(key, 3)
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
        return compose.spectrograms(augment, spec_key, place, features), blend(
            share, target, parallel.gather(target)[partner]
        )

    def step(state: states.TrainState, batch: dict[str, jax.Array]):
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        input_key, dropout_key, path_key = jax.random.split(key, 3)
        features, target = inputs(input_key, batch)

        def loss_of(params):
            logits, updates = model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                features,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": dropout_key, "droppath": path_key},
            )
            # Each device's mean of its rows; the mean over devices is taken of gradients and metrics alike.
            return supervised.loss(logits, target).mean(), (logits, updates.get("batch_stats", {}))

        (loss, (logits, batch_stats)), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        grads = parallel.mean(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema is not None:
            new = {"params": params, "batch_stats": batch_stats}
            ema = states.update_ema(ema, new, state.step, config.train.ema)
        hits = (logits.argmax(-1) == target.argmax(-1)).astype(jnp.float32).mean()
        metrics = parallel.mean({"loss": loss, "accuracy": hits}) | {"grad_norm": optax.global_norm(grads)}
        return states.TrainState(state.step + 1, params, batch_stats, opt_state, ema), metrics

    return step


def tta_views(audio: jax.Array, views: int) -> jax.Array:
    """(B, time) → (views, B, time): the clip as it is, then rotated in time by 1/views, 2/views, … of its length."""
    samples = audio.shape[-1]
    shifts = jnp.arange(views) * (samples // views)
    return jax.vmap(lambda shift: jnp.roll(audio, shift, axis=-1))(shifts)


def predict_step(model: Classifier, frontend, views: int = 1) -> Callable[..., jax.Array]:
    """(variables, (B, time) int16) → (views, B, classes) probabilities, jitted."""

    @jax.jit
    def predict(variables, audio: jax.Array) -> jax.Array:
        waveforms = tta_views(to_float(audio), views)
        flat = waveforms.reshape(-1, waveforms.shape[-1])
        probabilities = jax.nn.softmax(model.apply(variables, frontend(flat)))
        return probabilities.reshape(views, len(audio), -1)

    return predict
