"""The compiled steps of pretraining: waveforms in, updated state and metrics out."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from esc_jax.augment import compose, mix
from esc_jax.models.encoder import Classifier
from esc_jax.models.masked import MaskedPredictor
from esc_jax.objectives import masked, simclr
from esc_jax.ops import patches
from esc_jax.runtime import devices
from esc_jax.tokenizers.targets import Targets
from esc_jax.training import state as states
from esc_jax.training.step import to_float


def heard(config, key: jax.Array, audio: jax.Array) -> jax.Array:
    """This device's clips (rows, time) → (rows, time or crop): augmented, with another clip in the background.

    The background is drawn from the clips of the global batch and mixed in with a share of up to
    `pretrain.background` of what is heard (`mix.waveforms`): views of one clip then differ in what else sounds.
    """
    wave_key, share_key, order_key = jax.random.split(key, 3)
    place = devices.example_positions(len(audio))
    audio = compose.waveforms(config.pretrain.augment, wave_key, place, audio, config.data.sample_rate)
    if not config.pretrain.background:
        return audio
    drawn = jax.vmap(jax.random.uniform)(compose.keys(share_key, place))
    partner = compose.cycle(order_key, config.pretrain.batch_size)[place]
    share = 1.0 - config.pretrain.background * drawn
    return jax.vmap(mix.waveforms)(share, audio, devices.all_gather(audio)[partner])


def view(config, frontend, key: jax.Array, audio: jax.Array) -> jax.Array:
    """One view of this device's clips (rows, time) → features: as they are `heard`, parts of the spectrogram hidden."""
    heard_key, spec_key = jax.random.split(key)
    place = devices.example_positions(len(audio))
    return compose.spectrograms(config.pretrain.augment, spec_key, place, frontend(heard(config, heard_key, audio)))


def _updated(
    state: states.TrainState, optimizer: optax.GradientTransformation, grads, batch_stats
) -> states.TrainState:
    """The state after a step."""
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return state.replace(step=state.step + 1, params=params, batch_stats=batch_stats, opt_state=opt_state)


def simclr_step(
    model: Classifier, frontend, optimizer: optax.GradientTransformation, config
) -> Callable[[states.TrainState, dict[str, jax.Array]], tuple[states.TrainState, dict[str, jax.Array]]]:
    """One step of contrastive pretraining, to be mapped over devices.

    Args:
        model: the encoder with a projection head.
        frontend: waveform → features.
        optimizer: of the parameters.
        config: of the run.

    Returns:
        step(state, {"audio": (rows, time) int16, …}) → (state, metrics): `loss`, `pretext_accuracy` (the share of views
        whose nearest neighbour is their partner), `alignment`, `uniformity` (Wang and Isola: both lower is better) and
        `grad_norm`, over the global batch.
    """

    def step(state: states.TrainState, batch: dict[str, jax.Array]):
        key = jax.random.fold_in(jax.random.key(state.seed), state.step)
        first_key, second_key, dropout_key, path_key = jax.random.split(key, 4)
        audio = to_float(batch["audio"])
        views = [view(config, frontend, k, audio) for k in (first_key, second_key)]
        # A clip's views lie side by side, so that an example has the same place on any number of devices.
        features = jnp.stack(views, axis=1)
        features = features.reshape(-1, *features.shape[2:])

        def loss_of(params):
            z, updates = model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                features,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": dropout_key, "droppath": path_key},
            )
            z = z.reshape(len(audio), 2, -1)
            place = devices.example_positions(len(audio))[0]
            found = simclr.nt_xent(z, devices.all_gather(z), place, config.pretrain.temperature)
            return found.loss.mean(), (found, updates.get("batch_stats", {}))

        (loss, (found, batch_stats)), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        grads = devices.all_mean(grads)
        metrics = {
            "loss": loss,
            "pretext_accuracy": found.hit.astype(jnp.float32).mean(),
            "alignment": found.alignment.mean(),
            "uniformity": found.potential.mean(),
        }
        metrics = devices.all_mean(metrics)
        metrics["uniformity"] = jnp.log(metrics["uniformity"])
        metrics["grad_norm"] = optax.global_norm(grads)
        return _updated(state, optimizer, grads, batch_stats), metrics

    return step


def masked_step(
    model: MaskedPredictor, frontend, optimizer: optax.GradientTransformation, config, targets: Targets
) -> Callable[..., tuple[states.TrainState, dict[str, jax.Array]]]:
    """One step of masked prediction, to be mapped over devices.

    Args:
        model: the encoder with the head of masked prediction.
        frontend: waveform → features.
        optimizer: of the parameters.
        config: of the run.
        targets: of the patches, of the audio as it is heard: tokens follow the augmentations.

    Returns:
        step(state, {"audio": (rows, time) int16, …}, fixed) → (state, metrics), `fixed` as `Targets` take it: `loss`
        (of the tokens), `pretext_accuracy` (the share of hidden patches whose likeliest token is right), `clip_error`
        where `pretrain.clip_weight` asks for it, and `grad_norm`, over the global batch.
    """
    how, weight = config.pretrain.mask, config.pretrain.clip_weight

    def step(state: states.TrainState, batch: dict[str, jax.Array], fixed: Mapping[str, Any]):
        key = jax.random.fold_in(jax.random.key(state.seed), state.step)
        heard_key, mask_key, dropout_key, path_key = jax.random.split(key, 4)
        audio = heard(config, heard_key, to_float(batch["audio"]))
        features = frontend(audio)
        tokens, vectors = targets(fixed, audio, features)
        rows, columns = patches.grid(*features.shape[1:], how.patch)
        keys = compose.keys(mask_key, devices.example_positions(len(audio)))
        hidden = jax.vmap(lambda key: masked.draw(key, rows, columns, how.share, how.kind, how.block))(keys)

        def loss_of(params):
            guess, updates = model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                features,
                hidden,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": dropout_key, "droppath": path_key},
            )
            found = masked.prediction(guess.logits, tokens, hidden)
            loss = found.loss.mean()
            metrics = {"loss": loss, "pretext_accuracy": found.hit.mean()}
            if weight:
                metrics["clip_error"] = masked.clip_error(guess.clip, vectors).mean()
                loss += weight * metrics["clip_error"]
            return loss, (metrics, updates.get("batch_stats", {}))

        grads, (metrics, batch_stats) = jax.grad(loss_of, has_aux=True)(state.params)
        grads, metrics = devices.all_mean((grads, metrics))
        metrics["grad_norm"] = optax.global_norm(grads)
        return _updated(state, optimizer, grads, batch_stats), metrics

    return step
