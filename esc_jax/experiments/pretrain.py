"""The self-supervised stage of a run: an encoder learns from the training folds' clips, without their labels.

`train.train_and_evaluate` calls it where `config.pretrain.method` is set; it lives in WORKDIR/pretrain, with
checkpoints, metrics.jsonl and a resumable state of its own (masked prediction in several rounds: the earlier ones in
WORKDIR/pretrain/round1 and so on).
"""

from collections.abc import Callable
import functools
import pathlib
from typing import Any, NamedTuple

from absl import logging
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from esc_jax import build
from esc_jax import config as configs
from esc_jax.data import pipeline
from esc_jax.evaluation import diagnostics, predict
from esc_jax.experiments import probe
from esc_jax.inference import embeddings
from esc_jax.models import heads
from esc_jax.models.encoder import Classifier
from esc_jax.models.masked import MaskedPredictor, VisiblePredictor
from esc_jax.objectives import masked
from esc_jax.ops import patches
from esc_jax.runtime import devices, processes
from esc_jax.tokenizers import kmeans
from esc_jax.tokenizers.targets import Targets
from esc_jax.training import checkpoint, loop, optim, pretrain_step, step
from esc_jax.training import state as states

TRIVIAL = 0.95
VECTORS = 1 << 19  # that a tokenizer is fitted to, at most: half a gigabyte of patches


class Learned(NamedTuple):
    """What a stage leaves.

    Attributes:
        variables: of the model, with the pretrained encoder.
        history: a line per epoch: `loss`, `pretext_accuracy` and what else the objective measures, and from time to
            time `knn_accuracy` (inside the training folds) and `effective_rank`.
        about: for results.json, `seconds` over all rounds and restarts among it.
    """

    variables: dict[str, Any]
    history: list[dict[str, Any]]
    about: dict[str, Any]


class _Data(NamedTuple):
    """The data set, who trains, and what features are made of it."""

    clips: Any
    train: tuple[int, ...]
    frontend: Any


def check(config, clips, split, frontend) -> None:
    """Raises ConfigError for a stage that cannot run on these data, before it starts."""
    own = config.pretrain
    if len({clips.folds[i] for i in split.train}) < 2:
        raise configs.ConfigError(
            "config.pretrain.method: the pretrained encoder is probed and watched inside the training folds, and"
            " there is one; it takes two"
        )
    if len(split.train) < own.batch_size:
        raise configs.ConfigError(
            f"config.pretrain.batch_size={own.batch_size}, and there are {len(split.train)} training clips"
        )
    if own.method != "masked":
        return
    grids = [_grid(config, frontend, seconds) for seconds in (own.augment.crop_s, 0.0)]
    size, (rows, columns) = own.mask.patch, grids[0]
    number = masked.count(rows, columns, own.mask.share)
    if not 0 < number < rows * columns:
        what = "hides nothing, so there is nothing to predict" if not number else "leaves nothing to predict it from"
        raise configs.ConfigError(
            f"config.pretrain.mask.share={own.mask.share:g} of {rows * columns} patches ({size} × {size}) {what}"
        )
    encoder = config.model.encoder
    cut = (encoder.patch, encoder.stride) if config.model.name == "patch_transformer" else ()
    if own.mask.predictor and cut != (size, size):
        raise configs.ConfigError(
            f"config.pretrain.mask.predictor={own.mask.predictor} needs an encoder that sees the visible patches alone:"
            f" model.name=patch_transformer with model.encoder.patch and stride both {size}, as pretrain.mask.patch"
        )
    available = len(split.train) * grids[1][0] * grids[1][1]
    if own.tokens.clusters > available:
        raise configs.ConfigError(
            f"config.pretrain.tokens.clusters={own.tokens.clusters}, and the training clips have {available} patches"
        )


def _grid(config, frontend, seconds: float) -> tuple[int, int]:
    """Patches in time and in frequency of so many seconds of sound, 0 for a clip."""
    samples = round((seconds or config.data.clip_s) * config.data.sample_rate)
    shape = jax.eval_shape(frontend, jax.ShapeDtypeStruct((1, samples), jnp.float32)).shape
    if len(shape) != 3:
        raise configs.ConfigError("config.pretrain.method=masked hides patches of a spectrogram: choose a frontend")
    return patches.grid(*shape[1:], config.pretrain.mask.patch)


def pretrain(config, workdir: pathlib.Path, clips, split, encoder: nn.Module, frontend, variables) -> Learned:
    """Pretrains the encoder of `variables` on the clips of the training folds.

    Args:
        config: of the run; `pretrain` says how.
        workdir: of the stage.
        clips, split: the data set and who trains.
        encoder, frontend: of the model.
        variables: of the model, head included; not touched.

    Raises:
        ConfigError: as `check`. PretrainedError, CheckpointError: a teacher that cannot be read. Those of
            `training.loop.run`.
    """
    check(config, clips, split, frontend)
    data = _Data(clips, split.train, frontend)
    stage = _contrastive if config.pretrain.method == "simclr" else _masked
    return stage(config, workdir, data, encoder, variables)


