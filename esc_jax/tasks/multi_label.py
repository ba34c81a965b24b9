"""Multi-label classification: a clip has any number of classes, or none."""

from collections.abc import Sequence
import math
import re
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from esc_jax.tasks import ranking
from esc_jax.tasks.base import ErrorGroup, Task

_MAX_CLASS_WEIGHT = 100.0


class MultiLabel(Task):
    """Sigmoid, binary cross-entropy and mean average precision. Labels are (n, classes) bool; a row may be empty."""

    name = "multi_label"
    multi_hot: ClassVar[bool] = True
    metric = "mAP"
    metric_label = "mAP"
    class_metric_label = "AP"
    other_metrics: ClassVar[dict[str, str]] = {
        "mAP_micro": "micro mAP",
        "lwlrap": "lwlrap",
        "auc_macro": "macro AUC",
        "f1_macro": "macro F1",
    }
    step_metric = "lrap"
    hessian_bound = 0.25  # of ln(1 + e^x)
    torch_activation = "sigmoid()"
    default_threshold: ClassVar[float] = 0.5
    decision_label = "detected"

    def targets(self, labels: jax.Array, classes: int, smoothing: float = 0.0) -> jax.Array:
        """(B, classes): (1 − s) · labels + s / 2."""
        return labels.astype(jnp.float32) * (1.0 - smoothing) + smoothing / 2

    def loss(self, logits: jax.Array, targets: jax.Array, class_weights: jax.Array | None = None) -> jax.Array:
        """−Σ_c [w_c t_c ln σ(logit_c) + (1 − t_c) ln(1 − σ(logit_c))], (B,).

        A sum over classes, so that without weights it is the negative log-likelihood of the labels of a clip.
        """
        positive = jax.nn.softplus(-logits)
        if class_weights is not None:
            positive = positive * class_weights[None]
        return (targets * positive + (1.0 - targets) * jax.nn.softplus(logits)).sum(axis=-1)

    def class_weights(self, labels: np.ndarray, classes: int) -> np.ndarray:
        """(n − n_c) / n_c within [1, 100] for a class that n_c of the n clips have; 1 for a class without clips.

        Weights of the positive term of the loss: positives and negatives of a class then count alike.
        """
        counts = self.class_counts(labels, classes)
        weights = (len(labels) - counts) / np.maximum(counts, 1)
        return np.where(counts > 0, np.clip(weights, 1.0, _MAX_CLASS_WEIGHT), 1.0).astype(np.float32)

    def sampling_weights(self, labels: np.ndarray, classes: int) -> np.ndarray:
        """Proportional to 1 / min_c n_c over the classes of a clip; clips without a class count as one class more.

        The rarest class of a clip decides how often it is drawn. Classes that occur together with rarer ones are drawn
        more often than those.
        """
        labels = np.asarray(labels, bool)
        empty = ~labels.any(axis=1)
        rarest = np.where(labels, self.class_counts(labels, classes)[None], len(labels)).min(axis=1)
        weights = 1.0 / np.where(empty, empty.sum(), rarest)
        return weights / weights.sum()

    def activation(self, logits: jax.Array) -> jax.Array:
        """σ(logits)."""
        return jax.nn.sigmoid(logits)

    def step_metrics(self, logits: jax.Array, targets: jax.Array) -> dict[str, jax.Array]:
        """`lrap`: label-ranking average precision, with targets above ½ as positives.

        The mean over the positives of an example of (number of positives ranked at or above it) / (number of classes
        ranked at or above it); 1 for an example without positives, as in scikit-learn.
        """
        positive = targets > 0.5
        above = logits[..., None, :] >= logits[..., :, None]
        hits = (above & positive[..., None, :]).sum(axis=-1).astype(jnp.float32)
        precision = hits / jnp.maximum(above.sum(axis=-1), 1).astype(jnp.float32)
        count = positive.sum(axis=-1)
        mean = jnp.where(positive, precision, 0.0).sum(axis=-1) / jnp.maximum(count, 1).astype(jnp.float32)
        return {"lrap": jnp.where(count > 0, mean, 1.0)}

    def decide(self, scores: np.ndarray, thresholds: np.ndarray | None = None) -> np.ndarray:
        """(…, classes) bool: probabilities of at least their threshold, ½ by default."""
        return np.asarray(scores) >= (self.default_threshold if thresholds is None else thresholds)

    def active(self, scores: np.ndarray, thresholds: np.ndarray | None = None) -> np.ndarray:
        """(…, classes) bool: the decision itself."""
        return self.decide(scores, thresholds)

    def thresholds(self, labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        """(classes,) thresholds with the largest F1 of each class; ½ for classes without positives."""
        return ranking.best_f1_thresholds(labels, probabilities, self.default_threshold)

    def calibration_pairs(self, labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The probability of every class of every clip, and whether the clip has the class."""
        return np.asarray(scores).reshape(-1), np.asarray(labels).reshape(-1).astype(np.float64)

    def clip_scores(self, labels: np.ndarray, scores: np.ndarray) -> None:
        """None: average precision is no mean over clips."""

    def weighted_scores(self, labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """(draws,) mean of the average precisions of the classes that have positives in a draw.

        NaN for a draw in which no class has positives.
        """
        values = ranking.weighted_average_precision(labels, scores, weights)
        defined = np.isfinite(values)
        counts = defined.sum(axis=1)
        sums = np.where(defined, values, 0.0).sum(axis=1)
        return np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)

    def score(self, labels: np.ndarray, scores: np.ndarray) -> float:
        """Mean of the average precisions of the classes that have positives (macro mAP); 0 where no class has any."""
        return _mean(ranking.average_precision(labels, scores)) or 0.0

    def confidence(self, probabilities: np.ndarray, thresholds: np.ndarray | None = None) -> np.ndarray:
        """(n,) probability of the decision if the classes are independent: Π_c p_c or 1 − p_c."""
        probabilities = np.asarray(probabilities, np.float64)
        return np.where(self.decide(probabilities, thresholds), probabilities, 1 - probabilities).prod(axis=-1)

    def probabilities(self, logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
        """σ(logits / temperature)."""
        return np.exp(-np.logaddexp(0.0, -np.asarray(logits, np.float64) / temperature))

    def logits(self, probabilities: np.ndarray) -> np.ndarray:
        """ln p − ln(1 − p), with p at least the smallest normal float32 number and below 1."""
        p = np.asarray(probabilities, np.float64)
        p = np.clip(p, np.finfo(np.float32).tiny, np.nextafter(1.0, 0.0))
        return np.log(p) - np.log1p(-p)

    def nll(self, logits: np.ndarray, labels: Sequence[int] | np.ndarray, temperature: float = 1.0) -> float:
        """Mean over clips of −Σ_c ln p(label_c), with p of logits / temperature."""
        scaled = np.asarray(logits, np.float64) / temperature
        return float((np.logaddexp(0.0, scaled) - np.asarray(labels) * scaled).sum(axis=-1).mean())

    def fold_metrics(
        self, labels: np.ndarray, scores: np.ndarray, views: np.ndarray | None, thresholds: np.ndarray | None = None
    ) -> dict[str, Any]:
        """`mAP`, `mAP_tta`, `mAP_micro`, `lwlrap`, `auc_macro`, `f1_macro`, `total`.

        `mAP` is the mean over classes with positives; `mAP_micro` is the average precision of all pairs of a clip and a
        class in one ranking. `auc_macro` and `f1_macro` are means over the classes for which they are defined, those of
        `f1_macro` are decided with the thresholds. A metric that is not defined is None.
        """
        return {
            "mAP": self.score(labels, scores),
            "mAP_tta": None if views is None else self.score(labels, views),
            "mAP_micro": _mean(ranking.average_precision(np.reshape(labels, (-1, 1)), np.reshape(scores, (-1, 1)))),
            "lwlrap": _defined(ranking.lwlrap(labels, scores)),
            "auc_macro": _mean(ranking.roc_auc(labels, scores)),
            "f1_macro": _mean(_f1(labels, self.decide(scores, thresholds))),
            "total": len(labels),
        }

    def details(
        self, labels: np.ndarray, scores: np.ndarray, classes: Sequence[str], thresholds: np.ndarray | None = None
    ) -> dict[str, Any]:
        """`per_class` and `cooccurrence`.

        `per_class` has `AP`, `auc` and `f1` (None where they are not defined), `threshold`, `positives` and `total`.
        The threshold is the mean over clips where folds have thresholds of their own. `cooccurrence` is (classes,
        classes): the number of clips of class i for which class j is decided.
        """
        labels, decided = np.asarray(labels, bool), self.decide(scores, thresholds)
        limits = np.broadcast_to(self.default_threshold if thresholds is None else thresholds, np.shape(scores))
        columns = {
            "AP": ranking.average_precision(labels, scores),
            "auc": ranking.roc_auc(labels, scores),
            "f1": _f1(labels, decided),
            "threshold": limits.mean(axis=0),
        }
        per_class = {
            name: {key: _defined(values[index]) for key, values in columns.items()}
            | {"positives": int(labels[:, index].sum()), "total": len(labels)}
            for index, name in enumerate(classes)
        }
        return {"per_class": per_class, "cooccurrence": (labels.astype(np.int64).T @ decided).tolist()}

    def class_counts(self, labels: np.ndarray, classes: int) -> np.ndarray:
        """(classes,) number of clips that have each class."""
        return np.asarray(labels, bool).sum(axis=0)

    def label_names(self, label: Any, classes: Sequence[str]) -> tuple[str, ...]:
        """Names in the order of the classes."""
        return tuple(name for name, has_class in zip(classes, label, strict=True) if has_class)

    def label_text(self, label: Any, classes: Sequence[str]) -> str:
        r"""Names of the classes, separated by ";". A ";" or "\" in a name is preceded by "\". Empty for no class."""
        return ";".join(re.sub(r"([;\\])", r"\\\1", name) for name in self.label_names(label, classes))

    def parse_label(self, text: str, classes: Sequence[str]) -> np.ndarray:
        """(classes,) bool."""
        label = np.zeros(len(classes), bool)
        names = re.findall(r"((?:[^;\\]|\\.)+)(?:;|$)", text)
        if ";".join(names) != text:
            raise ValueError(f"{text!r} is not a list of classes")
        place = {name: index for index, name in enumerate(classes)}
        for name in (re.sub(r"\\(.)", r"\1", escaped) for escaped in names):
            if name not in place:
                raise ValueError(f"{name!r} is not a class")
            label[place[name]] = True
        return label

    def error_groups(
        self, labels: np.ndarray, scores: np.ndarray, classes: Sequence[str], thresholds: np.ndarray | None = None
    ) -> list[ErrorGroup]:
        """For each class a group of clips in which it is missed, and one of clips in which it is a false alarm.

        The clips of a group are in the order of the probability of the class: lowest first for misses, highest first
        for false alarms.
        """
        labels, scores = np.asarray(labels, bool), np.asarray(scores)
        decided, totals = self.decide(scores, thresholds), self.class_counts(labels, len(classes))
        groups = []
        for index, name in enumerate(classes):
            shown = f"“{name.replace('_', ' ')}”"
            missed, false = labels[:, index] & ~decided[:, index], ~labels[:, index] & decided[:, index]
            texts = (
                f"{shown} missed in {missed.sum()} of its {totals[index]} clips",
                f"{shown} detected in {false.sum()} of {len(labels) - totals[index]} clips without it",
            )
            for errors, sign, text in zip((missed, false), (1, -1), texts, strict=True):
                rows = np.flatnonzero(errors)
                rows = rows[np.argsort(sign * scores[rows, index], kind="stable")]
                groups.append(ErrorGroup(text, tuple(rows.tolist())))
        return sorted((group for group in groups if group.rows), key=lambda group: -len(group.rows))

    def class_ranking(self, details: dict[str, Any]) -> list[tuple[str, float | None, str]]:
        """Classes by average precision, then by name, with their clips ("12/400"); classes without clips are last."""
        rows = [(name, v["AP"], f"{v['positives']}/{v['total']}") for name, v in details["per_class"].items()]
        return sorted(rows, key=lambda row: (row[1] is None, -(row[1] or 0.0), row[0]))


def _defined(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _mean(values: np.ndarray) -> float | None:
    """Mean of the values that are defined; None where none is."""
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else None


def _f1(labels: np.ndarray, decided: np.ndarray) -> np.ndarray:
    """(classes,) 2 TP / (2 TP + FP + FN); NaN for classes without positives."""
    labels = np.asarray(labels, bool)
    hits, positives = (labels & decided).sum(axis=0), labels.sum(axis=0)
    pairs = positives + decided.sum(axis=0)
    return np.divide(2 * hits, pairs, out=np.full(len(pairs), np.nan), where=positives > 0)
