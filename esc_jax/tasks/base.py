"""The interface of a task: what the labels of a data set mean."""

import abc
from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any, ClassVar

import jax
import numpy as np


@dataclasses.dataclass(frozen=True)
class ErrorGroup:
    """Clips with errors of the same kind.

    Attributes:
        description: of the kind, with counts, as a phrase.
        rows: of the clips in the arrays that were given, the most confident error first.
    """

    description: str
    rows: tuple[int, ...]


class Task(abc.ABC):
    """What labels mean: targets, loss, activation, metrics, decisions.

    Everything outside `esc_jax.tasks` works on logits, targets and scores of any task. Methods that take `jax.Array`
    are traced inside compiled steps; the others run on the host, on numpy arrays.

    Attributes:
        name: value of `config.task`.
        multi_hot: whether the labels of n clips are (n, classes) bool; else they are (n,) class indices, −1 for a clip
            of none of the classes.
        metric: key of the primary metric in results.json and in metrics.jsonl.
        metric_label: how the primary metric is written in tables and pictures.
        class_metric_label: how the metric of a single class is written.
        other_metrics: key in `folds` of results.json → how it is written, of metrics that are reported beside it.
        step_metric: key of the metric of `step_metrics` that is drawn over the epochs.
        hessian_bound: bound of the second derivative of the loss with respect to a logit, for convex solvers.
        torch_activation: `activation` as a method call on a torch tensor, for usage examples.
        default_threshold: probability from which a class counts as present where no `thresholds` were fitted; None for
            tasks whose decision is always exactly one class.
        decision_label: how the decision is called on pages and in pictures.
    """

    name: ClassVar[str]
    multi_hot: ClassVar[bool] = False
    metric: ClassVar[str]
    metric_label: ClassVar[str]
    class_metric_label: ClassVar[str]
    other_metrics: ClassVar[Mapping[str, str]] = {}
    step_metric: ClassVar[str]
    hessian_bound: ClassVar[float]
    torch_activation: ClassVar[str]
    default_threshold: ClassVar[float | None] = None
    decision_label: ClassVar[str]

    @property
    def exclusive(self) -> bool:
        """Whether every decision is exactly one class."""
        return self.default_threshold is None

    @abc.abstractmethod
    def targets(self, labels: jax.Array, classes: int, smoothing: float = 0.0) -> jax.Array:
        """(B, classes) float32 targets of the labels of a batch. Those of a clip without a class favour no class."""

    @abc.abstractmethod
    def loss(self, logits: jax.Array, targets: jax.Array, class_weights: jax.Array | None = None) -> jax.Array:
        """(B,) loss of each example, in nats; `class_weights` are those of the method of that name."""

    @abc.abstractmethod
    def class_weights(self, labels: np.ndarray, classes: int) -> np.ndarray:
        """(classes,) float32 weights of the loss under which rare classes count as much as frequent ones.

        Args:
            labels: of the training clips.
            classes: number of classes.
        """

    @abc.abstractmethod
    def sampling_weights(self, labels: np.ndarray, classes: int) -> np.ndarray:
        """(n,) probabilities of the training clips under which classes are drawn about equally often."""

    @abc.abstractmethod
    def activation(self, logits: jax.Array) -> jax.Array:
        """(…, classes) probabilities."""

    @abc.abstractmethod
    def step_metrics(self, logits: jax.Array, targets: jax.Array) -> dict[str, jax.Array]:
        """Metrics of a training step, (B,) each; their mean over an epoch is logged."""

    @abc.abstractmethod
    def decide(self, scores: np.ndarray, thresholds: np.ndarray | None = None) -> np.ndarray:
        """The decision for each row of (…, classes) scores, in the form of the labels.

        Args:
            scores: probabilities.
            thresholds: that broadcast with the scores, of tasks that have `thresholds`.
        """

    @abc.abstractmethod
    def active(self, scores: np.ndarray, thresholds: np.ndarray | None = None) -> np.ndarray:
        """(…, classes) bool: the classes of each decision; arguments as of `decide`."""

    @abc.abstractmethod
    def thresholds(self, labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray | None:
        """(classes,) thresholds of the decision from held-out clips; None for tasks that decide without."""

    @abc.abstractmethod
    def calibration_pairs(self, labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(m,) probabilities of events and (m,) whether they happened, for reliability diagrams."""

    @abc.abstractmethod
    def clip_scores(self, labels: np.ndarray, scores: np.ndarray) -> np.ndarray | None:
        """(n,) values whose mean is the primary metric; None for a metric that is no mean over clips."""

    @abc.abstractmethod
    def weighted_scores(self, labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """(draws,) the primary metric where clip i counts weights[d, i] times: for the bootstrap.

        NaN where it is not defined.
        """

    @abc.abstractmethod
    def score(self, labels: np.ndarray, scores: np.ndarray) -> float:
        """The primary metric; larger is better."""

    @abc.abstractmethod
    def confidence(self, probabilities: np.ndarray, thresholds: np.ndarray | None = None) -> np.ndarray:
        """(n,) probability of the decision; thresholds as of `decide`."""

    @abc.abstractmethod
    def probabilities(self, logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
        """(…, classes) float64 probabilities of logits that are divided by a temperature first."""

    @abc.abstractmethod
    def logits(self, probabilities: np.ndarray) -> np.ndarray:
        """Logits that give these probabilities, in double precision and without infinities."""

    @abc.abstractmethod
    def nll(self, logits: np.ndarray, labels: Sequence[int] | np.ndarray, temperature: float = 1.0) -> float:
        """Mean negative log-likelihood of the labels, in nats."""

    @abc.abstractmethod
    def fold_metrics(
        self, labels: np.ndarray, scores: np.ndarray, views: np.ndarray | None, thresholds: np.ndarray | None = None
    ) -> dict[str, Any]:
        """The task's entries of one element of `folds` in results.json.

        Every task has `total`, the number of clips, the primary metric and `{metric}_tta`, which is None without views.

        Args:
            labels: of the test clips.
            scores: (n, classes) probabilities of the clips.
            views: (n, classes) mean probabilities over test-time views; None without.
            thresholds: of the decisions on `scores`, as of `decide`.
        """

    @abc.abstractmethod
    def details(
        self, labels: np.ndarray, scores: np.ndarray, classes: Sequence[str], thresholds: np.ndarray | None = None
    ) -> dict[str, Any]:
        """The task's other entries of results.json (`per_class` and so on), of all test clips of all runs."""

    @abc.abstractmethod
    def class_counts(self, labels: np.ndarray, classes: int) -> np.ndarray:
        """(classes,) number of clips with each class; clips without a class do not count."""

    @abc.abstractmethod
    def label_names(self, label: Any, classes: Sequence[str]) -> tuple[str, ...]:
        """Names of the classes of a label or a decision."""

    @abc.abstractmethod
    def label_text(self, label: Any, classes: Sequence[str]) -> str:
        """A label or a decision as text, for csv files."""

    @abc.abstractmethod
    def parse_label(self, text: str, classes: Sequence[str]) -> Any:
        """The label that `label_text` writes as `text`. Raises ValueError for a name that is not in `classes`."""

    @abc.abstractmethod
    def error_groups(
        self, labels: np.ndarray, scores: np.ndarray, classes: Sequence[str], thresholds: np.ndarray | None = None
    ) -> list[ErrorGroup]:
        """The incorrect decisions on (n, classes) scores by their kind, the most frequent kind first.

        A clip is in several groups where its decision has errors of several kinds. Thresholds are as of `decide`.
        """

    @abc.abstractmethod
    def class_ranking(self, details: dict[str, Any]) -> list[tuple[str, float | None, str]]:
        """(class, metric of the class, text such as "7/8") from `details`, the best class first."""
