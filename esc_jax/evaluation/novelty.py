"""Which sounds are unlike the training data: distances between embeddings.

The features of a clip with the embedding x are

    f(x) = [ unit(x − c), unit(√σ(g(x))) ],    unit(v) = v / ‖v‖

where c is the mean of the class means of the embeddings, and g the AudioSet head of the encoder's published checkpoint.
Encoders without one have the first part only. The inner product of the second part is the Bhattacharyya coefficient
of the tags of two clips, up to scale. The score of a clip is its cosine similarity to the nearest class,

    score(x) = max over k of cos(f(x), m_k),

with the mean m_k of f over the training clips of class k. A clip is unfamiliar if its score is below a threshold, which
is a quantile of the scores of held-out clips. docs/results compares this score with others.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any, Self

import numpy as np

from esc_jax.errors import UserError
from esc_jax.pretrained.audioset import AudioSetHead
from esc_jax.training.checkpoint import CheckpointError
from esc_jax.training.restore import Restored

# Share of sounds of known classes that are marked as unfamiliar: of the held-out clips that the threshold is set on.
FALSE_MARKS = 0.03
# Of the training clips, where the encoder was trained on the clips that the threshold is set on. It is closer to these
# than to others: this share of them gave 3.0 % of the test clips (mn04 fine-tuned, seven sets of classes of ESC-50).
TRAINED_MARKS = 0.01


@dataclasses.dataclass(frozen=True)
class Novelty:
    """Distances to the classes of the training data, and the threshold beyond which a sound is unfamiliar.

    Attributes:
        center: (D,) float32, c.
        means: (K, F) float32 of unit length, m_k of the classes with training clips.
        head: g; None for encoders without.
        threshold: of the score; −inf marks nothing.
        fitted_on: description of the clips that the threshold was set on.
    """

    center: np.ndarray
    means: np.ndarray
    head: AudioSetHead | None = None
    threshold: float = -np.inf
    fitted_on: str = ""

    @classmethod
    def fit(cls, embeddings: np.ndarray, members: np.ndarray, head: AudioSetHead | None = None) -> Self:
        """The class means, without a threshold.

        Args:
            embeddings: (n, D) of training clips.
            members: (n, classes) bool, the classes of each clip. Clips without a class do not count.
            head: g.

        Raises:
            ValueError: no clip has a class.
        """
        members = members[:, members.any(axis=0)]
        if not members.size:
            raise ValueError("members: no clip has a class")
        weights = (members / members.sum(axis=0)).astype(np.float32).T
        means = weights @ embeddings
        # The only class of a data set must not lie in the centre.
        center = means.mean(axis=0) if len(means) > 1 else np.zeros_like(means[0])
        return cls(center, _unit(weights @ _features(embeddings, center, head)), head)

    def score(self, embeddings: np.ndarray) -> np.ndarray:
        """(n,) similarity of (n, D) embeddings to the nearest class, in [−1, 1]."""
        return (_unit(_features(embeddings, self.center, self.head)) @ self.means.T).max(axis=1)

    def with_threshold(self, scores: np.ndarray, fitted_on: str, share: float = FALSE_MARKS) -> Self:
        """The same distances with a threshold below which there is a share of scores of known sounds."""
        return dataclasses.replace(self, threshold=float(np.quantile(scores, share)), fitted_on=fitted_on)

    def unfamiliar(self, embeddings: np.ndarray) -> np.ndarray:
        """(n,) bool: score below the threshold."""
        return self.score(embeddings) < self.threshold

    def arrays(self) -> dict[str, Any]:
        """The arrays, for a checkpoint."""
        return {"center": self.center, "means": self.means} | ({"head": self.head.params} if self.head else {})

    def to_dict(self) -> dict[str, Any]:
        """Everything else, for JSON."""
        options = self.head.options if self.head else None
        return {"threshold": self.threshold, "fitted_on": self.fitted_on, "head": options}

    @classmethod
    def read(cls, values: dict[str, Any], arrays: dict[str, Any]) -> Self:
        """The inverse of `to_dict` and `arrays`."""
        head = AudioSetHead(values["head"], arrays["head"]) if values["head"] else None
        return cls(arrays["center"], arrays["means"], head, values["threshold"], values["fitted_on"])


def members(labels: np.ndarray, classes: int) -> np.ndarray:
    """(n, classes) bool, the classes of each clip, from labels in the form of `data.clips.Clips`."""
    return labels if labels.ndim > 1 else labels[:, None] == np.arange(classes)


def restore(restored: Restored) -> Novelty | None:
    """The detector of a checkpoint; None where it has none.

    Raises:
        CheckpointError: its values do not belong together.
    """
    if restored.novelty is None:
        return None
    try:
        detector = Novelty.read(restored.meta["novelty"], restored.novelty)
        score = detector.score(np.zeros((1, *detector.center.shape), np.float32))
        valid = score.shape == (1,) and np.isfinite(score).all() and not np.isnan(detector.threshold)
    except (AttributeError, KeyError, TypeError, ValueError, UserError):
        valid = False
    if not valid:
        raise CheckpointError(
            f"{restored.folder / str(restored.step)}: the values of its detector of unfamiliar sounds do not belong"
            " together"
        )
    return detector


def cross_fitted(
    embeddings: np.ndarray, members: np.ndarray, folds: Sequence[int] | np.ndarray, fitted_on: str,
    head: AudioSetHead | None = None, share: float = FALSE_MARKS,
) -> Novelty:  # fmt: skip
    """Class means of all clips, with a threshold from scores of each fold by class means of the other folds.

    Clips whose classes are in one fold only do not count. Without others, nothing is marked.

    Args:
        embeddings, members, head: as in `Novelty.fit`.
        folds: (n,).
        fitted_on: description of the clips.
        share: of the scores below the threshold; `TRAINED_MARKS` for an encoder that was trained on the clips.
    """
    detector, scores = Novelty.fit(embeddings, members, head), []
    for fold in np.unique(folds):
        inside = np.asarray(folds) == fold
        known = inside & members[:, members[~inside].any(axis=0)].any(axis=1)
        if known.any():
            scores.append(Novelty.fit(embeddings[~inside], members[~inside], head).score(embeddings[known]))
    return detector.with_threshold(np.concatenate(scores), fitted_on, share) if scores else detector


def _features(embeddings: np.ndarray, center: np.ndarray, head: AudioSetHead | None) -> np.ndarray:
    """f(x), (n, F) float32."""
    parts = [_unit(embeddings - center[None])]
    if head is not None:
        parts.append(_unit(np.exp(-0.5 * np.logaddexp(0.0, -head(embeddings)))))  # √σ without overflow
    return np.concatenate(parts, axis=1)


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Rows divided by their norms; zero for rows of zeros."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.maximum(norms, np.finfo(np.float32).tiny)).astype(np.float32)