def _contrastive(config, workdir: pathlib.Path, data: _Data, encoder: nn.Module, variables) -> Learned:
    """SimCLR."""
    own = config.pretrain
    model = Classifier(encoder=encoder, head=heads.Mlp(classes=own.width, width=own.hidden, dropout=0.0))
    make = functools.partial(pretrain_step.simclr_step, model, data.frontend, config=config)
    learned, progress = _learn(config, workdir, data, model, variables, make)
    return Learned(learned, progress["history"], {"method": own.method, "seconds": round(progress["seconds"], 1)})


def _masked(config, workdir: pathlib.Path, data: _Data, encoder: nn.Module, variables) -> Learned:
    """Masked prediction, round after round; each starts from the weights given, only what it predicts has changed."""
    own = config.pretrain
    targets, weights = _teacher(config)
    if hasattr(encoder, "patchout"):  # what it would leave out may have to be predicted
        encoder = encoder.clone(patchout=0.0)
    grid = _grid(config, data.frontend, own.augment.crop_s)
    if own.mask.predictor:
        count = masked.count(*grid, own.mask.share)
        model = VisiblePredictor(encoder=encoder, tokens=own.tokens.clusters, hidden=count, layers=own.mask.predictor)
    else:
        model = MaskedPredictor(encoder=encoder, tokens=own.tokens.clusters, size=own.mask.patch)
    nothing = jnp.zeros((1, *grid), bool)  # hidden
    reports, seconds = [], 0.0
    for number in range(1, own.rounds + 1):
        folder = workdir if number == own.rounds else workdir / f"round{number}"
        folder.mkdir(parents=True, exist_ok=True)
        with processes.main_process_first(f"the tokenizer of round {number} is fitted"):
            found = _tokenizer(config, folder, data, targets, weights)
        reports.append({"round": number} | found.report())
        fixed = {"teacher": weights, "centroids": jnp.asarray(found.centroids)}
        _draw(config, folder, data, targets, fixed)
        if own.clip_weight:
            model = model.clone(clip=found.centroids.shape[1])
        make = functools.partial(pretrain_step.masked_step, model, data.frontend, config=config, targets=targets)
        learned, progress = _learn(config, folder, data, model, variables, make, (nothing,), (fixed,))
        seconds += progress["seconds"]
        # The next round's teacher is what this one learned; its head has no say in features.
        targets, weights = Targets(own.mask.patch, Classifier(encoder=encoder, head=heads.Linear(classes=1))), learned
    about = {"method": own.method, "seconds": round(seconds, 1), "tokenizers": reports}
    return Learned(learned, progress["history"], about)


def _teacher(config) -> tuple[Targets, dict[str, Any]]:
    """What the first round's tokenizer clusters: the patches, or the features of `pretrain.tokens.teacher`."""
    own = config.pretrain
    if not own.tokens.teacher:
        return Targets(own.mask.patch), {}
    if (pathlib.Path(own.tokens.teacher) / "checkpoints").is_dir():
        run = build.restore(own.tokens.teacher)
        model, frontend, weights, rate = run.model, run.frontend, run.variables, run.sample_rate
    else:
        about, model, frontend, weights = build.published(own.tokens.teacher, config.data.sample_rate)
        rate = about.data.sample_rate
    if rate != config.data.sample_rate:
        raise configs.ConfigError(
            f"config.pretrain.tokens.teacher was trained at {rate} Hz: set config.data.sample_rate={rate}"
        )
    return Targets(own.mask.patch, model, frontend), weights


