"""The self-supervised stage of a run: an encoder learns from the training folds' clips, without their labels.

`train.train_and_evaluate` calls it where `config.pretrain.method` is set; it lives in WORKDIR/pretrain, with
checkpoints, metrics.jsonl and a resumable state of its own.
"""

import functools
import pathlib
from typing import Any

from absl import logging
from flax import linen as nn
import jax
import jax.numpy as jnp

from esc_jax import config as configs
from esc_jax import embed, evaluate, probe
from esc_jax.data import pipeline
from esc_jax.models import heads
from esc_jax.models.encoder import Classifier
from esc_jax.training import checkpoint, diagnostics, loop, optim, parallel, pretrain_step, step
from esc_jax.training import state as states

TRIVIAL = 0.95


def pretrain(
    config, workdir: pathlib.Path, clips, split, encoder: nn.Module, frontend, variables
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Pretrains the encoder of `variables` on the clips of the training folds.

    Args:
        config: of the run; `pretrain` says how.
        workdir: of the stage.
        clips, split: the data set and who trains.
        encoder, frontend: of the model.
        variables: of the model, head included.

    Returns:
        `variables` with the pretrained encoder, and a line per epoch: `loss`, `pretext_accuracy`, `alignment`,
        `uniformity`, and from time to time `knn_accuracy` (inside the training folds) and `effective_rank`.

    Raises:
        ConfigError: too few clips for a batch. Those of `training.loop.run`.
    """
    own = config.pretrain
    if len(split.train) < own.batch_size:
        raise configs.ConfigError(
            f"config.pretrain.batch_size={own.batch_size}, and there are {len(split.train)} training clips"
        )
    per_epoch = len(split.train) // own.batch_size
    total = own.epochs * per_epoch
    model = Classifier(encoder=encoder, head=heads.Mlp(classes=own.width, width=own.hidden, dropout=0.0))
    samples = round((own.augment.crop_s or config.data.clip_s) * config.data.sample_rate)

    @jax.jit  # which leaves out the encoder: it is there already
    def draw(key: jax.Array) -> dict[str, Any]:
        return model.init(key, frontend(jnp.zeros((1, samples))))["params"]["head"]

    start = {
        "params": {"encoder": variables["params"]["encoder"], "head": draw(jax.random.key(config.seed))},
        "batch_stats": variables["batch_stats"],
    }
    optimizer = optim.build(own.optim, start["params"], total, per_epoch)
    state = states.create(start, optimizer, ema=False, seed=config.seed)
    workdir.mkdir(parents=True, exist_ok=True)
    checkpoints = checkpoint.Checkpoints(workdir / "checkpoints")
    processes = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    batches = pipeline.train_batches(clips, split.train, own.batch_size, config.seed, **processes)
    plan = loop.Plan(
        epochs=own.epochs,
        per_epoch=per_epoch,
        rate=optim.schedule(own.optim, total, per_epoch)[0],
        workdir=workdir,
        tensorboard=config.train.tensorboard,
        checkpoint_epochs=own.checkpoint_epochs,
        watch=functools.partial(
            _watch, own, clips, split.train, step.embed_step(model, frontend), config.eval.batch_size
        ),
        meta=functools.partial(checkpoint.meta, config, clips),
    )
    simclr = parallel.mapped(pretrain_step.simclr_step(model, frontend, optimizer, config))
    state, progress = loop.run(plan, simclr, state, batches, checkpoints)
    checkpoints.close()
    learned = {"params": dict(variables["params"]), "batch_stats": state.batch_stats}
    learned["params"]["encoder"] = state.params["encoder"]
    return learned, progress["history"]


def _watch(own, clips, train, embed, batch_size: int, weights, line: dict[str, Any]) -> loop.Watched:
    """Diagnostics of an epoch, and a warning where the task has become too easy to teach anything."""
    if line["pretext_accuracy"] > TRIVIAL:
        logging.warning(
            "the pretext task is solved (%.1f %% of views find their partner among all others), so little more is"
            " learned from it: make the views differ more (pretrain.background, pretrain.augment.crop_s,"
            " pretrain.augment.frequency_warp, pretrain.augment.freq_mask), the batch larger (pretrain.batch_size) or"
            " the temperature lower (pretrain.temperature)",
            100 * line["pretext_accuracy"],
        )
    if line["epoch"] % own.watch_epochs and line["epoch"] != own.epochs:
        return loop.Watched()
    x, train = evaluate.each_clip(embed, weights, clips, train, batch_size)[0], list(train)
    folds = [clips.folds[i] for i in train]
    accuracy = diagnostics.knn_accuracy(x, clips.labels[train], folds, len(clips.classes))
    return loop.Watched({"knn_accuracy": accuracy, "effective_rank": diagnostics.effective_rank(x)})


def downstream(config, workdir: pathlib.Path, clips, split, model, frontend, learned) -> dict[str, float]:
    """`probe_accuracy`: of a linear probe on the pretrained encoder as it is, on the test fold.

    Args:
        config, workdir, clips, split: as above.
        model, frontend: of the run.
        learned: what `pretrain` returned.
    """
    x = embed.of_clips(model, frontend, learned, clips, workdir / "embeddings")
    head = probe.of_split(x, clips, split)
    test = list(split.test)
    hits = probe.probabilities(x[0][test], head.kernel, head.bias).argmax(-1) == clips.labels[test]
    return {"method": config.pretrain.method, "probe_accuracy": float(hits.mean())}
