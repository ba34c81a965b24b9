"""A classifier from labelled passages of an embedding store, and the passages to label next.

The head is linear, on frozen embeddings, as in `experiments.probe_heads`. Its regularization is chosen on passages that
are held out by recording. The next passages to label are those with the smallest margin between the two most probable
classes (margin sampling; Scheffer et al., "Active hidden Markov models for information extraction", 2001).
"""

import collections
from collections.abc import Sequence
import dataclasses
import hashlib
import pathlib
from typing import Any

import numpy as np

from esc_jax import config as configs
from esc_jax.data import folds as protocols
from esc_jax.data.clips import Clips
from esc_jax.errors import UserError
from esc_jax.evaluation import novelty
from esc_jax.experiments import probe, probe_heads
from esc_jax.experiments.probe_heads import ProbeResult
from esc_jax.inference import embeddings, index, labels, model_path
from esc_jax.inference.classifier import restore_any
from esc_jax.inference.index_store import Passage, Store, StoreError
from esc_jax.inference.labels import LabelledPassages
from esc_jax.models import model as models
from esc_jax.models import registry
from esc_jax.models.model import Model
from esc_jax.pretrained import audioset, load, merge
from esc_jax.tasks import registry as tasks
from esc_jax.training import checkpoint

TASK = tasks.get("single_label")
FITTED_ON = "the labelled passages, each held out once"
USED_LABELS = "labels.csv"
_FOLDS = 5
_CANDIDATES = 4  # least certain passages that are kept for each that is asked for; some overlap


