"""One run: data, model, loop, checkpoints, evaluation. Read it from top to bottom."""

import contextlib
import functools
import json
import pathlib
from typing import Any

from absl import logging
import jax
import numpy as np

from esc_jax import build, calibration, evaluate, pretrain, probe, statistics
from esc_jax import config as configs
from esc_jax.calibration import Calibration
from esc_jax.data import clips as datasets
from esc_jax.data import folds, pipeline
from esc_jax.training import checkpoint, loop, optim, parallel
from esc_jax.training import state as states
from esc_jax.training import step as steps


def train_and_evaluate(config, workdir: pathlib.Path) -> dict[str, Any]:
    """Trains as `config` says, in `workdir`, and tests; goes on where an earlier call was interrupted.

    Returns:
        The object of results.json.

    Raises:
        ConfigError, DataError, FrontendError, ModelError, OptimError, DeviceError, CheckpointError, TrainError: in one
            sentence. Interrupted: SIGTERM or SIGINT came, and the state is saved.
    """
    configs.check(config)
    parallel.check_batch(config.train.batch_size, config.train.accumulate)
    clips = datasets.load(config.data)
    split = folds.split(
        clips.folds, clips.sources, config.protocol, config.data.test_fold, config.data.drop_leaky_sources
    )
    logging.info("%s", split.report())
    batch_size = config.train.batch_size
    if len(split.train) < batch_size:
        raise configs.ConfigError(
            f"config.train.batch_size={batch_size}, and there are {len(split.train)} training clips"
        )
    per_epoch = len(split.train) // batch_size
    total = per_epoch * config.train.epochs

    original, (config, model, frontend, variables) = config, build.start(config, clips.classes)
    optimizer = optim.build(config.optim, variables["params"], total, per_epoch)
    # Everything that can be wrong with the config has shown itself by now: only now is anything written.
    configs.claim(workdir, original)

    learned, pretext = variables, []
    if config.pretrain.method:
        stage = workdir / "pretrain"
        learned, pretext = pretrain.pretrain(config, stage, clips, split, model.encoder, frontend, variables)
        variables = jax.tree.map(np.array, learned)  # the training's state is donated

    selects = config.protocol != "holdout"
    checkpoints = checkpoint.Checkpoints(workdir / "checkpoints", select=selects)
    if (last := checkpoints.latest()) is None:
        if config.train.head_from_probe:
            variables = probe.with_head(config, clips, split, model, frontend, variables)
    elif checkpoints.meta(last)["data"] != clips.fingerprint:
        raise configs.ConfigError(f"{workdir} was trained on other data than data.dir holds: choose another --workdir")
    state = states.create(variables, optimizer, ema=config.train.ema > 0)
    processes = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    batches = pipeline.train_batches(clips, split.train, batch_size, config.seed, **processes)
    logits_of = functools.partial(
        evaluate.each_clip, steps.logits_step(model, frontend), clips=clips, batch_size=config.eval.batch_size
    )

    def watch(weights, line) -> loop.Watched:
        numbers, metric, found = {}, None, None
        if selects:
            watched = list(split.validation or split.test)
            logits, labels = logits_of(weights, indices=watched)[0], clips.labels[watched]
            metric = float((logits.argmax(-1) == labels).mean())
            numbers = {"val_accuracy": metric, "val_loss": statistics.nll(logits, labels)}
            if split.validation:
                found = Calibration.held_out(logits, labels, "the fold that the epoch was chosen on")
        if not found and (selects or line["epoch"] == config.train.epochs):
            some = split.train[:: -(-len(split.train) // calibration.TRAINING_CLIPS)]
            found = Calibration.trained(logits_of(weights, indices=some)[0], "clips of training")
        return loop.Watched(numbers, metric, {"calibration": found.to_dict()} if found else {})

    plan = loop.Plan(
        epochs=config.train.epochs,
        per_epoch=per_epoch,
        rate=optim.schedule(config.optim, total, per_epoch)[0],
        workdir=workdir,
        tensorboard=config.train.tensorboard,
        checkpoint_epochs=config.train.checkpoint_epochs,
        watch=watch,
        meta=functools.partial(checkpoint.meta, config, clips),
    )
    train_step = parallel.mapped(steps.train_step(model, frontend, optimizer, config, len(clips.classes)))
    state, progress = loop.run(plan, train_step, state, batches, checkpoints)

    tested = checkpoints.best() if selects else total
    if tested != total:
        state = checkpoints.restore(tested, state)
    about = {"epochs": config.train.epochs, "seconds": progress["seconds"], "step": tested}
    found = Calibration.read(checkpoints.meta(tested))
    more = calibration.for_results({split.test_folds[0]: found})
    if pretext:
        stage = pretrain.downstream(config, workdir / "pretrain", clips, split, model, frontend, learned)
        stage |= {key: pretext[-1][key] for key in ("pretext_accuracy", "knn_accuracy", "effective_rank")}
        more["pretrain"] = stage
    history = progress["history"]
    found = test(config, clips, split, model, frontend, state.weights(), workdir, about, more, history, pretext)
    checkpoints.close()
    return found


def test(config, clips, split, model, frontend, weights, workdir, about, more, history, pretext=()) -> dict[str, Any]:
    """Tests weights once, with the clip as it is and with its views, and writes all that a run leaves.

    `about` holds epochs, seconds and step, `more` what results.json gets beside; `history` and `pretext` are the
    epochs' lines of both stages.
    """
    views = max(1, config.eval.tta)
    predict = steps.predict_step(model, frontend, views)
    # Views multiply the batch: memory stays what it is without them.
    found_views = evaluate.each_clip(predict, weights, clips, split.test, max(1, config.eval.batch_size // views))
    part = evaluate.tested(split.test_folds[0], config.seed, split.test, found_views, about["epochs"], about["seconds"])
    parameters = sum(p.size for p in jax.tree.leaves(weights["params"]))
    found = evaluate.results(config, clips, [part], split.report(), parameters=parameters, step=about["step"]) | more
    evaluate.leave(workdir, found, clips, [part], history, pretext)
    return found


def evaluate_again(config, workdir: pathlib.Path) -> dict[str, Any]:
    """Tests the checkpoint of an existing run again, with the config's `eval`, and writes its results anew.

    Raises:
        CheckpointError: there is no checkpoint. ConfigError: `config` has another seed, fold or recipe than the run.
    """
    configs.check(config)
    run = build.restore(workdir)
    asked, trained = configs.flatten(config), configs.flatten(json.loads((workdir / "config.json").read_text()))
    trained |= {k: v for k, v in asked.items() if k.startswith("eval.")}
    if changed := configs.differences(trained, asked):
        raise configs.ConfigError(f"{workdir} was trained with another config: {'; '.join(changed[:3])}")
    with run.config.unlocked():
        run.config.data, run.config.eval = config.data, config.eval
    clips = datasets.load(config.data)
    split = folds.split(
        clips.folds, clips.sources, config.protocol, config.data.test_fold, config.data.drop_leaky_sources
    )
    about = {
        "epochs": len(run.meta["progress"]["history"]),
        "seconds": run.meta["progress"]["seconds"],
        "step": run.step,
    }
    more, pretext = {}, ()
    with contextlib.suppress(OSError, ValueError):  # a run that was never tested
        written = json.loads((workdir / "results.json").read_text())
        kept = ("calibration", "probe", "seconds_embedding", "pretrain")
        more = {key: written[key] for key in kept if key in written}
    if "pretrain" in more:
        pretext = checkpoint.read_meta(*checkpoint.find(workdir / "pretrain"))["progress"]["history"]
    model, frontend, history = run.model, run.frontend, run.meta["progress"]["history"]
    return test(run.config, clips, split, model, frontend, run.variables, workdir, about, more, history, pretext)
