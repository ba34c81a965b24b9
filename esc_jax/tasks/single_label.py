"""Single-label classification: every clip belongs to exactly one class."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from esc_jax.tasks.base import ErrorGroup, Task


class SingleLabel(Task):
    """Softmax, cross-entropy and accuracy. Labels are class indices; −1 stands for none of the classes."""

    name = "single_label"
    metric = "accuracy"
    metric_label = class_metric_label = "accuracy"
    step_metric = "accuracy"
    hessian_bound = 0.5  # Böhning, "Multinomial logistic regression algorithm" (1992)
    torch_activation = "softmax(-1)"
    decision_label = "most likely"

    def targets(self, labels: jax.Array, classes: int, smoothing: float = 0.0) -> jax.Array:
        """(B, classes): (1 − s) · one-hot + s / classes; 1 / classes for a clip without a class.

        Uniform targets of sounds that are none of the classes are those of "Deep anomaly detection with outlier
        exposure" (D. Hendrycks et al., ICLR 2019).
        """
        targets = jax.nn.one_hot(labels, classes, dtype=jnp.float32) * (1.0 - smoothing) + smoothing / classes
        return jnp.where(labels[:, None] < 0, 1.0 / classes, targets)

    def loss(self, logits: jax.Array, targets: jax.Array, class_weights: jax.Array | None = None) -> jax.Array:
        """−Σ_c w_c t_c log softmax(logits)_c, (B,)."""
        if class_weights is not None:
            targets = targets * class_weights[None]
        return optax.losses.softmax_cross_entropy(logits, targets)

    def class_weights(self, labels: np.ndarray, classes: int) -> np.ndarray:
        """n / (classes · n_c) for a class with n_c of the n labels; 1 for a class without clips."""
        counts = self.class_counts(labels, classes)
        return np.where(counts > 0, counts.sum() / (classes * np.maximum(counts, 1)), 1.0).astype(np.float32)

    def sampling_weights(self, labels: np.ndarray, classes: int) -> np.ndarray:
        """Proportional to 1 / n_c; clips without a class count as one class more."""
        counts = np.bincount(labels + 1, minlength=classes + 1)
        weights = 1.0 / counts[labels + 1]
        return weights / weights.sum()

    def activation(self, logits: jax.Array) -> jax.Array:
        """softmax(logits) over the last axis."""
        return jax.nn.softmax(logits)

    def step_metrics(self, logits: jax.Array, targets: jax.Array) -> dict[str, jax.Array]:
        """`accuracy` with respect to the largest target: of a mixture, the dominant class."""
        return {"accuracy": (logits.argmax(-1) == targets.argmax(-1)).astype(jnp.float32)}

    def decide(self, scores: np.ndarray, thresholds: np.ndarray | None = None) -> np.ndarray:
        """(…,) index of the largest score; the first of equal ones."""
        return np.asarray(scores).argmax(-1)

    def active(self, scores: np.ndarray, thresholds: np.ndarray | None = None) -> np.ndarray:
        """(…, classes) bool: the class with the largest score."""
        return self.decide(scores)[..., None] == np.arange(np.shape(scores)[-1])

    def thresholds(self, labels: np.ndarray, probabilities: np.ndarray) -> None:
        """None: the largest score decides."""

    def calibration_pairs(self, labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The largest probability of each clip, and whether the decision is correct."""
        return self.confidence(scores), self.clip_scores(labels, scores)

    def clip_scores(self, labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """(n,) 1 where the decision is correct, else 0."""
        return (self.decide(scores) == labels).astype(np.float64)

    def weighted_scores(self, labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """(draws,) weighted mean of the correct decisions."""
        return weights @ self.clip_scores(labels, scores) / weights.sum(axis=1)

    def score(self, labels: np.ndarray, scores: np.ndarray) -> float:
        """Accuracy."""
        return float(self.clip_scores(labels, scores).mean())

    def confidence(self, probabilities: np.ndarray, thresholds: np.ndarray | None = None) -> np.ndarray:
        """(n,) the largest probability."""
        return np.asarray(probabilities).max(-1)

    def probabilities(self, logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
        """softmax(logits / temperature). The ranking of the classes does not change."""
        scaled = np.asarray(logits, np.float64) / temperature
        scaled = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
        return scaled / scaled.sum(axis=-1, keepdims=True)

    def logits(self, probabilities: np.ndarray) -> np.ndarray:
        """ln p, with p at least the smallest normal float32 number."""
        return np.log(np.maximum(np.asarray(probabilities, np.float64), np.finfo(np.float32).tiny))

    def nll(self, logits: np.ndarray, labels: Sequence[int] | np.ndarray, temperature: float = 1.0) -> float:
        """Mean −ln softmax(logits / temperature)[label]."""
        scaled = np.asarray(logits, np.float64) / temperature
        return float((log_sum_exp(scaled) - scaled[np.arange(len(scaled)), np.asarray(labels)]).mean())

    def fold_metrics(
        self, labels: np.ndarray, scores: np.ndarray, views: np.ndarray | None, thresholds: np.ndarray | None = None
    ) -> dict[str, Any]:
        """`accuracy`, `accuracy_tta`, `correct`, `correct_tta`, `total`; those of views are None without views."""
        total, correct = len(labels), int(self.clip_scores(labels, scores).sum())
        correct_tta = None if views is None else int(self.clip_scores(labels, views).sum())
        return {
            "accuracy": correct / total,
            "accuracy_tta": None if correct_tta is None else correct_tta / total,
            "correct": correct,
            "correct_tta": correct_tta,
            "total": total,
        }

    def details(
        self, labels: np.ndarray, scores: np.ndarray, classes: Sequence[str], thresholds: np.ndarray | None = None
    ) -> dict[str, Any]:
        """`per_class` (accuracy, correct, total; accuracy is None without clips), `accuracy_macro`, `confusion`.

        `accuracy_macro` is the mean of the accuracies of the classes that have clips. It differs from the accuracy
        where classes differ in size.
        """
        table = confusion_matrix(labels, self.decide(scores), len(classes))
        totals, hits = table.sum(axis=1), table.diagonal()
        per_class = {
            name: {"accuracy": float(hit / total) if total else None, "correct": int(hit), "total": int(total)}
            for name, hit, total in zip(classes, hits, totals, strict=True)
        }
        macro = float((hits[totals > 0] / totals[totals > 0]).mean())
        return {"per_class": per_class, "accuracy_macro": macro, "confusion": table.tolist()}

    def class_counts(self, labels: np.ndarray, classes: int) -> np.ndarray:
        """(classes,) number of clips of each class."""
        return np.bincount(labels[labels >= 0], minlength=classes)

    def label_names(self, label: Any, classes: Sequence[str]) -> tuple[str, ...]:
        """The name of the class."""
        return (classes[int(label)],)

    def label_text(self, label: Any, classes: Sequence[str]) -> str:
        """Name of the class."""
        return classes[int(label)]

    def parse_label(self, text: str, classes: Sequence[str]) -> int:
        """Index of the class."""
        if text not in classes:
            raise ValueError(f"{text!r} is not a class")
        return classes.index(text)

    def error_groups(
        self, labels: np.ndarray, scores: np.ndarray, classes: Sequence[str], thresholds: np.ndarray | None = None
    ) -> list[ErrorGroup]:
        """A group for each pair of classes that are confused, in either direction.

        Groups of equal size are in the order of their most confident error, then of the class indices.
        """
        predicted, certainty = self.decide(scores), self.confidence(scores)
        totals = self.class_counts(labels, len(classes))
        pairs: dict[tuple[int, int], list[int]] = {}
        for row in np.flatnonzero(predicted != labels).tolist():
            pair = int(labels[row]), int(predicted[row])
            pairs.setdefault((min(pair), max(pair)), []).append(row)
        for rows in pairs.values():
            rows.sort(key=lambda row: -certainty[row])
        groups = []
        for (a, b), rows in sorted(pairs.items(), key=lambda item: (-len(item[1]), -certainty[item[1][0]], item[0])):
            forward = int((labels[rows] == a).sum())
            if 2 * forward < len(rows):  # the more frequent direction is first
                a, b, forward = b, a, len(rows) - forward
            first, second = (f"“{classes[index].replace('_', ' ')}”" for index in (a, b))
            back = f"{len(rows) - forward} of {totals[b]}" if forward < len(rows) else "none"
            text = f"{forward} of {totals[a]} {first} classified as {second}, {back} the other way round"
            groups.append(ErrorGroup(text, tuple(rows)))
        return groups

    def class_ranking(self, details: dict[str, Any]) -> list[tuple[str, float | None, str]]:
        """Classes by accuracy, then by name; classes without clips are last."""
        rows = [(name, v["accuracy"], f"{v['correct']}/{v['total']}") for name, v in details["per_class"].items()]
        return sorted(rows, key=lambda row: (row[1] is None, -(row[1] or 0.0), row[0]))


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """(classes, classes) counts: rows are true classes, columns are predicted classes."""
    table = np.zeros((classes, classes), np.int64)
    np.add.at(table, (labels, predicted), 1)
    return table


def log_sum_exp(logits: np.ndarray) -> np.ndarray:
    """(…, classes) → (…): ln Σᶜ exp(logitᶜ), in double precision and without overflow."""
    logits = np.asarray(logits, np.float64)
    top = logits.max(axis=-1, keepdims=True)
    return top[..., 0] + np.log(np.exp(logits - top).sum(axis=-1))
