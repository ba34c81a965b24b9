"""What is fitted to a network: its calibration, and what marks unfamiliar sounds."""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

import numpy as np

from esc_jax.data import folds
from esc_jax.data.clips import Clips
from esc_jax.data.folds import Split
from esc_jax.evaluation import novelty
from esc_jax.evaluation.calibration import Calibration
from esc_jax.evaluation.novelty import Novelty
from esc_jax.pretrained.audioset import AudioSetHead
from esc_jax.tasks.base import Task

# Training clips of each class that class means and thresholds are computed from.
CLIPS_PER_CLASS = 50
_PARTS = 5  # of the training clips, in turn left out of the class means


@dataclasses.dataclass(frozen=True)
class Fitted:
    """Calibration and detector of unfamiliar sounds."""

    calibration: Calibration
    novelty: Novelty

    def meta(self) -> dict[str, Any]:
        """For the `meta` of a checkpoint."""
        return {"calibration": self.calibration.to_dict(), "novelty": self.novelty.to_dict()}


def fit(
    task: Task, clips: Clips, split: Split, outputs_of: Callable[..., tuple[np.ndarray, np.ndarray]],
    head: AudioSetHead | None,
) -> Fitted:  # fmt: skip
    """Fits both on held-out clips: those of the validation fold, or of `train.calibration_share`.

    Without such clips, there is no temperature, and the threshold of unfamiliar sounds is set on training clips, which
    are left out of the class means in turn.

    Args:
        task: of the labels.
        clips, split: the data set, and which of its clips train the network.
        outputs_of: indices → logits (n, classes) and embeddings (n, D) of clips.
        head: AudioSet head of the published checkpoint; None without.
    """
    classes = len(clips.classes)
    trained = _sample(split.train, novelty.members(clips.labels[list(split.train)], classes))
    logits, embeddings = outputs_of(trained)
    labels = clips.labels[trained]
    members = novelty.members(labels, classes)
    held_out = list(split.calibration or split.validation)
    if not held_out:
        calibration = Calibration.trained(task, logits, labels, "training clips")
        parts = folds.assign_folds([clips.sources[i] for i in trained], [clips.targets[i] for i in trained], _PARTS)
        detector = novelty.cross_fitted(embeddings, members, parts, "training clips", head, novelty.TRAINED_MARKS)
        return Fitted(calibration, detector)
    description = f"{len(held_out)} held-out clips of the training folds"
    if not split.calibration:
        description = "the validation fold"
    logits, held_out_embeddings = outputs_of(held_out)
    labels = clips.labels[held_out]
    calibration = Calibration.held_out(task, logits, labels, description)
    known = novelty.members(labels, classes).any(axis=1)
    detector = Novelty.fit(embeddings, members, head)
    return Fitted(calibration, detector.with_threshold(detector.score(held_out_embeddings[known]), description))


def probe_novelty(
    clips: Clips, split: Split, fold: int, embeddings: np.ndarray, head: AudioSetHead | None, fitted_on: str
) -> Novelty:  # fmt: skip
    """What marks sounds that are unlike the clips that the head of a probe is trained on.

    Args:
        clips, split: the data set, and what is left out of it.
        fold: the test fold; `data.folds.NO_FOLD` for none.
        embeddings: (n, D) of the clips, by an encoder that was not trained on them.
        head: AudioSet head of the published checkpoint; None without.
        fitted_on: description of the clips.
    """
    folds_of_clips = np.asarray(clips.folds)
    trained = np.flatnonzero((folds_of_clips != fold) & ~np.isin(np.arange(len(clips)), split.dropped))
    members = novelty.members(clips.labels[trained], len(clips.classes))
    return novelty.cross_fitted(embeddings[trained], members, folds_of_clips[trained], fitted_on, head)


def _sample(indices: Sequence[int], members: np.ndarray) -> list[int]:
    """Those of the indices that are among the first clips of one of their classes, in a fixed random order."""
    order = np.random.default_rng(0).permutation(len(indices))
    members = members[order]
    chosen = ((np.cumsum(members, axis=0) <= CLIPS_PER_CLASS) & members).any(axis=1)
    return [indices[i] for i in sorted(order[chosen].tolist())]
