"""The self-supervised stage of a run: an encoder learns from the training clips, without their labels.

`experiments.single` calls it where `config.pretrain.objective` is set. The stage has a folder of its own,
WORKDIR/pretrain, with checkpoints, metrics.jsonl and a state that can be resumed. Earlier rounds of an objective with
several rounds are in WORKDIR/pretrain/round1 and so on.
"""

from collections.abc import Mapping, Sequence
import functools
import pathlib
from typing import Any, NamedTuple

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from esc_jax.data import pipeline
from esc_jax.data.clips import Clips
from esc_jax.data.folds import Split
from esc_jax.data.resident import ResidentClips
from esc_jax.errors import ConfigError
from esc_jax.evaluation import diagnostics
from esc_jax.evaluation.predict import predict_clips
from esc_jax.experiments import probe, probe_heads
from esc_jax.experiments import stage as stages
from esc_jax.experiments import teacher as teachers
from esc_jax.models.model import Model, Variables
from esc_jax.objectives import registry as objectives
from esc_jax.objectives.base import Context, Objective
from esc_jax.pretrained import load
from esc_jax.runtime import devices, processes
from esc_jax.tasks.base import Task
from esc_jax.training import checkpoint, loop, optim
from esc_jax.training import restore as restores
from esc_jax.training import state as states
from esc_jax.training import step as steps

# Keys of an epoch's line that are not metrics of the objective.
_BOOKKEEPING = ("epoch", "step", "lr", "seconds", "data_wait", "grad_norm")


class Learned(NamedTuple):
    """Outcome of the stage.

    Attributes:
        variables: of the model, with the pretrained encoder.
        history: a line per epoch of the last round.
        seconds: over all rounds and restarts.
        reports: of the objective, one per round.
    """

    variables: Variables
    history: list[dict[str, Any]]
    seconds: float
    reports: list[dict[str, Any]]


def check(config: Any, clips: Clips, split: Split, model: Model) -> None:
    """Raises ConfigError or OptimError for a stage that cannot run on these data."""
    if len({clips.folds[i] for i in split.train}) < 2:
        raise ConfigError(
            "config.pretrain.objective needs at least two training folds, since the pretrained encoder is evaluated"
            " inside them"
        )
    if len(split.train) < config.pretrain.batch_size:
        raise ConfigError(
            f"config.pretrain.batch_size={config.pretrain.batch_size} is larger than the number of training clips,"
            f" {len(split.train)}"
        )
    per_epoch = len(split.train) // config.pretrain.batch_size
    with optim.prefixed_errors("pretrain."):
        optim.schedule(config.pretrain.optim, config.pretrain.epochs * per_epoch, per_epoch)
    objectives.PRETRAINING[config.pretrain.objective].check_data(config, model, len(split.train))
    teacher = config.pretrain.get("teacher", "")
    if folder := teachers.run_folder(teacher, config) if teacher else None:
        teachers.check_run(f"config.pretrain.teacher={folder}", folder, config, clips, split)


def pretrain(
    config: Any,
    folder: pathlib.Path,
    task: Task,
    clips: Clips,
    split: Split,
    model: Model,
    resident: ResidentClips | None = None,
) -> Learned:
    """Pretrains the encoder of `model` on the training clips.

    Args:
        config: of the run; `pretrain` describes the stage.
        folder: of the stage.
        task: what the labels mean. Labels are used for diagnostics only.
        clips, split: the data set, and which clips train.
        model: with the weights to start from. They are not modified.
        resident: the clips on the devices; None reads batches from the host.

    Raises:
        ConfigError: as `check`.
        PretrainedError, CheckpointError: a teacher cannot be read.
        OtherDataError, TrainError, Interrupted: as `training.loop.run`.
    """

    def map_clips(step: Any, variables: Any, indices: Sequence[int]) -> np.ndarray:
        return predict_clips(step, variables, clips, indices, config.eval.batch_size, resident)

    kind = objectives.PRETRAINING[config.pretrain.objective]
    rounds, previous = kind.rounds(config), None
    seconds, reports = 0.0, []
    progress: dict[str, Any] = {}
    for number in range(1, rounds + 1):
        place = folder if number == rounds else folder / f"round{number}"
        place.mkdir(parents=True, exist_ok=True)
        context = Context(
            config=config,
            model=model,
            task=task,
            clips=clips,
            train=split.train,
            folder=place,
            map_clips=map_clips,
            load_model=functools.partial(_load_model, config=config),
            round=number,
            previous=previous,
        )
        objective = kind.create(context)
        _draw_tokens(context, objective)
        variables, progress = _train(context, objective, resident)
        previous = model.with_variables(variables)
        seconds += progress["seconds"]
        reports.append({"round": number} | objective.report())
    assert previous is not None
    return Learned(previous.variables, progress["history"], seconds, reports)


def _load_model(path: str, config: Any) -> Model:
    """The model of a run or of a published checkpoint."""
    if folder := teachers.run_folder(path, config):
        return restores.restore(folder).model
    return load.load_published(path, config.data.sample_rate)


