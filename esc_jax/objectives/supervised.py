"""Supervised training: the labels of the task."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from esc_jax.augment import compose, mix
from esc_jax.models.model import Model, Variables
from esc_jax.objectives.base import Batch, Keys, LossOutput, Objective, padding_mask, to_float
from esc_jax.runtime import devices
from esc_jax.tasks import registry as tasks
from esc_jax.tasks.base import Task


class Examples(NamedTuple):
    """Augmented features (rows, …), targets (rows, classes) and padding mask of the waveforms (rows, time)."""

    features: jax.Array
    targets: jax.Array
    padding: jax.Array | None


class Supervised(Objective):
    """The task's loss on augmented and mixed clips.

    Args:
        config: of the run: augment, train.
        model: classifier and frontend.
        task: targets, loss and metrics.
        class_weights: (classes,) of the loss; None weights all classes alike.
        steps_per_epoch: for augmentations that start after some epochs.
    """

    name = "supervised"
    ranges = {"label_smoothing": (0, 0.99)}
    choices = {"loss": ("task", "binary")}

    def __init__(
        self, config: Any, model: Model, task: Task, class_weights: np.ndarray | None = None, steps_per_epoch: int = 1
    ):
        super().__init__(config, model)
        self.module = model.module
        self._augment = config.augment
        self._batch_size = config.train.batch_size
        self._task = task
        self._steps_per_epoch = steps_per_epoch
        loss_task = tasks.get("multi_label" if config.train.loss == "binary" else task.name)
        self._loss = loss_task.loss
        if class_weights is not None:
            self.constants = {"class_weights": class_weights}
        self._smoothing = 0.0 if loss_task.multi_hot else config.train.label_smoothing

    @staticmethod
    def defaults() -> dict[str, Any]:
        """Keys of `train`.

        `label_smoothing`: share of the target that is spread over all classes; not used with the binary cross-entropy.
        `loss`: "task", or "binary" for the sum of the binary cross-entropies of all classes, whatever the task is.
        """
        return {"label_smoothing": 0.0, "loss": "task"}

    def inputs(self, constants: Any, key: jax.Array, batch: Batch) -> Any:
        """Augmented and mixed examples of this device's rows {"audio", "label"[, "samples"], "step"}."""
        return self._examples(key, batch)[0]

    def _examples(self, key: jax.Array, batch: Batch) -> tuple[Examples, jax.Array]:
        """Examples, and the augmented waveforms (rows, time) before the frontend."""
        augment, frontend = self._augment, self._model.frontend
        wave_key, mix_key, spec_key, mel_key = jax.random.split(key, 4)
        if augment.mel_jitter:  # one mel bank for the whole global batch
            frontend = functools.partial(frontend, key=mel_key)
        positions = devices.example_positions(len(batch["label"]))
        samples = batch.get("samples")
        rate = self._model.sample_rate
        audio = compose.augment_waveforms(augment, wave_key, positions, to_float(batch["audio"]), rate, samples)
        targets = self._task.targets(batch["label"], len(self._model.classes), self._smoothing)
        padding = padding_mask(samples, audio.shape[-1])
        if not augment.mixup_alpha:
            features = frontend(audio, padding)
            features = compose.augment_spectrograms(augment, spec_key, positions, features, self._model.frontend)
            return Examples(features, targets, padding), audio
        share, partner = compose.mixup_pairs(augment, mix_key, positions, self._batch_size)
        if augment.mixup_start_epoch:
            share = jnp.where(batch["step"] < augment.mixup_start_epoch * self._steps_per_epoch, 1.0, share)
        mixed_padding = padding
        if samples is not None:  # a mixture ends with the longer of the two clips
            longer = jnp.maximum(samples, devices.all_gather(samples)[partner])
            mixed_padding = padding_mask(jnp.where(share < 1.0, longer, samples), audio.shape[-1])
        if augment.mixup_on == "waveform":
            other = devices.all_gather(audio)[partner]
            audio = compose.mix_waveforms(augment, mix_key, positions, share, audio, other, rate)
            features = frontend(audio, mixed_padding)
        else:
            features = frontend(audio, padding)
            features = jax.vmap(mix.mix_linear)(share, features, devices.all_gather(features)[partner])
        mix_targets = mix.union_of_targets if augment.mixup_targets == "union" else mix.mix_linear
        targets = jax.vmap(mix_targets)(share, targets, devices.all_gather(targets)[partner])
        features = compose.augment_spectrograms(augment, spec_key, positions, features, self._model.frontend)
        return Examples(features, targets, mixed_padding), audio

    def _forward(self, variables: Variables, inputs: Examples, keys: Keys) -> tuple[jax.Array, Any]:
        """Logits, and the running statistics after the forward pass."""
        logits, updates = self.module.apply(
            variables,
            inputs.features,
            train=True,
            padding=inputs.padding,
            mutable=["batch_stats"],
            rngs=keys.rngs(),
        )
        return logits, updates.get("batch_stats", {})

    def _label_loss(self, constants: Any, logits: jax.Array, targets: jax.Array) -> jax.Array:
        return self._loss(logits, targets, (constants or {}).get("class_weights"))

    def loss(self, variables: Variables, carry: Any, constants: Any, inputs: Any, keys: Keys) -> LossOutput:
        """The task's loss and metrics."""
        logits, batch_stats = self._forward(variables, inputs, keys)
        metrics = self._task.step_metrics(logits, inputs.targets)
        return LossOutput(self._label_loss(constants, logits, inputs.targets), metrics, batch_stats)
