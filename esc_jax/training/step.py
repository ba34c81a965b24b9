"""The compiled steps: one training step for every objective, and the steps of evaluation and prediction."""

from collections.abc import Callable
import re
from typing import Any

import jax
import jax.numpy as jnp
import optax

from esc_jax.augment.views import Views
from esc_jax.models.model import Model
from esc_jax.objectives.base import Keys, Objective, padding_mask, to_float
from esc_jax.ops import eval_mode as modes
from esc_jax.runtime import devices
from esc_jax.tasks.base import Task
from esc_jax.training import optim
from esc_jax.training import state as states

Metrics = dict[str, jax.Array]
TrainStep = Callable[..., tuple[states.TrainState, Metrics]]


def train_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    optim_config: Any,
    *,
    ema: float = 0.0,
    accumulate: int = 1,
    eval_mode: str = "",
) -> TrainStep:
    """One step of any objective, to be mapped over devices by `runtime.devices.pmap_step`.

    Parameters that the optimizer freezes get no gradient. Modules that are frozen as a whole, and those whose path
    `eval_mode` matches, run as in evaluation.

    Args:
        objective: inputs and loss.
        optimizer: of the parameters.
        optim_config: `optim` of a config, for what is frozen and for sharpness-aware minimization.
        ema: decay of the moving average of the weights; 0 keeps none.
        accumulate: equal parts of a device's rows whose gradients are summed. BatchNorm normalizes each part alone.
        eval_mode: regular expression of module paths.

    Returns:
        step(state, batch, constants=None) → (state, metrics), with the batch of `pipeline.train_batches` and the
        objective's constants. Metrics are scalars over the global batch: `loss`, `grad_norm` and the objective's.
    """
    pattern = re.compile(eval_mode or "(?!)")  # which matches nothing

    def step(state: states.TrainState, batch: dict[str, jax.Array], constants: Any = None) -> Any:
        input_key, model_key = jax.random.split(jax.random.fold_in(jax.random.key(state.seed), state.step))
        inputs = objective.inputs(constants, input_key, {**batch, "step": state.step})
        frozen, modules = optim.frozen(optim_config, state.params), optim.frozen_modules(optim_config, state.params)

        def mean_loss(params: Any, batch_stats: Any, inputs: Any, key: jax.Array) -> tuple[jax.Array, Any]:
            params = jax.tree.map(lambda p, fixed: jax.lax.stop_gradient(p) if fixed else p, params, frozen)
            variables = {"params": params, "batch_stats": batch_stats}
            with modes.eval_mode(lambda path: path in modules or bool(pattern.fullmatch(path))):
                output = objective.loss(variables, state.carry, constants, inputs, Keys(*jax.random.split(key)))
            loss = output.loss.mean()
            metrics = {"loss": loss} | jax.tree.map(jnp.mean, output.metrics)
            return loss, (metrics, output.batch_stats, jax.lax.stop_gradient(output.outputs))

        grads, metrics, batch_stats, outputs = _gradients(mean_loss, state, inputs, model_key, accumulate)
        # Each device has the mean over its rows. Gradients and metrics are averaged over the devices alike.
        grads, metrics = devices.all_mean(grads), objective.summarize(devices.all_mean(metrics))
        if optim_config.sam_rho:
            ascended = state.replace(params=_ascend(state.params, grads, optim_config.sam_rho))
            grads = devices.all_mean(_gradients(mean_loss, ascended, inputs, model_key, accumulate)[0])
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        average = state.ema
        if average is not None:
            weights = {"params": params, "batch_stats": batch_stats}
            average = states.update_ema(average, weights, state.step, ema)
        metrics |= {"grad_norm": optim.global_norm(grads)}
        new = state.replace(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            ema=average,
            carry=objective.after_step(state.carry, params, state.step + 1, jax.tree.map(devices.all_gather, outputs)),
        )
        return new, metrics

    return step


def _ascend(params: Any, grads: Any, rho: float) -> Any:
    """w + ρ g/‖g‖, where sharpness-aware minimization takes the gradient of its step.

    Foret et al., "Sharpness-aware minimization for efficiently improving generalization", ICLR 2021.
    """
    scale = rho / (optim.global_norm(grads) + 1e-12)
    return jax.tree.map(lambda p, g: p + scale * g, params, grads)