class IndexProbeError(UserError, ValueError):
    """A classifier that cannot be fitted or written. The message is one sentence."""


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A head on labelled passages.

    Attributes:
        head: kernel, bias, strength and calibration; `validation` is the accuracy on passages that were held out.
        folds: (n,) parts that were held out together.
        grouped: whether passages of one recording were held out together; if not, the accuracy is too high.
    """

    head: ProbeResult
    folds: list[int]
    grouped: bool


@dataclasses.dataclass(frozen=True)
class Suggestion:
    """A passage to label: path, begin and end in seconds, the two most probable classes, and their difference."""

    file: str
    start_s: float
    end_s: float
    classes: tuple[str, str]
    margin: float


def fit(x: np.ndarray, labelled: LabelledPassages) -> Fitted:
    """Fits a head.

    Args:
        x: (n, D) embeddings of the passages.
        labelled: passages and classes.

    Raises:
        IndexProbeError: there are fewer than four passages.
    """
    count = len(labelled.passages)
    if count < 4:
        raise IndexProbeError(f"a classifier needs four labelled passages or more: the store has {count}")
    groups = [str(one.recording) for one in labelled.passages]
    # A recording can be held out without losing a class only if every class is in two recordings or more.
    recordings = collections.Counter(target for _, target in set(zip(groups, labelled.targets, strict=True)))
    grouped = min(recordings.values()) > 1
    if not grouped:
        groups = [str(one.id) for one in labelled.passages]
    parts = min(_FOLDS, len(set(groups)))
    folds = protocols.assign_folds(groups, [[target] for target in labelled.targets], parts)
    labels = np.array(labelled.targets, np.int32)
    test_folds = [protocols.NO_FOLD]
    (head,) = probe_heads.fit(TASK, x[None], labels, folds, test_folds, len(labelled.classes), balanced=True)
    return Fitted(head, folds, grouped)


def margins(probabilities: np.ndarray) -> np.ndarray:
    """(n,) difference of the two largest probabilities of (n, classes)."""
    two = np.partition(probabilities, probabilities.shape[1] - 2, axis=1)[:, -2:]
    return two[:, 1] - two[:, 0]


def least_certain(
    store: Store, head: ProbeResult, classes: Sequence[str], labelled: Sequence[Passage], count: int
) -> list[Suggestion]:
    """The passages with the smallest margins, without those that overlap a labelled passage or each other.

    Args:
        store: of the passages.
        head: on their embeddings.
        classes: of the head.
        labelled: passages that are left out.
        count: largest number of passages.
    """
    with store.snapshot():
        numbers, values = np.zeros(0, np.int64), np.zeros(0)
        pairs = np.zeros((0, 2), np.int64)
        keep = _CANDIDATES * count + 2 * len(labelled)
        for part, x in store.blocks():
            shares = head.calibration.probabilities(TASK, probe_heads.head_logits(x, head.kernel, head.bias))
            numbers, values = np.concatenate([numbers, part]), np.concatenate([values, margins(shares)])
            pairs = np.concatenate([pairs, np.argsort(-shares, axis=1, kind="stable")[:, :2]])
            order = np.lexsort((numbers, values))[:keep]
            numbers, values, pairs = numbers[order], values[order], pairs[order]
        passages = store.passages(numbers)
        chosen = index.without_overlaps([*labelled, *passages])[len(labelled) :]
        suggestions = []
        for place in [place - len(labelled) for place in chosen if place >= len(labelled)][:count]:
            one, (first, second) = passages[place], pairs[place]
            names = classes[first], classes[second]
            path = store.path_of(one.recording)
            suggestions.append(Suggestion(path, one.start_s, one.end_s, names, float(values[place])))
        return suggestions


def check_folder(folder: pathlib.Path) -> None:
    """Raises IndexProbeError where a folder has something else than a classifier of this module."""
    if folder.exists() and not folder.is_dir():
        raise IndexProbeError(f"--out={folder} is a file: give a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / USED_LABELS).is_file():
        raise IndexProbeError(f"--out={folder} has other files and no {USED_LABELS}: give a new or an empty folder")
    if not checkpoint.is_writable_name(folder):
        raise IndexProbeError(f"--out={folder}: nothing can be written below a folder with [, ] or \\ in its name")


def save(
    folder: pathlib.Path,
    store: Store,
    given: Sequence[labels.Label],
    labelled: LabelledPassages,
    x: np.ndarray,
    fitted: Fitted,
    path: str | None,
) -> None:
    """Writes the classifier: a checkpoint of the encoder with the head, for prediction and export; and the labels.

    Args:
        folder: is created; a classifier in it is replaced.
        store: of the passages.
        given: the labels.
        labelled, x: of the passages.
        fitted: of `fit`.
        path: of the encoder, if it was moved since the recordings were embedded.

    Raises:
        StoreError: the encoder is not that of the store.
        IndexProbeError: as `check_folder`.
        CheckpointError: the disk is full.
    """
    check_folder(folder)
    config, model = _classifier(store, labelled.classes, path)
    clips = _clips(store, labelled, fitted)
    members = novelty.members(clips.labels, len(labelled.classes))
    head = audioset.head(config) if config.model.pretrained else None
    detector = novelty.cross_fitted(x, members, fitted.folds, FITTED_ON, head)
    folder.mkdir(parents=True, exist_ok=True)
    # Before the checkpoint: by its labels, the next call knows the folder of a call that was killed.
    labels.write_labels(folder / USED_LABELS, given)
    probe.save_classifier(config, clips, folder, model, fitted.head, detector)


def _classifier(store: Store, classes: Sequence[str], path: str | None) -> tuple[Any, Model]:
    """A config and a model with the encoder of a store and a linear layer with random weights.

    A head that pools the features is kept: the embeddings are its own.
    """
    settings = store.settings
    path = path or settings.model
    if model_path.has_config(path):
        restored = restore_any(path)
        encoder = embeddings.encoder_fingerprint(restored.model)
        config = restored.config.copy_and_resolve_references()
        with config.unlocked():
            if not restored.model.module.pools:
                config.model.head = registry.defaults(config.model.name)["head"]
        config.model.pretrained = ""
        config.data.clip_s = settings.window_s
        model = models.create(config, classes)
        variables = {name: {**tree, **_encoder(restored.model, name)} for name, tree in model.variables.items()}
        if restored.model.module.pools:
            layer = {"classifier": variables["params"]["head"]["classifier"]}
            variables["params"]["head"] = {**restored.model.variables["params"]["head"], **layer}
        model = model.with_variables(variables)
    else:
        architecture = merge.identify(path).architecture
        config = configs.defaults(architecture)
        config.model.pretrained = path
        masked = registry.uses_padding(architecture)
        config.data.update(sample_rate=settings.sample_rate, clip_s=settings.window_s, mask_padding=masked)
        config, model = load.initialize(config, classes)
        encoder = embeddings.encoder_fingerprint(model)
    if encoder != settings.encoder:
        raise StoreError(
            f"{store.path} has passages of another encoder ({settings.model}): {path} has changed or differs"
        )
    config.update(method="probe", protocol="all", task=TASK.name)
    config.data.update(name="folder", dir=str(store.path))
    return config, model


def _encoder(model: Model, collection: str) -> dict[str, Any]:
    tree = model.variables.get(collection, {})
    return {"encoder": tree["encoder"]} if "encoder" in tree else {}


def _clips(store: Store, labelled: LabelledPassages, fitted: Fitted) -> Clips:
    """The passages as a data set, for the description in the checkpoint; their audio is not read."""

    def fetch(i: int) -> np.ndarray:
        raise NotImplementedError

    passages, count = labelled.passages, len(labelled.passages)
    length = round(store.settings.window_s * store.settings.sample_rate)
    known = repr([(one.id, target) for one, target in zip(passages, labelled.targets, strict=True)])
    fingerprint = hashlib.sha256(f"{store.settings.encoder} {known}".encode()).hexdigest()[:16]
    return Clips(
        labels=np.array(labelled.targets, np.int32),
        folds=tuple(fitted.folds),
        sources=tuple(str(one.recording) for one in passages),
        filenames=tuple(f"{one.recording}@{one.start_s:g}s" for one in passages),
        classes=labelled.classes,
        sample_rate=store.settings.sample_rate,
        samples=np.full(count, length),
        length=length,
        fingerprint=fingerprint,
        bad={},
        fetch=fetch,
    )


def describe(labelled: LabelledPassages, fitted: Fitted) -> str:
    """The labels and the accuracy as lines of text."""
    counts = [labelled.targets.count(target) for target in range(len(labelled.classes))]
    names = ", ".join(f"{name} {count}" for name, count in zip(labelled.classes, counts, strict=True))
    score = f"accuracy {100 * fitted.head.validation:.1f} %"
    how = "recordings held out in turn"
    if not fitted.grouped:
        how = "passages held out in turn; too high: a class is in one recording only"
    return f"{sum(counts)} labelled passages: {names}\n{score} ({how}; L2 {fitted.head.l2:g})\n"
