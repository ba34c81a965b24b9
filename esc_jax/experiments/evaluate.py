"""The test of a trained model, after its training or later."""

from collections.abc import Sequence
import dataclasses
import pathlib
from typing import Any

import numpy as np

from esc_jax import config as configs
from esc_jax.augment.views import Views
from esc_jax.errors import ConfigError
from esc_jax.evaluation import calibration, results
from esc_jax.evaluation.calibration import Calibration
from esc_jax.evaluation.predict import predict_clips
from esc_jax.experiments import dataset, workdir
from esc_jax.experiments.artifacts import write_artifacts
from esc_jax.experiments.run import Run
from esc_jax.models.model import Variables
from esc_jax.runtime import processes
from esc_jax.training import checkpoint
from esc_jax.training import restore as restores
from esc_jax.training import step as steps


@dataclasses.dataclass(frozen=True)
class TrainingRecord:
    """What a test records about the training before it.

    Attributes:
        epochs, seconds: of training, over all restarts; the seconds of pretraining included.
        step: of the tested checkpoint.
        history, pretrain_history: lines of the epochs of both stages.
    """

    epochs: int
    seconds: float
    step: int | None
    history: Sequence[dict[str, Any]] = ()
    pretrain_history: Sequence[dict[str, Any]] = ()


def test(
    run: Run,
    weights: Variables,
    folder: pathlib.Path,
    record: TrainingRecord,
    fitted: Calibration,
    extra: dict[str, Any],
) -> dict[str, Any]:
    """Tests weights once, on the clips and on their views, and writes the files of the run.

    Under the protocol `all` there is nothing to test, and the files say so.

    Args:
        run: its test clips are used.
        weights: variables of the model.
        folder: workdir.
        record: of the training.
        fitted: calibration of the weights.
        extra: further entries of results.json.
    """
    config, clips, split = run.config, run.clips, run.split
    parts = []
    if split.test:
        part = results.FoldPredictions(
            split.test_folds[0],
            config.seed,
            np.asarray(split.test),
            *_predict_views(run, weights),
            record.epochs,
            record.seconds,
            fitted.raw_thresholds(run.task),
        )
        parts.append(part)
        extra = calibration.for_results({part.fold: fitted}) | extra
    else:
        extra = {"seconds": round(record.seconds, 1)} | extra
    outcome = results.results(
        config, run.task, clips, parts, split.report(), parameters=run.model.parameter_count, step=record.step
    )
    outcome |= extra
    write_artifacts(folder, outcome, clips, parts, record.history, record.pretrain_history)
    return outcome


def _predict_views(run: Run, weights: Variables) -> tuple[np.ndarray, np.ndarray | None]:
    """Probabilities (n, classes) of the test clips, and their average over the views; None with fewer than two."""
    options = run.config.eval
    views = Views(options.views, options.tta, round(options.view_crop_s * run.model.sample_rate), options.view_octaves)
    # Views multiply the batch. With a smaller batch, memory stays what it is without them.
    batch_size = max(1, options.batch_size // max(1, options.tta))

    def predict(views: Views) -> np.ndarray:
        step = run.program(views, lambda: steps.predict_step(run.model, run.task, views))
        return predict_clips(step, weights, run.clips, run.split.test, batch_size, run.resident)

    if not options.tta:
        return predict(Views())[0], None
    of_views = predict(views)
    if options.view_average == "logits":
        averaged = run.task.probabilities(run.task.logits(of_views).mean(axis=0))
    else:
        averaged = of_views.mean(axis=0)
    plain = of_views if views.include_clip else predict(Views())
    return plain[0], averaged


def evaluate_again(config: Any, folder: pathlib.Path) -> dict[str, Any]:
    """Tests the checkpoint of a finished run again, with the config's `eval`, and writes its results again.

    Raises:
        CheckpointError: there is no checkpoint.
        ConfigError: `config` has another seed, fold or recipe than the run, or the run is not finished.
        OtherDataError: the run was trained on other data.
    """
    configs.check(config)
    processes.require_single_process("--mode=evaluate")
    restored = restores.restore(folder)
    current = configs.flatten(config)
    trained = workdir.read_config(folder)
    trained |= {key: value for key, value in current.items() if key.startswith("eval.")}
    if changed := workdir.differences(trained, current):
        raise ConfigError(f"{folder} was trained with another config: {'; '.join(changed[:3])}")
    with restored.config.unlocked():
        restored.config.data, restored.config.eval = config.data, config.eval
    _, task, clips = dataset.load(config)
    checkpoint.check_data(restored.meta["data"], clips.identity, folder)
    run = Run(restored.config, task, clips, dataset.split_clips(config, clips), restored.model)
    last = checkpoint.newest(restored.folder)  # a protocol may have selected an earlier step
    if config.method == "train" and last < run.total:
        raise ConfigError(f"{folder} stopped at step {last} of {run.total}: finish the run first")
    progress = checkpoint.read_meta(restored.folder, last)["progress"]
    seconds, extra, pretrain_history = progress["seconds"], {}, ()
    path = folder / "results.json"
    if path.exists():  # a run that was never tested has no results
        stored = results.read_results(path)
        kept = ("calibration", "probe", "seconds_embedding", "pretrain", "crossval", "teacher")
        extra = {key: stored[key] for key in kept if key in stored}
        seconds = stored["folds"][0]["seconds"] if stored["folds"] else stored["seconds"]
    if restored.config.pretrain.objective:
        pretrain_history = checkpoint.read_meta(*checkpoint.find(folder / "pretrain"))["progress"]["history"]
    history = progress["history"]
    record = TrainingRecord(len(history), seconds, restored.step, history, pretrain_history)
    fitted = Calibration.read(restored.meta)
    return test(run, run.model.variables, folder, record, fitted, extra)