def _tokenizer(config, folder: pathlib.Path, data: _Data, targets: Targets, weights) -> kmeans.Clusters:
    """Clusters of a round, of training clips alone; kept in its folder."""
    path, own = folder / "tokenizer.npz", config.pretrain
    if path.exists():
        return kmeans.Clusters.load(path)
    rows, columns = _grid(config, data.frontend, 0.0)
    some = data.train[:: -(-len(data.train) * rows * columns // VECTORS)]

    @jax.jit
    def vectors(weights, audio: jax.Array) -> jax.Array:
        audio = step.to_float(audio)
        return targets.vectors(weights, audio, data.frontend(audio))[None]

    x = predict.predict_clips(vectors, weights, data.clips, some, config.eval.batch_size)[0]
    x = x.reshape(-1, x.shape[-1])
    found = kmeans.fit(x, own.tokens.clusters, jax.random.key(config.seed), own.tokens.iterations)
    logging.info(
        "tokenizer: %d of %d tokens used for %d patches, entropy %.2f bits, mean squared distance %.4g",
        found.used, len(found.centroids), len(x), found.entropy_bits, found.inertia,
    )  # fmt: skip
    found.save(path)
    return found


def _draw(config, folder: pathlib.Path, data: _Data, targets: Targets, fixed) -> None:
    """tokens.png: four training clips with their tokens over the spectrogram."""
    path, own = folder / "tokens.png", config.pretrain
    if path.exists() or not processes.is_main_process():
        return
    from esc_jax.report import plots

    @jax.jit
    def look(fixed, audio: jax.Array) -> tuple[jax.Array, jax.Array]:
        audio = step.to_float(audio)
        features = data.frontend(audio)
        return features, targets(fixed, audio, features)[0]

    some = np.asarray(data.train[:: max(1, len(data.train) // 4)][:4])
    features, tokens = look(fixed, data.clips.read(some))
    plots.tokens(features, tokens, [data.clips.filenames[i] for i in some], own.mask.patch, path)


def _learn(
    config, workdir: pathlib.Path, data: _Data, model: nn.Module, variables, make: Callable, more=(), fixed=()
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Trains `model` on the pretext task; returns `variables` with its encoder, and the progress of the loop.

    Args:
        config, workdir, data: as above.
        model: the encoder of `variables` with what the task needs beside it.
        variables: to start from.
        make: (optimizer=…) → the step.
        more: inputs of `model` beside the features, for the shapes of its parameters.
        fixed: arguments of the step beside state and batch, as in `devices.pmap_step`.
    """
    own, clips = config.pretrain, data.clips
    per_epoch = len(data.train) // own.batch_size
    total = own.epochs * per_epoch
    samples = round((own.augment.crop_s or config.data.clip_s) * config.data.sample_rate)

    @jax.jit  # which leaves out the encoder: it is there already
    def beside(key: jax.Array) -> dict[str, Any]:
        made = model.init(key, data.frontend(jnp.zeros((1, samples))), *more)["params"]
        return {name: tree for name, tree in made.items() if name != "encoder"}

    params = {"encoder": variables["params"]["encoder"]} | beside(jax.random.key(config.seed))
    start = jax.tree.map(jnp.copy, {"params": params, "batch_stats": variables["batch_stats"]})  # the state is donated
    optimizer = optim.build(own.optim, start["params"], total, per_epoch)
    state = states.create(start, optimizer, ema=False, seed=config.seed)
    workdir.mkdir(parents=True, exist_ok=True)
    checkpoints = checkpoint.Checkpoints(workdir / "checkpoints")
    processes = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    batches = pipeline.train_batches(clips, data.train, own.batch_size, config.seed, **processes)
    embedder = step.embed_step(model, data.frontend)
    plan = loop.Plan(
        epochs=own.epochs,
        per_epoch=per_epoch,
        rate=optim.schedule(own.optim, total, per_epoch)[0],
        workdir=workdir,
        tensorboard=config.train.tensorboard,
        checkpoint_epochs=own.checkpoint_epochs,
        watch=functools.partial(_watch, own, clips, data.train, embedder, config.eval.batch_size),
        meta=functools.partial(checkpoint.meta, config, clips),
    )
    mapped = devices.pmap_step(make(optimizer=optimizer), fixed=fixed)
    state, progress = loop.run(plan, mapped, state, batches, checkpoints)
    checkpoints.close()
    learned = {"params": dict(variables["params"]), "batch_stats": state.batch_stats}
    learned["params"]["encoder"] = state.params["encoder"]
    return learned, progress


def _watch(own, clips, train, embedder, batch_size: int, weights, line: dict[str, Any]) -> loop.EpochEval:
    """Diagnostics of an epoch, and a warning where the task has become too easy to teach anything."""
    if own.method == "simclr" and line["pretext_accuracy"] > TRIVIAL:
        logging.warning(
            "the pretext task is solved (%.1f %% of views find their partner among all others), so little more is"
            " learned from it: make the views differ more (pretrain.background, pretrain.augment.crop_s,"
            " pretrain.augment.frequency_warp, pretrain.augment.freq_mask), the batch larger (pretrain.batch_size) or"
            " the temperature lower (pretrain.temperature)",
            100 * line["pretext_accuracy"],
        )
    if line["epoch"] % own.watch_epochs and line["epoch"] != own.epochs:
        return loop.EpochEval()
    x, train = predict.predict_clips(embedder, weights, clips, train, batch_size)[0], list(train)
    folds = [clips.folds[i] for i in train]
    accuracy = diagnostics.knn_accuracy(x, clips.labels[train], folds, len(clips.classes))
    return loop.EpochEval({"knn_accuracy": accuracy, "effective_rank": diagnostics.effective_rank(x)})


def downstream(workdir: pathlib.Path, clips, split, model, frontend, learned: Learned) -> dict[str, Any]:
    """What results.json says of the stage, with `probe_accuracy`: of a linear probe on the pretrained encoder as it is,
    on the test fold.

    Args:
        workdir, clips, split: as above.
        model, frontend: of the run.
        learned: what `pretrain` returned.
    """
    x = embeddings.embed_clips(model, frontend, learned.variables, clips, workdir / "embeddings")
    head = probe.of_split(x, clips, split)
    test = list(split.test)
    hits = probe.probabilities(x[0][test], head.kernel, head.bias).argmax(-1) == clips.labels[test]
    last = {key: learned.history[-1][key] for key in ("pretext_accuracy", "knn_accuracy", "effective_rank")}
    return learned.about | last | {"probe_accuracy": float(hits.mean())}
