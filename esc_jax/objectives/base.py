"""The interface of an objective: how an encoder learns."""

import abc
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import pathlib
from typing import Any, ClassVar, NamedTuple, Self

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from esc_jax.data.clips import Clips
from esc_jax.models.model import Model, Variables
from esc_jax.tasks.base import Task

Batch = Mapping[str, jax.Array]
Range = tuple[float, float]


class Keys(NamedTuple):
    """PRNG keys of a training step's forward pass."""

    dropout: jax.Array
    droppath: jax.Array

    def rngs(self) -> dict[str, jax.Array]:
        """As `flax.linen.Module.apply` takes them."""
        return {"dropout": self.dropout, "droppath": self.droppath}


class LossOutput(NamedTuple):
    """Loss of a batch.

    Attributes:
        loss: (B,) of each example.
        metrics: name → values, one or more of each example. Their mean over the epoch is logged.
        batch_stats: running statistics after the forward pass.
        outputs: tree of arrays (B, …), a row of each example, that `after_step` gets of the global batch; None for
            nothing.
    """

    loss: jax.Array
    metrics: dict[str, jax.Array]
    batch_stats: Any
    outputs: Any = None


@dataclasses.dataclass(frozen=True)
class Context:
    """What an objective is created from.

    Attributes:
        config: of the run.
        model: whose encoder learns, with the weights to start from.
        task: what the labels mean.
        clips: the data set.
        train: indices of the training clips. No other clip may be used.
        folder: of the stage, for files such as a tokenizer.
        map_clips: (jitted (variables, int16 audio) → (1, B, …), variables, indices) → (1, n, …): one pass over clips.
        load_model: path of a run or of a published checkpoint → Model.
        round: number of the round, from 1.
        previous: the model that the round before has learned; None in the first round.
    """

    config: Any
    model: Model
    task: Task
    clips: Clips
    train: Sequence[int]
    folder: pathlib.Path
    map_clips: Callable[..., np.ndarray]
    load_model: Callable[[str], Model]
    round: int = 1
    previous: Model | None = None


class Objective(abc.ABC):
    """How an encoder learns: inputs, loss per example, and what changes beside the parameters.

    One generic step (`training.step.train_step`) trains every objective. It calls `inputs`, then the gradient of the
    mean of `loss`, then `after_step`. All three are traced, on one device's rows of the global batch.

    A new objective is one file in this package and one line in `registry`.

    Attributes:
        name: value of `config.pretrain.objective`.
        ranges: key → (lowest, highest) value, for the keys of `defaults`.
        choices: key → allowed values.
        module: whose parameters are trained. Its encoder is the submodule `encoder`.
        constants: tree of arrays that every call gets and that do not change, such as a teacher's weights.
    """

    name: ClassVar[str]
    ranges: ClassVar[Mapping[str, Range]] = {}
    choices: ClassVar[Mapping[str, Sequence[str]]] = {}
    module: nn.Module
    constants: Any = None

    @staticmethod
    @abc.abstractmethod
    def defaults() -> dict[str, Any]:
        """Keys of the objective in a config, with their defaults."""

    @classmethod
    def check(cls, config: Any) -> None:
        """Raises ConfigError for values that exclude one another, before any data are read."""
        del config

    @classmethod
    def check_data(cls, config: Any, model: Model, train_clips: int) -> None:
        """Raises ConfigError for a config that does not fit the data or the model, before training."""
        del config, model, train_clips

    @classmethod
    def rounds(cls, config: Any) -> int:
        """How many times the encoder is trained, each time from the same start."""
        del config
        return 1

    def __init__(self, config: Any, model: Model):
        self._config, self._model = config, model

    @classmethod
    def create(cls, context: Context) -> Self:
        """The objective of a self-supervised stage.

        Work on the host that has to be done once, such as clustering, is done here.
        """
        return cls(context.config.pretrain, context.model)

    def init(self, key: jax.Array, features: jax.Array) -> Variables:
        """Variables of `module` for features (1, …). The encoder's are replaced by the model's own afterwards."""
        return dict(self.module.init(key, features))

    def init_carry(self, variables: Variables) -> Any:
        """What the objective carries from step to step beside the parameters; None for nothing."""
        del variables
        return None

    @abc.abstractmethod
    def inputs(self, constants: Any, key: jax.Array, batch: Batch) -> Any:
        """Tree of arrays (B, …) that the loss is computed from: augmented features, targets. No gradient flows here.

        Args:
            constants: of the objective.
            key: PRNG key of the step.
            batch: this device's rows of a batch, and "step", the number of the steps before this one.
        """

    @abc.abstractmethod
    def loss(self, variables: Variables, carry: Any, constants: Any, inputs: Any, keys: Keys) -> LossOutput:
        """Loss and metrics of each example.

        Args:
            variables: {"params", "batch_stats"} of `module`.
            carry: as `init_carry` and `after_step` return it.
            constants: of the objective.
            inputs: of `inputs`; a part of the rows where gradients are accumulated.
            keys: of dropout.
        """

    def after_step(self, carry: Any, params: Any, step: jax.Array, outputs: Any) -> Any:
        """The carry after a step.

        Args:
            carry: before the step.
            params: after the step.
            step: number of the step, from 1.
            outputs: `LossOutput.outputs` of the global batch, in the order of its examples.
        """
        del params, step, outputs
        return carry

    def summarize(self, metrics: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Metrics of a step from their means over the global batch."""
        return metrics

    def advice(self, metrics: Mapping[str, float]) -> str:
        """A sentence for an epoch whose metrics show a problem; else an empty string."""
        del metrics
        return ""

    def tokens(self, constants: Any, audio: jax.Array) -> tuple[jax.Array, jax.Array] | None:
        """Features and discrete targets (B, rows, columns) of 16-bit clips, for pictures; None without such targets."""
        del constants, audio
        return None

    def report(self) -> dict[str, Any]:
        """What results.json records about the objective."""
        return {}


def to_float(audio: jax.Array) -> jax.Array:
    """16-bit samples as float32 in [−1, 1)."""
    return audio.astype(jnp.float32) / 32768.0


def padding_mask(samples: jax.Array | None, time: int) -> jax.Array | None:
    """(B,) lengths in samples → (B, time) bool, true where a clip is padded; None → None."""
    return None if samples is None else jnp.arange(time)[None] >= samples[:, None]
