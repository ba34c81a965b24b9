"""Probes: heads on frozen embeddings (`experiments.probe_heads`) as runs, and the initial heads of fine-tuning."""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
import shutil
import time
from typing import Any

from absl import logging
import jax.numpy as jnp
import numpy as np
import optax

from esc_jax import config as configs
from esc_jax.data import cache
from esc_jax.data import folds as protocols
from esc_jax.data.clips import Clips
from esc_jax.data.folds import Split
from esc_jax.data.rows import DataError, Layout
from esc_jax.evaluation import calibration, results
from esc_jax.evaluation.calibration import Calibration
from esc_jax.evaluation.novelty import Novelty
from esc_jax.experiments import calibrate, crossval_quote, dataset, probe_heads, workdir
from esc_jax.experiments.artifacts import write_artifacts
from esc_jax.experiments.probe_heads import ProbeResult
from esc_jax.inference import model_path
from esc_jax.inference.embeddings import embed_clips
from esc_jax.models.model import Model, Variables
from esc_jax.pretrained import audioset, load
from esc_jax.runtime import devices, processes
from esc_jax.runtime.progress import progress_bar
from esc_jax.tasks import registry as tasks
from esc_jax.tasks.base import Task
from esc_jax.training import checkpoint
from esc_jax.training import state as states


def embed_with_progress(model: Model, clips: Clips, folder: pathlib.Path, views: int = 1) -> np.ndarray:
    """`inference.embeddings.embed_clips` under a progress bar."""
    with progress_bar("embedding", "batch") as progress:
        return embed_clips(model, clips, folder, views, progress=progress)


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
    model_path.check_weights("model.pretrained", config.model.pretrained)
    processes.require_single_process("a probe")
    started = time.monotonic()
    tested = [protocols.NO_FOLD] if config.protocol == "all" else test_folds or [config.data.test_fold]
    places = {fold: folder if test_folds is None else folder / f"fold{fold}" for fold in tested}
    original, (config, task, clips, splits) = config, _load_splits(config, places, quote)
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
        detector = calibrate.probe_novelty(clips, split, head.fold, x[0], tagger, probe_heads.FITTED_ON)
        save_classifier(config, clips, places[head.fold], model, head, detector)
        if not split.test:
            continue
        probabilities = task.probabilities(probe_heads.head_logits(x[:, list(split.test)], head.kernel, head.bias))
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


def _load_splits(
    config: Any, places: Mapping[int, pathlib.Path], quote: crossval_quote.Quote | None
) -> tuple[Any, Task, Clips, dict[int, Split]]:
    """`dataset.load`, and the split of every test fold; checks all of them, and writes nothing.

    Args:
        config: of the run.
        places: workdir of each test fold.
        quote: as for `probe_and_evaluate`.
    """

    def check(source: Layout, background: Layout | None) -> None:
        for fold, place in places.items():
            dataset.check_files(config.protocol, fold, place, source, background)

    resolved, task, clips = dataset.load(config, check)
    if quote:
        quote.check_data(clips)
    for place in places.values():
        workdir.check_clips(place, clips)
    splits = {
        fold: protocols.split(clips.folds, clips.sources, config.protocol, fold, config.data.drop_leaky_sources)
        for fold in places
    }
    for split in splits.values():
        dataset.check_split(resolved, task, clips, split)
        dataset.log_split(task, clips, split)
    return resolved, task, clips, splits


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
        heads += probe_heads.fit(
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


def fit_head(config: Any, task: Task, clips: Clips, split: Split, model: Model) -> tuple[Variables, Calibration]:
    """Variables of a model with the head of a linear probe on the training clips, and the calibration of that head.

    Fine-tuning from a random head distorts the encoder (Kumar et al., "Fine-tuning can distort pretrained features",
    ICLR 2022).
    """
    embeddings = cache.cache_root(config.data.cache_dir) / "embeddings"
    head = probe_heads.fit_split(task, embed_with_progress(model, clips, embeddings), clips, split)
    logging.info("linear probe for the head: %s %.4f inside the training folds", task.metric_label, head.validation)
    return _variables_with_head(model, head), head.calibration


def _variables_with_head(model: Model, head: ProbeResult) -> Variables:
    classifier = {"kernel": jnp.asarray(head.kernel), "bias": jnp.asarray(head.bias)}
    params = model.variables["params"]
    return model.variables | {"params": params | {"head": params["head"] | {"classifier": classifier}}}


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
    state = states.create(_variables_with_head(model, head), optax.identity(), ema=False)
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
        DataError: the file holds no embeddings of a data set.
        OSError: it cannot be read.
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
    heads = probe_heads.fit(chosen, x[None], labels, folds, sorted(set(folds.tolist())), len(classes), seeds=seeds)
    scores = []
    for head in heads:
        inside = folds == head.fold
        scores.append(chosen.score(labels[inside], probe_heads.head_logits(x[inside], head.kernel, head.bias)))
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
