"""Linear and nearest-neighbour heads on frozen embeddings: all folds × regularisations × seeds in one program.

What regularises a test fold's head is chosen inside its training folds: each of them validates once, on heads that
have seen neither it nor the test fold. The head is then fitted on all of the training folds and tested once."""

from collections.abc import Sequence
import dataclasses
import pathlib
import time
from typing import Any

from absl import logging
import jax.numpy as jnp
import numpy as np

from esc_jax.data.source import DataError
from esc_jax.evaluation import calibration
from esc_jax.evaluation.calibration import Calibration
from esc_jax.runtime import processes
from esc_jax.training import linear_probe

L2 = (0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 0.003, 0.001)  # strongest first: of equals, the first is chosen


NEIGHBOURS = (50, 20, 10, 5, 3, 1)


STEPS = 100


FITTED_ON = "the training folds, each held out once"


@dataclasses.dataclass(frozen=True)
class Probed:
    """The head of one test fold.

    Attributes:
        fold: the test fold.
        l2: the strength chosen.
        kernel, bias: (D, C), (C,) of the head, on embeddings as they are.
        validation: accuracy of that strength on the training folds, each held out once.
        calibration: fitted on those held-out predictions.
        spread: largest difference of a probability between seeds on the test fold; 0 with one. The problem is
            convex, so it tells how far the solver is from its end.
        neighbours: k chosen for the nearest-neighbour vote.
        knn_accuracy: of that vote on the test fold.
    """

    fold: int
    l2: float
    kernel: np.ndarray
    bias: np.ndarray
    validation: float
    calibration: Calibration
    spread: float
    neighbours: int
    knn_accuracy: float


def probe(
    x: np.ndarray, labels: np.ndarray, folds: Sequence[int], tested: Sequence[int], classes: int, *,
    l2: Sequence[float] = L2, seeds: int = 1, steps: int = STEPS, left_out: np.ndarray | None = None,
) -> list[Probed]:  # fmt: skip
    """Heads for every test fold.

    Args:
        x: (views, N, D) embeddings. The strength is chosen on the clips as they are, x[0]; the head that is tested
            is trained on all views.
        labels: (N,).
        folds: (N,).
        tested: the test folds.
        classes: C.
        l2: strengths to choose from.
        seeds: starting points of the solver.
        steps: of the solver.
        left_out: (N,) bool, clips that no head is trained on.

    Raises:
        DataError: a test fold leaves fewer than two folds to choose in.
    """
    folds = np.asarray(folds)
    allowed = np.ones(len(folds), bool) if left_out is None else ~left_out
    masks = {out: mask & allowed for out, mask in linear_probe.splits(folds, tested).items()}
    if not all(mask.any() for mask in masks.values()):
        raise DataError(
            "a probe chooses its regularisation inside the training folds: it needs two of them and a third"
        )
    names, weights = list(masks), np.stack(list(masks.values())).astype(np.float32)
    heads = linear_probe.fit(x[0], labels, weights, np.float32(l2), np.arange(1), classes=classes, steps=steps)
    kernel, bias = np.asarray(heads.kernel)[:, :, 0], np.asarray(heads.bias)[:, :, 0]
    # Head by head: the logits of all at once would be gigabytes.
    hits = np.array(
        [
            [(x[0] @ k + b).argmax(-1) == labels for k, b in zip(*of, strict=True)]
            for of in zip(kernel, bias, strict=True)
        ]
    )
    votes = linear_probe.neighbours(x[0], labels, weights, classes=classes, ks=NEIGHBOURS)
    near = np.asarray(votes).argmax(-1) == labels
    found = []
    for fold in tested:
        chosen = linear_probe.select(hits, names, folds, fold)
        inside, held = folds == fold, [(m, out) for m, out in enumerate(names) if fold in out and len(out) == 2]
        # Predictions of every training clip by the head that has seen neither its fold nor the test fold.
        logits, truth = [], []
        for m, out in held:
            validates = np.isin(folds, list(out - {fold}))
            logits.append(x[0][validates] @ kernel[m, chosen] + bias[m, chosen])
            truth.append(labels[validates])
        k = linear_probe.select(near, names, folds, fold)
        final = linear_probe.fit(
            x.reshape(-1, x.shape[-1]),
            np.tile(labels, len(x)),
            np.tile(masks[frozenset((fold,))].astype(np.float32), len(x))[None],
            np.float32([l2[chosen]]),
            np.arange(seeds),
            classes=classes,
            steps=steps,
        )
        weight, offset = np.asarray(final.kernel)[0, 0], np.asarray(final.bias)[0, 0]
        chances = probabilities(x[0][None, inside], weight, offset)
        found.append(
            Probed(
                fold=fold,
                l2=l2[chosen],
                kernel=weight[0],
                bias=offset[0],
                validation=float((np.concatenate(logits).argmax(-1) == np.concatenate(truth)).mean()),
                calibration=Calibration.held_out(np.concatenate(logits), np.concatenate(truth), FITTED_ON),
                spread=float(np.abs(chances - chances[:1]).max()),
                neighbours=NEIGHBOURS[k],
                knn_accuracy=float(near[names.index(frozenset((fold,))), k][inside].mean()),
            )
        )
    return found


