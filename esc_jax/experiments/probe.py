"""Linear and nearest-neighbour heads on frozen embeddings, for all folds and regularization strengths in one program.

The regularization of a test fold's head is chosen inside its training folds: each of them is validated once, on heads
that were trained without it and without the test fold. The head is then trained on all training folds and tested once.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math
import pathlib
import shutil
import time
from typing import Any

from absl import logging
import jax.numpy as jnp
import numpy as np
import optax
import tqdm

from esc_jax import config as configs
from esc_jax.data import cache
from esc_jax.data import folds as protocols
from esc_jax.data.clips import Clips
from esc_jax.data.folds import Split
from esc_jax.data.rows import DataError, Layout
from esc_jax.evaluation import calibration, results
from esc_jax.evaluation.calibration import Calibration
from esc_jax.evaluation.novelty import Novelty
from esc_jax.experiments import calibrate, crossval_quote, dataset, workdir
from esc_jax.experiments.artifacts import write_artifacts
from esc_jax.inference.embeddings import embed_clips
from esc_jax.models.model import Model, Variables
from esc_jax.pretrained import audioset, load
from esc_jax.runtime import devices, processes
from esc_jax.tasks import registry as tasks
from esc_jax.tasks.base import Task
from esc_jax.training import checkpoint, linear_probe
from esc_jax.training import state as states

L2 = (0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 0.003, 0.001)  # strongest first: of equal strengths the first is chosen
NEIGHBOURS = (50, 20, 10, 5, 3, 1)
STEPS = 100
FITTED_ON = "the training folds, each held out once"


@dataclasses.dataclass(frozen=True)
class ProbeResult:
    """The head of one test fold.

    Attributes:
        fold: the test fold.
        l2: the chosen strength.
        kernel, bias: (D, C), (C,) of the head, on embeddings that are not standardized.
        validation: primary metric of that strength on the training folds, each held out once.
        calibration: fitted on these held-out predictions.
        spread: largest difference of a probability between seeds on the test fold; 0 with one seed. The problem is
            convex, so this is the error of the solver.
        neighbours: the chosen number of nearest neighbours.
        knn_score: primary metric of the nearest neighbours on the test fold; NaN without a test fold.
    """

    fold: int
    l2: float
    kernel: np.ndarray
    bias: np.ndarray
    validation: float
    calibration: Calibration
    spread: float
    neighbours: int
    knn_score: float


def embed_with_progress(model: Model, clips: Clips, folder: pathlib.Path, views: int = 1) -> np.ndarray:
    """`inference.embeddings.embed_clips` under a progress bar."""
    with tqdm.tqdm(desc="embedding", unit="batch", leave=False, disable=None) as bar:

        def update(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return embed_clips(model, clips, folder, views, progress=update)


def head_logits(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """x · kernel + bias: (…, n, D), (…, D, C), (…, C) → (…, n, C)."""
    return np.matmul(x, kernel) + bias[..., None, :]


def fit_heads(
    task: Task, x: np.ndarray, labels: np.ndarray, folds: Sequence[int], test_folds: Sequence[int], classes: int, *,
    l2: Sequence[float] = L2, seeds: int = 1, steps: int = STEPS, excluded: np.ndarray | None = None,
    balanced: bool = False,
) -> list[ProbeResult]:  # fmt: skip
    """Heads for every test fold.

    Args:
        task: loss and metric.
        x: (views, N, D) embeddings. The strength is chosen on the clips themselves, x[0]. The tested head is trained
            on all views.
        labels: (N, …).
        folds: (N,).
        test_folds: the test folds; `data.folds.NO_FOLD` for a head that is trained on all clips.
        classes: C.
        l2: strengths to choose from.
        seeds: number of starting points of the solver.
        steps: of the solver.
        excluded: (N,) bool, clips that no head is trained on, and on which nothing is chosen or calibrated.
        balanced: whether every class has the same weight in the loss, whatever the number of its clips.

    Raises:
        DataError: a test fold leaves fewer than two folds to choose the strength on.
    """
    fold_of = np.asarray(folds)
    allowed = np.ones(len(fold_of), bool) if excluded is None else ~excluded
    inner = np.where(allowed, fold_of, protocols.BACKGROUND_FOLD)  # a fold that nothing is validated on
    masks = {names: mask & allowed for names, mask in linear_probe.exclusion_masks(inner, test_folds).items()}
    if not all(mask.any() for mask in masks.values()):
        raise DataError("a probe needs at least three folds: two training folds to choose its regularization, one test")
    names, weights = list(masks), np.stack(list(masks.values())).astype(np.float32)
    if balanced:
        for mask, weight in zip(masks.values(), weights, strict=True):
            weight[mask] = task.sampling_weights(np.asarray(labels)[mask], classes)
    shape = {"task": task, "classes": classes}
    heads = linear_probe.fit(x[0], labels, weights, np.asarray(l2, np.float32), np.arange(1), steps=steps, **shape)
    kernel, bias = np.asarray(heads.kernel)[:, :, 0], np.asarray(heads.bias)[:, :, 0]
    # One mask at a time: the logits of all heads together would take gigabytes.
    choices = linear_probe.select_settings(task, labels, _Logits(x[0], kernel, bias), names, inner, test_folds)
    votes = np.asarray(linear_probe.knn_scores(x[0], labels, weights, ks=NEIGHBOURS, **shape))
    neighbours = linear_probe.select_settings(task, labels, votes, names, inner, test_folds)
    final = {excluded: weight for excluded, weight in zip(names, weights, strict=True) if len(excluded) == 1}
    problem = _Problem(task, x, labels, fold_of, classes, final, seeds, steps)
    outcomes = []
    for fold in test_folds:
        setting = choices[fold]
        held_out = [
            _held_out(x[0], labels, inner, names[mask] - {fold}, kernel[mask, setting], bias[mask, setting])
            for mask in _validating(names, fold)
        ]
        logits, truth = (np.concatenate(parts) for parts in zip(*held_out, strict=True))
        nearest = neighbours[fold]
        inside = fold_of == fold
        votes_of_fold = votes[names.index(frozenset((fold,))), nearest]
        knn = task.score(labels[inside], votes_of_fold[inside]) if inside.any() else math.nan
        weight, offset, spread = _final_head(problem, fold, l2[setting])
        outcomes.append(
            ProbeResult(
                fold=fold,
                l2=l2[setting],
                kernel=weight,
                bias=offset,
                validation=task.score(truth, logits),
                calibration=Calibration.held_out(task, logits, truth, FITTED_ON),
                spread=spread,
                neighbours=NEIGHBOURS[nearest],
                knn_score=knn,
            )
        )
    return outcomes


class _Logits:
    """(settings, N, C) logits of each mask's heads, computed when they are asked for."""

    def __init__(self, x: np.ndarray, kernel: np.ndarray, bias: np.ndarray):
        self._x, self._kernel, self._bias = x, kernel, bias

    def __getitem__(self, mask: int, /) -> np.ndarray:
        return np.stack([self._x @ k + b for k, b in zip(self._kernel[mask], self._bias[mask], strict=True)])


