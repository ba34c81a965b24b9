"""Single-label classification: every clip belongs to exactly one class."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from esc_jax.tasks.base import Task


class SingleLabel(Task):
    """Softmax, cross-entropy and accuracy. Labels are class indices."""

    name = "single_label"
    metric = "accuracy"
    metric_label = "accuracy"
    hessian_bound = 0.5  # Böhning, "Multinomial logistic regression algorithm" (1992)

    def targets(self, labels: jax.Array, classes: int, smoothing: float = 0.0) -> jax.Array:
        """(B, classes): (1 − s) · one-hot + s / classes."""
        return jax.nn.one_hot(labels, classes, dtype=jnp.float32) * (1.0 - smoothing) + smoothing / classes

    def loss(self, logits: jax.Array, targets: jax.Array) -> jax.Array:
        """−Σ_c t_c log softmax(logits)_c, (B,)."""
        return optax.losses.softmax_cross_entropy(logits, targets)

    def activation(self, logits: jax.Array) -> jax.Array:
        """softmax(logits) over the last axis."""
        return jax.nn.softmax(logits)

    def step_metrics(self, logits: jax.Array, targets: jax.Array) -> dict[str, jax.Array]:
        """`accuracy` with respect to the largest target: of a mixture, the dominant class."""
        return {"accuracy": (logits.argmax(-1) == targets.argmax(-1)).astype(jnp.float32)}

    def decide(self, scores: np.ndarray) -> np.ndarray:
        """(…,) index of the largest score; the first of equal ones."""
        return np.asarray(scores).argmax(-1)

    def correct(self, labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """(…, n) bool."""
        return self.decide(scores) == labels

    def clip_scores(self, labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """(n,) 1 where the decision is correct, else 0."""
        return self.correct(labels, scores).astype(np.float64)

    def score(self, labels: np.ndarray, scores: np.ndarray) -> float:
        """Accuracy."""
        return float(self.correct(labels, scores).mean())

    def confidence(self, probabilities: np.ndarray) -> np.ndarray:
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

    def energy(self, logits: np.ndarray) -> np.ndarray:
        """ln Σᶜ exp(logitᶜ) (W. Liu et al., "Energy-based out-of-distribution detection", 2020, sign reversed)."""
        return log_sum_exp(logits)

    def nll(self, logits: np.ndarray, labels: Sequence[int] | np.ndarray, temperature: float = 1.0) -> float:
        """Mean −ln softmax(logits / temperature)[label]."""
        scaled = np.asarray(logits, np.float64) / temperature
        return float((log_sum_exp(scaled) - scaled[np.arange(len(scaled)), np.asarray(labels)]).mean())

    def fold_metrics(self, labels: np.ndarray, scores: np.ndarray, views: np.ndarray | None) -> dict[str, Any]:
        """`accuracy`, `accuracy_tta`, `correct`, `correct_tta`, `total`; those of views are None without views."""
        total, correct = len(labels), int(self.correct(labels, scores).sum())
        correct_tta = None if views is None else int(self.correct(labels, views).sum())
        return {
            "accuracy": correct / total,
            "accuracy_tta": None if correct_tta is None else correct_tta / total,
            "correct": correct,
            "correct_tta": correct_tta,
            "total": total,
        }

    def details(self, labels: np.ndarray, scores: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
        """`per_class` (accuracy, correct, total; accuracy is None without clips) and the `confusion` matrix."""
        table = confusion_matrix(labels, self.decide(scores), len(classes))
        totals, hits = table.sum(axis=1), table.diagonal()
        per_class = {
            name: {"accuracy": float(hit / total) if total else None, "correct": int(hit), "total": int(total)}
            for name, hit, total in zip(classes, hits, totals, strict=True)
        }
        return {"per_class": per_class, "confusion": table.tolist()}

    def class_counts(self, labels: np.ndarray, classes: int) -> np.ndarray:
        """(classes,) number of clips of each class."""
        return np.bincount(labels, minlength=classes)

    def label_text(self, label: Any, classes: Sequence[str]) -> str:
        """Name of the class."""
        return classes[int(label)]

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