def probabilities(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """softmax(x · kernel + bias) over the last axis: (…, n, D), (…, D, C), (…, C) → (…, n, C)."""
    return calibration.tempered(np.matmul(x, kernel) + bias[..., None, :], 1.0)


def probe_and_evaluate(config, workdir: pathlib.Path, tested: Sequence[int] | None = None) -> dict[str, Any]:
    """Embeds the clips once, fits and tests the head of every test fold, and leaves a run like any other.

    Its checkpoint (of each fold, under fold1/ …, where several are tested) is the frozen encoder with the head.

    Args:
        config: with `method` "probe".
        workdir: of the run.
        tested: test folds; None for `data.test_fold` alone.

    Raises:
        ConfigError, DataError, PretrainedError, CheckpointError and others, in one sentence.
    """
    import jax

    from esc_jax import build
    from esc_jax import config as configs
    from esc_jax.data import clips as datasets
    from esc_jax.data import folds as protocols
    from esc_jax.data import prepare
    from esc_jax.evaluation import results
    from esc_jax.experiments import artifacts, workdir
    from esc_jax.inference import embeddings
    from esc_jax.training import checkpoint

    configs.check(config)
    processes.require_single_process("a probe")
    started = time.monotonic()
    clips = datasets.load(config.data)
    splits = {
        fold: protocols.split(clips.folds, clips.sources, "holdout", fold, config.data.drop_leaky_sources)
        for fold in tested or [config.data.test_fold]
    }
    original = config
    config, model, frontend, variables = build.start(config, clips.classes)
    workdir.bind_workdir(workdir, original)
    places = {fold: workdir if len(splits) == 1 else workdir / f"fold{fold}" for fold in splits}
    for place in places.values():  # before the pass, which takes long
        checkpoint.check_workdir(place, clips.fingerprint)
    views = max(1, config.eval.tta)
    cache = prepare.cache_root(config.data.cache_dir) / "embeddings"
    x = embeddings.embed_clips(model, frontend, variables, clips, cache, views=views)
    seconds_embedding = time.monotonic() - started
    found, parts = [], []
    # A fold at a time where recordings are left out of training: which ones depends on the test fold.
    groups = [[fold] for fold in splits] if config.data.drop_leaky_sources else [list(splits)]
    for group in groups:
        left_out = np.isin(np.arange(len(clips)), splits[group[0]].dropped)
        found += probe(
            x, clips.labels, clips.folds, group, len(clips.classes), seeds=config.probe.seeds, left_out=left_out
        )
    seconds = (time.monotonic() - started) / len(found)
    for head in found:
        split = splits[head.fold]
        chances = probabilities(x[:, list(split.test)], head.kernel, head.bias)
        parts.append(results.fold_predictions(head.fold, config.seed, split.test, chances, 0, seconds))
        _save(config, clips, places[head.fold], variables, head)
    report = "; ".join(split.report() for split in splits.values())
    parameters = sum(p.size for p in jax.tree.leaves(variables["params"]))
    results = results.results(config, clips, parts, report, parameters=parameters, step=0 if len(found) == 1 else None)
    kept = [f.name for f in dataclasses.fields(Probed) if f.name not in ("kernel", "bias", "calibration")]
    results["probe"] = [{name: getattr(head, name) for name in kept} for head in found]
    results |= calibration.for_results({head.fold: head.calibration for head in found})
    results["seconds_embedding"] = round(seconds_embedding, 1)
    artifacts.write_artifacts(workdir, results, clips, parts)
    return results


def of_split(x: np.ndarray, clips, split) -> Probed:
    """The head of a split's test fold, trained on its training clips alone; `x` as in `probe`, of all clips."""
    left_out = ~np.isin(np.arange(len(clips)), split.train)
    (head,) = probe(x, clips.labels, clips.folds, split.test_folds, len(clips.classes), left_out=left_out)
    return head


def with_head(config, clips, split, model, frontend, variables) -> dict[str, Any]:
    """`variables` with the head of a probe on the training clips: where fine-tuning starts, not from a random head.

    A random head sends noise through the encoder for as long as it takes to learn what the embeddings already say
    (Kumar et al., "Fine-tuning can distort pretrained features", ICLR 2022).
    """
    from esc_jax.data import prepare
    from esc_jax.inference import embeddings

    cache = prepare.cache_root(config.data.cache_dir) / "embeddings"
    x = embeddings.embed_clips(model, frontend, variables, clips, cache)
    head = of_split(x, clips, split)
    logging.info("the head starts from a linear probe: %.2f %% inside the training folds", 100 * head.validation)
    return variables | {"params": variables["params"] | {"head": _head(head)}}


def _head(head: Probed) -> dict[str, Any]:
    return {"classifier": {"kernel": jnp.asarray(head.kernel), "bias": jnp.asarray(head.bias)}}


def _save(config, clips, workdir: pathlib.Path, variables, head: Probed) -> None:
    """A checkpoint of the encoder with a head, for `predict`, `export` and fine-tuning."""
    import optax

    from esc_jax.training import checkpoint
    from esc_jax.training import state as states

    params = variables["params"] | {"head": _head(head)}
    state = states.create(variables | {"params": params}, optax.identity(), ema=False)
    checkpoints = checkpoint.Checkpoints(workdir / "checkpoints")
    if checkpoints.latest() is None:
        progress = {"history": [], "sums": {}, "seconds": 0.0}
        config = config.copy_and_resolve_references()
        config.data.test_fold = head.fold
        meta = checkpoint.meta(config, clips, progress) | {"calibration": head.calibration.to_dict()}
        checkpoints.save(state, meta)
    checkpoints.close()


def table(found: Sequence[Probed], accuracy: Sequence[float]) -> str:
    """The heads as a table for a terminal."""
    lines = ["fold   linear  (validation, l2)        nearest neighbours (k)"]
    for head, share in zip(found, accuracy, strict=True):
        lines.append(
            f"{head.fold:4d}  {100 * share:6.2f}  ({100 * head.validation:.2f}, {head.l2:g})".ljust(38)
            + f"{100 * head.knn_accuracy:6.2f} ({head.neighbours})"
        )
    mean, near = np.mean(accuracy), np.mean([head.knn_accuracy for head in found])
    lines.append(f"mean  {100 * mean:6.2f}".ljust(38) + f"{100 * near:6.2f}")
    return "\n".join(lines) + "\n"
