"""The compiled steps of pretraining: waveforms in, updated state and metrics out."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from esc_jax.augment import compose, mix
from esc_jax.models.encoder import Classifier
from esc_jax.objectives import simclr
from esc_jax.training import parallel
from esc_jax.training import state as states
from esc_jax.training.step import to_float


def view(config, frontend, key: jax.Array, audio: jax.Array) -> jax.Array:
    """One view of this device's clips (rows, time) → features: augmented, with another clip in the background.

    The background is drawn from the clips of the global batch and mixed in with a share of up to
    `pretrain.augment.background` of what is heard (`mix.waveforms`): views of one clip then differ in what else sounds.
    """
    augment = config.pretrain.augment
    wave_key, share_key, order_key, spec_key = jax.random.split(key, 4)
    place = parallel.positions(len(audio))
    audio = compose.waveforms(augment, wave_key, place, audio, config.data.sample_rate)
    if config.pretrain.background:
        drawn = jax.vmap(jax.random.uniform)(compose.keys(share_key, place))
        partner = compose.cycle(order_key, config.pretrain.batch_size)[place]
        share = 1.0 - config.pretrain.background * drawn
        audio = jax.vmap(mix.waveforms)(share, audio, parallel.gather(audio)[partner])
    return compose.spectrograms(augment, spec_key, place, frontend(audio))


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
            place = parallel.positions(len(audio))[0]
            found = simclr.nt_xent(z, parallel.gather(z), place, config.pretrain.temperature)
            return found.loss.mean(), (found, updates.get("batch_stats", {}))

        (loss, (found, batch_stats)), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        grads = parallel.mean(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        metrics = {
            "loss": loss,
            "pretext_accuracy": found.hit.astype(jnp.float32).mean(),
            "alignment": found.alignment.mean(),
            "uniformity": found.potential.mean(),
        }
        metrics = parallel.mean(metrics)
        metrics["uniformity"] = jnp.log(metrics["uniformity"])
        metrics["grad_norm"] = optax.global_norm(grads)
        new = state.replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            opt_state=opt_state,
        )
        return new, metrics

    return step