def _draw_tokens(context: Context, objective: Objective) -> None:
    """tokens.png: four training clips with their discrete targets, for objectives that have some."""
    path = context.folder / "tokens.png"
    if path.exists() or not processes.is_main_process():
        return
    indices = list(context.train[:: max(1, len(context.train) // 4)][:4])
    result = jax.jit(objective.tokens)(objective.constants, context.clips.read(indices))
    if result is None:
        return
    from esc_jax.report import plots  # matplotlib is slow to import

    names = [context.clips.filenames[i] for i in indices]
    features, tokens = map(np.asarray, result)
    plots.tokens(features, tokens, names, context.config.pretrain.patch_size, path)


def _train(context: Context, objective: Objective, resident: ResidentClips | None) -> tuple[Variables, dict[str, Any]]:
    """Trains the objective; returns the variables of the model with the learned encoder, and the progress."""
    config, model, clips = context.config, context.model, context.clips
    stage = config.pretrain
    per_epoch = len(context.train) // stage.batch_size
    total = stage.epochs * per_epoch
    start = _initial_variables(context, objective)
    optim_config = optim.for_batch(stage.optim, stage.batch_size)
    with optim.prefixed_errors("pretrain."):
        optimizer = optim.build(optim_config, start["params"], total, per_epoch)
    carry = objective.init_carry(start)
    state = states.create(start, optimizer, ema=False, seed=config.seed, carry=carry)
    checkpoints = checkpoint.Checkpoints(context.folder / "checkpoints")
    batches = pipeline.train_batches(
        clips,
        context.train,
        stage.batch_size,
        config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        index_only=resident is not None,
    )
    plan = loop.Plan(
        epochs=stage.epochs,
        per_epoch=per_epoch,
        rate=optim.schedule(optim_config, total, per_epoch),
        workdir=context.folder,
        tensorboard=config.train.tensorboard,
        checkpoint_epochs=stage.checkpoint_epochs,
        evaluate=functools.partial(_evaluate, context, objective, steps.embed_step(model)),
        meta=functools.partial(checkpoint.meta, config, clips),
        steps_per_call=loop.steps_per_call(config.train.steps_per_call, per_epoch),
        description=f"pretraining ({stage.objective})",
    )
    step = steps.train_step(objective, optimizer, optim_config)
    program = stages.map_step(step, plan.steps_per_call, resident)
    state, progress = stages.train(plan, program, objective.constants, state, batches, checkpoints, resident)
    checkpoints.close()
    return _with_encoder(model, state.weights()), progress


def _with_encoder(model: Model, weights: Variables) -> Variables:
    """Variables of the model with the encoder of `weights`. The head is that of the model."""
    return {
        "params": model.variables["params"] | _encoder_part(weights["params"]),
        "batch_stats": _encoder_part(weights["batch_stats"]),
    }


def _encoder_part(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The entry of the encoder, where it has one."""
    return {name: value for name, value in tree.items() if name == "encoder"}


def _initial_variables(context: Context, objective: Objective) -> Variables:
    """Variables of the objective's module, with the encoder of the model."""
    config, model = context.config, context.model
    samples = round((config.pretrain.augment.crop_s or model.clip_s) * model.sample_rate)

    @jax.jit  # which drops the initialization of the encoder
    def others(key: jax.Array) -> Variables:
        variables = objective.init(key, model.frontend(jnp.zeros((1, samples))))
        return {
            collection: {name: tree for name, tree in variables.get(collection, {}).items() if name != "encoder"}
            for collection in ("params", "batch_stats")
        }

    drawn = devices.run_on_host(lambda: others(jax.random.key(config.seed)))
    merged = {name: _encoder_part(model.variables[name]) | drawn[name] for name in ("params", "batch_stats")}
    return jax.tree.map(np.array, merged)  # a copy, since the state is donated


def _evaluate(
    context: Context, objective: Objective, embed: Any, weights: Variables, line: dict[str, Any]
) -> loop.EpochEval:
    """Diagnostics of an epoch, and a warning where the objective has advice."""
    stage = context.config.pretrain
    if advice := objective.advice(line):
        logging.warning("%s", advice)
    if line["epoch"] % stage.monitor_epochs and line["epoch"] != stage.epochs:
        return loop.EpochEval()
    indices, clips, task = list(context.train), context.clips, context.task
    x = context.map_clips(embed, _with_encoder(context.model, weights), indices)[0]
    score = diagnostics.knn_score(task, x, clips.labels[indices], [clips.folds[i] for i in indices], len(clips.classes))
    return loop.EpochEval({f"knn_{task.metric}": score, "effective_rank": diagnostics.effective_rank(x)})


def downstream(
    folder: pathlib.Path, task: Task, clips: Clips, split: Split, model: Model, learned: Learned
) -> dict[str, Any]:
    """The entry `pretrain` of results.json.

    `probe_score` is the primary metric of a linear probe on the pretrained encoder, on the test fold.

    Args:
        folder: of the stage.
        task, clips, split: of the run.
        model: of the run.
        learned: outcome of `pretrain`.
    """
    x = probe.embed_with_progress(model.with_variables(learned.variables), clips, folder / "embeddings")
    head = probe_heads.fit_split(task, x, clips, split)
    indices = list(split.test)
    score = task.score(clips.labels[indices], probe_heads.head_logits(x[0][indices], head.kernel, head.bias))
    metrics = {key: value for key, value in learned.history[-1].items() if key not in _BOOKKEEPING}
    objective = checkpoint.read_meta(*checkpoint.find(folder))["config"]["pretrain"]["objective"]
    return {
        "objective": objective,
        "seconds": round(learned.seconds, 1),
        "metrics": metrics,
        "rounds": learned.reports,
        "probe_score": score,
    }