@dataclasses.dataclass(frozen=True)
class _Problem:
    """Arguments of `fit_heads`, with the weights of the clips for each test fold."""

    task: Task
    x: np.ndarray
    labels: np.ndarray
    folds: np.ndarray
    classes: int
    weights: Mapping[frozenset[int], np.ndarray]
    seeds: int
    steps: int


def _validating(names: Sequence[frozenset[int]], fold: int) -> list[int]:
    """Masks that exclude the test fold and one more fold."""
    return [mask for mask, excluded in enumerate(names) if fold in excluded and len(excluded) == 2]


def _held_out(
    x: np.ndarray, labels: np.ndarray, folds: np.ndarray, validated: frozenset[int], kernel: np.ndarray,
    bias: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Logits and labels of the clips of the validated fold."""
    inside = np.isin(folds, list(validated))
    return x[inside] @ kernel + bias, labels[inside]


def _final_head(problem: _Problem, fold: int, l2: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Kernel and bias of the head of a test fold, and the largest difference of a probability between seeds."""
    x, views = problem.x, len(problem.x)
    weights = np.tile(problem.weights[frozenset((fold,))], views)[None]
    heads = linear_probe.fit(
        x.reshape(-1, x.shape[-1]),
        np.tile(problem.labels, (views,) + (1,) * (problem.labels.ndim - 1)),
        weights,
        np.asarray([l2], np.float32),
        np.arange(problem.seeds),
        task=problem.task,
        classes=problem.classes,
        steps=problem.steps,
    )
    kernel, bias = np.asarray(heads.kernel)[0, 0], np.asarray(heads.bias)[0, 0]
    tested = x[0] if fold == protocols.NO_FOLD else x[0][problem.folds == fold]
    probabilities = problem.task.probabilities(head_logits(tested[None], kernel, bias))
    return kernel[0], bias[0], float(np.abs(probabilities - probabilities[:1]).max())


def probe_and_evaluate(
    config: Any,
    folder: pathlib.Path,
    test_folds: Sequence[int] | None = None,
    quote: crossval_quote.Quote | None = None,
) -> dict[str, Any]:
    """Embeds the clips once, fits and tests the head of every test fold, and writes the files of a run.

    The checkpoint of a fold is the frozen encoder with the fold's head. With `test_folds`, it is in `folder`/fold1 and
    so on.

    Args:
        config: with `method` "probe".
        folder: workdir of the run.
        test_folds: test folds; None for `data.test_fold`, or for none under the protocol `all`.
        quote: cross-validation of the config, under the protocol `all`; its score is in results.json.

    Raises:
        ConfigError, DataError, PretrainedError, CheckpointError: with a message of one sentence.
    """
    configs.check(config)
    workdir.check_workdir(folder, config)
    processes.require_single_process("a probe")
    started = time.monotonic()
    original = config
    tested = [protocols.NO_FOLD] if config.protocol == "all" else test_folds or [config.data.test_fold]
    places = {fold: folder if test_folds is None else folder / f"fold{fold}" for fold in tested}

    def check(source: Layout, background: Layout | None) -> None:
        for fold, place in places.items():
            dataset.check_files(config.protocol, fold, place, source, background)

    config, task, clips = dataset.load(config, check)
    if quote:
        quote.check_data(clips)
    for place in places.values():
        workdir.check_clips(place, clips)
    splits = {
        fold: protocols.split(clips.folds, clips.sources, config.protocol, fold, config.data.drop_leaky_sources)
        for fold in tested
    }
    for split in splits.values():
        dataset.check_split(config, task, clips, split)
        dataset.log_split(task, clips, split)
    config, model = load.initialize(config, clips.classes)
    tagger = audioset.head(config)
    logging.info("embedding %d clips on %s", len(clips), devices.device_name())
    workdir.bind_workdir(folder, original)
    embeddings = cache.cache_root(config.data.cache_dir) / "embeddings"
    x = embed_with_progress(model, clips.with_background(), embeddings, max(1, config.eval.tta))
    seconds_embedding = time.monotonic() - started
    heads = _fit_splits(config, task, clips, splits, x)
    seconds = (time.monotonic() - started) / len(heads)
    parts = []
    for head in heads:
        split = splits[head.fold]
        detector = calibrate.probe_novelty(clips, split, head.fold, x[0], tagger, FITTED_ON)
        save_classifier(config, clips, places[head.fold], model, head, detector)
        if not split.test:
            continue
        probabilities = task.probabilities(head_logits(x[:, list(split.test)], head.kernel, head.bias))
        thresholds = head.calibration.raw_thresholds(task)
        parts.append(
            results.fold_predictions(head.fold, config.seed, split.test, probabilities, 0, seconds, thresholds)
        )
    report = "; ".join(split.report() for split in splits.values())
    step = 0 if len(heads) == 1 else None
    outcome = results.results(config, task, clips, parts, report, parameters=model.parameter_count, step=step)
    recorded = [f.name for f in dataclasses.fields(ProbeResult) if f.name not in ("kernel", "bias", "calibration")]
    outcome["probe"] = [{name: _defined(getattr(head, name)) for name in recorded} for head in heads]
    outcome |= calibration.for_results({head.fold: head.calibration for head in heads})
    if quote:
        outcome["crossval"] = quote.to_dict()
    if not parts:
        outcome["seconds"] = round(seconds, 1)
    outcome["seconds_embedding"] = round(seconds_embedding, 1)
    write_artifacts(folder, outcome, clips, parts)
    return outcome


def _defined(value: Any) -> Any:
    """The value for JSON, which has no NaN."""
    return None if value != value else value


def _fit_splits(config: Any, task: Task, clips: Clips, splits: Mapping[int, Split], x: np.ndarray) -> list[ProbeResult]:
    """Heads of all splits; `x` are the embeddings of `clips.with_background()`."""
    everything = clips.with_background()
    # One fold at a time where recordings are excluded from training: which ones depends on the test fold.
    groups = [[fold] for fold in splits] if config.data.drop_leaky_sources else [list(splits)]
    heads = []
    for group in groups:
        excluded = np.isin(np.arange(len(everything)), splits[group[0]].dropped)
        heads += fit_heads(
            task,
            x,
            everything.labels,
            everything.folds,
            group,
            len(clips.classes),
            seeds=config.probe.seeds,
            excluded=excluded,
            balanced=bool(config.train.class_balance),
        )
    return heads


def fit_split(task: Task, x: np.ndarray, clips: Clips, split: Split) -> ProbeResult:
    """The head of a split's test fold, trained on its training clips; `x` as in `fit_heads`, of all clips."""
    excluded = ~np.isin(np.arange(len(clips)), split.train)
    test_folds = split.test_folds or (protocols.NO_FOLD,)
    (head,) = fit_heads(task, x, clips.labels, clips.folds, test_folds, len(clips.classes), excluded=excluded)
    return head


def with_head(config: Any, task: Task, clips: Clips, split: Split, model: Model) -> tuple[Variables, Calibration]:
    """Variables of a model with the head of a linear probe on the training clips, and the calibration of that head.

    Fine-tuning from a random head distorts the encoder (Kumar et al., "Fine-tuning can distort pretrained features",
    ICLR 2022).
    """
    embeddings = cache.cache_root(config.data.cache_dir) / "embeddings"
    head = fit_split(task, embed_with_progress(model, clips, embeddings), clips, split)
    logging.info("linear probe for the head: %s %.4f inside the training folds", task.metric_label, head.validation)
    return _with_head(model, head), head.calibration


def _with_head(model: Model, head: ProbeResult) -> Variables:
    classifier = {"kernel": jnp.asarray(head.kernel), "bias": jnp.asarray(head.bias)}
    params = model.variables["params"] | {"head": {"classifier": classifier}}
    return model.variables | {"params": params}


def save_classifier(
    config: Any, clips: Clips, folder: pathlib.Path, model: Model, head: ProbeResult, detector: Novelty
) -> None:  # fmt: skip
    """Writes a checkpoint of the encoder with a head, for prediction, export and fine-tuning.

    Args:
        config, clips: that the checkpoint describes.
        folder: workdir; its checkpoints are replaced.
        model: with the encoder.
        head: on its embeddings, for all clips or those of a fold.
        detector: of unfamiliar sounds.
    """
    state = states.create(_with_head(model, head), optax.identity(), ema=False)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # of an earlier call: it may be damaged
    checkpoints = checkpoint.Checkpoints(folder / "checkpoints")
    progress = {"history": [], "sums": {}, "seconds": 0.0}
    config = config.copy_and_resolve_references()
    config.data.test_fold = head.fold
    meta = checkpoint.meta(config, clips, progress) | {"calibration": head.calibration.to_dict()}
    checkpoints.save(state, meta | {"novelty": detector.to_dict()}, novelty=detector.arrays())
    checkpoints.close()


def probe_embeddings(path: str | pathlib.Path, seeds: int = 1) -> str:
    """Probes a file of embeddings (`esc-jax embed`) on all of its folds; returns the results as a table.

    Args:
        path: .npz with embeddings, label, fold and classes, and the name of the task; without it, single_label.
        seeds: number of starting points of the solver.

    Raises:
        DataError: the file holds no embeddings of a data set. OSError: it cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            x, labels, folds, classes = (file[name] for name in ("embeddings", "label", "fold", "classes"))
            chosen = tasks.get(str(file["task"]) if "task" in file else "single_label")
        whole = x.ndim == 2 and folds.shape == x.shape[:1] and _labels_fit(chosen, labels, len(x), len(classes))
        finite = np.isfinite(x).all()
    except OSError:
        raise
    except Exception:  # numpy, zipfile and zlib raise many types for a file of another kind
        raise DataError(f"{path} contains no embeddings of a data set: create it with esc-jax embed") from None
    if not whole or not finite:
        reason = "values that are not finite" if whole else "arrays that do not belong together"
        raise DataError(f"{path} contains {reason}: create it again with esc-jax embed")
    heads = fit_heads(chosen, x[None], labels, folds, sorted(set(folds.tolist())), len(classes), seeds=seeds)
    scores = []
    for head in heads:
        inside = folds == head.fold
        scores.append(chosen.score(labels[inside], head_logits(x[inside], head.kernel, head.bias)))
    return table(chosen, heads, scores)


def _labels_fit(task: Task, labels: np.ndarray, rows: int, classes: int) -> bool:
    """Whether an array can be the labels of that many clips."""
    if task.exclusive:
        return labels.shape == (rows,) and set(labels.tolist()) <= set(range(classes))
    return labels.shape == (rows, classes) and labels.dtype == bool


def table(task: Task, heads: Sequence[ProbeResult], scores: Sequence[float]) -> str:
    """The heads of all test folds as a table for a terminal, in percent."""
    lines = [f"{task.metric_label}, %", "fold   linear  (validation, l2)        nearest neighbours (k)"]
    for head, score in zip(heads, scores, strict=True):
        lines.append(
            f"{head.fold:4d}  {100 * score:6.2f}  ({100 * head.validation:.2f}, {head.l2:g})".ljust(38)
            + f"{100 * head.knn_score:6.2f} ({head.neighbours})"
        )
    mean, nearest = np.mean(scores), np.mean([head.knn_score for head in heads])
    lines.append(f"mean  {100 * mean:6.2f}".ljust(38) + f"{100 * nearest:6.2f}")
    return "\n".join(lines) + "\n"
