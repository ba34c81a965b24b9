"""Supervised training with a teacher: a classifier of the same classes, whose outputs are further targets."""

import dataclasses
import hashlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from esc_jax.models.model import Model, Variables, update_hash
from esc_jax.objectives.base import Batch, Keys, LossOutput
from esc_jax.objectives.supervised import Examples, Supervised
from esc_jax.tasks.base import Task

RANGES = {"weight": (0.0, 1.0), "temperature": (0.1, 100.0)}


def defaults() -> dict[str, Any]:
    """Keys of `distill` in a config, with everything turned off."""
    return {
        "teacher": "",  # run, or published encoder by name or path; empty: none
        "weight": 0.9,  # share of the teacher in the loss
        "temperature": 2.0,  # of the probabilities of teacher and student
    }


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A classifier of the same classes.

    Attributes:
        model: of the same task.
        temperature: that its logits are divided by, for calibrated probabilities.
        name: with the data that it was pretrained on, for everything that quotes the student's score.
    """

    model: Model
    temperature: float = 1.0
    name: str = ""

    @property
    def identity(self) -> dict[str, str]:
        """`name`, and `checksum` of the weights."""
        checksum = hashlib.sha256()
        update_hash(checksum, self.model.variables)
        return {"name": self.name, "checksum": checksum.hexdigest()[:16]}


class Inputs(NamedTuple):
    """Examples, and the calibrated logits (rows, classes) of the teacher."""

    examples: Examples
    teacher_logits: jax.Array


class Distillation(Supervised):
    """The task's loss on labels and on the probabilities of a teacher.

        (1 − w) · loss(z, y) + w · T² · loss(z / T, p(t / T))

    with logits z of the student, t of the teacher, and probabilities p. G. Hinton, O. Vinyals, J. Dean, "Distilling
    the knowledge in a neural network" (2015).

    The teacher gets the same augmented and mixed waveforms as the student (L. Beyer et al., "Knowledge distillation: a
    good teacher is patient and consistent", CVPR 2022), but not the masks on the student's spectrogram.

    Args:
        config, model, task, class_weights, steps_per_epoch: as of `Supervised`.
        teacher: its model has the sample rate and the classes of `model`.
    """

    def __init__(
        self,
        config: Any,
        model: Model,
        task: Task,
        class_weights: np.ndarray | None = None,
        steps_per_epoch: int = 1,
        *,
        teacher: Teacher,
    ):
        super().__init__(config, model, task, class_weights, steps_per_epoch)
        self._teacher = teacher.model
        self._weight, self._temperature = config.distill.weight, config.distill.temperature
        self.constants = (self.constants or {}) | {
            "teacher": teacher.model.variables,
            "teacher_temperature": np.float32(teacher.temperature),
        }

    def inputs(self, constants: Any, key: jax.Array, batch: Batch) -> Inputs:
        """As `Supervised.inputs`, with the logits of the teacher."""
        examples, audio = self._examples(key, batch)
        model = self._teacher
        padding = examples.padding if model.mask_padding else None
        logits: Any = model.module.apply(constants["teacher"], model.frontend(audio, padding), padding=padding)
        return Inputs(examples, logits.astype(jnp.float32) / constants["teacher_temperature"])

    def loss(self, variables: Variables, carry: Any, constants: Any, inputs: Inputs, keys: Keys) -> LossOutput:
        """Loss of each example, the metrics of the task on the labels, and `teacher_loss`, the teacher's part."""
        examples, teacher_logits = inputs
        logits, batch_stats = self._forward(variables, examples, keys)
        metrics = self._task.step_metrics(logits, examples.targets)
        metrics["teacher_loss"] = self._task.loss(
            logits / self._temperature, self._task.activation(teacher_logits / self._temperature)
        )
        loss = (1.0 - self._weight) * self._label_loss(constants, logits, examples.targets)
        loss += self._weight * self._temperature**2 * metrics["teacher_loss"]
        return LossOutput(loss, metrics, batch_stats)