def _gradients(
    mean_loss: Callable[..., tuple[jax.Array, Any]], state: states.TrainState, inputs: Any, key: jax.Array, parts: int
) -> tuple[Any, Metrics, Any, Any]:
    """Gradients, metrics, new running statistics, and outputs of the rows.

    Gradients and metrics are means over equal parts of the rows, computed in sequence. The activations of one part are
    in memory at a time.
    """
    gradient = jax.grad(mean_loss, has_aux=True)
    if parts == 1:
        grads, aux = gradient(state.params, state.batch_stats, inputs, key)
        return grads, *aux
    rows = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), inputs)

    def add(carry: Any, part: Any) -> tuple[Any, Any]:
        sums, batch_stats = carry
        number, examples = part
        with devices.accumulation_part(number, parts):
            grads, (metrics, batch_stats, outputs) = gradient(state.params, batch_stats, examples, key)
        return (jax.tree.map(jnp.add, sums, (grads, metrics)), batch_stats), outputs

    first = jax.tree.map(lambda x: x[0], rows)
    shapes = jax.eval_shape(gradient, state.params, state.batch_stats, first, key)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (shapes[0], shapes[1][0]))
    (sums, batch_stats), outputs = jax.lax.scan(add, (zeros, state.batch_stats), (jnp.arange(parts), rows))
    grads, metrics = jax.tree.map(lambda x: x / parts, sums)
    return grads, metrics, batch_stats, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), outputs)


def _features(
    model: Model, audio: jax.Array, views: Views, samples: jax.Array | None
) -> tuple[jax.Array, jax.Array | None]:
    """Features and padding masks of all views of a batch, (views · B, …), one view after the other."""
    waveforms = views(to_float(audio) if audio.dtype == jnp.int16 else audio, samples)
    waveforms = waveforms.reshape(-1, waveforms.shape[-1])
    padding = padding_mask(None if samples is None else jnp.tile(samples, views.count), waveforms.shape[-1])
    return model.frontend(waveforms, padding), padding


def _as_views(views: Views | int) -> Views:
    return Views(count=views) if isinstance(views, int) else views


def logits_step(model: Model, views: Views | int = 1) -> Callable[..., jax.Array]:
    """(variables, (B, time) int16, samples=None) → (views, B, classes) logits, jitted. A number of views: rotations.

    `samples`, (B,), is the length of each clip without padding, for models with a padding mask.
    """
    views = _as_views(views)

    @jax.jit
    def predict(variables: Any, audio: jax.Array, samples: jax.Array | None = None) -> jax.Array:
        features, padding = _features(model, audio, views, samples)
        logits: Any = model.module.apply(variables, features, padding=padding)
        return logits.reshape(views.count, len(audio), -1)

    return predict


def predict_step(model: Model, task: Task, views: Views | int = 1) -> Callable[..., jax.Array]:
    """As `logits_step`, with the task's probabilities."""
    logits = logits_step(model, views)
    return jax.jit(lambda variables, audio, samples=None: task.activation(logits(variables, audio, samples)))


def embed_step(model: Model, views: Views | int = 1) -> Callable[..., jax.Array]:
    """As `logits_step`, with embeddings (views, B, D). The clips may be floating point."""
    views = _as_views(views)

    @jax.jit
    def embed(variables: Any, audio: jax.Array, samples: jax.Array | None = None) -> jax.Array:
        features, padding = _features(model, audio, views, samples)
        encoded: Any = model.module.apply(variables, features, padding=padding, method="encode")
        return encoded.embedding.reshape(views.count, len(audio), -1)

    return embed


def outputs_step(model: Model) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """As `logits_step` and `embed_step` in one pass of the encoder: logits (1, B, classes), embeddings (1, B, D)."""

    @jax.jit
    def run(variables: Any, audio: jax.Array, samples: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        features, padding = _features(model, audio, Views(), samples)
        encoded: Any = model.module.apply(variables, features, padding=padding, method="encode")
        logits: Any = model.module.apply(variables, encoded.embedding, method="classify")
        return logits[None], encoded.embedding[None]

    return run
