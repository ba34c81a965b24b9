"""The interface of a task: what the labels of a data set mean."""

import abc
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import numpy as np


class Task(abc.ABC):
    """What labels mean: targets, loss, activation, metrics, decisions.

    Everything outside `esc_jax.tasks` works on logits, targets and scores of any task. Methods that take `jax.Array`
    are traced inside compiled steps; the others run on the host, on numpy arrays.

    Attributes:
        name: value of `config.task`.
        metric: key of the primary metric in results.json and in metrics.jsonl.
        metric_label: how the primary metric is written in tables and pictures.
        hessian_bound: bound of the second derivative of the loss with respect to a logit, for convex solvers.
    """

    name: ClassVar[str]
    metric: ClassVar[str]
    metric_label: ClassVar[str]
    hessian_bound: ClassVar[float]

    @abc.abstractmethod
    def targets(self, labels: jax.Array, classes: int, smoothing: float = 0.0) -> jax.Array:
        """(B, classes) float32 targets of the labels of a batch."""

    @abc.abstractmethod
    def loss(self, logits: jax.Array, targets: jax.Array) -> jax.Array:
        """(B,) loss of each example, in nats."""

    @abc.abstractmethod
    def activation(self, logits: jax.Array) -> jax.Array:
        """(…, classes) probabilities."""

    @abc.abstractmethod
    def step_metrics(self, logits: jax.Array, targets: jax.Array) -> dict[str, jax.Array]:
        """Metrics of a training step, (B,) each; their mean over an epoch is logged."""

    @abc.abstractmethod
    def decide(self, scores: np.ndarray) -> np.ndarray:
        """The decision for each row of (…, classes) scores, in the form of the labels; −1 stands for no class."""

    @abc.abstractmethod
    def correct(self, labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """(…, n) bool: whether the decision on (…, n, classes) scores equals the (n,) labels."""

    @abc.abstractmethod
    def clip_scores(self, labels: np.ndarray, scores: np.ndarray) -> np.ndarray | None:
        """(n,) values whose mean is the primary metric; None for a metric that is no mean over clips."""

    @abc.abstractmethod
    def score(self, labels: np.ndarray, scores: np.ndarray) -> float:
        """The primary metric; larger is better."""

    @abc.abstractmethod
    def confidence(self, probabilities: np.ndarray) -> np.ndarray:
        """(n,) probability of the decision."""

    @abc.abstractmethod
    def probabilities(self, logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
        """(…, classes) float64 probabilities of logits that are divided by a temperature first."""

    @abc.abstractmethod
    def logits(self, probabilities: np.ndarray) -> np.ndarray:
        """Logits that give these probabilities, in double precision and without infinities."""

    @abc.abstractmethod
    def energy(self, logits: np.ndarray) -> np.ndarray:
        """(n,) energy score of (n, classes) logits: large where some class is certain, small where none is."""

    @abc.abstractmethod
    def nll(self, logits: np.ndarray, labels: Sequence[int] | np.ndarray, temperature: float = 1.0) -> float:
        """Mean negative log-likelihood of the labels, in nats."""

    @abc.abstractmethod
    def fold_metrics(self, labels: np.ndarray, scores: np.ndarray, views: np.ndarray | None) -> dict[str, Any]:
        """The task's entries of one element of `folds` in results.json.

        Args:
            labels: of the test clips.
            scores: (n, classes) probabilities of the clips.
            views: (n, classes) mean probabilities over test-time views; None without.
        """

    @abc.abstractmethod
    def details(self, labels: np.ndarray, scores: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
        """The task's other entries of results.json (`per_class` and so on), of all test clips of all runs."""

    @abc.abstractmethod
    def class_counts(self, labels: np.ndarray, classes: int) -> np.ndarray:
        """(classes,) number of clips with each class."""

    @abc.abstractmethod
    def label_text(self, label: Any, classes: Sequence[str]) -> str:
        """A label or a decision as text, for csv files and pages."""

    @abc.abstractmethod
    def class_ranking(self, details: dict[str, Any]) -> list[tuple[str, float | None, str]]:
        """(class, metric of the class, text such as "7/8") from `details`, the best class first."""
