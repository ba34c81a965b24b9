"""Cross-validation: every fold is tested once by a run of its own, and the results are pooled.

    python -m esc_jax.main --config=configs/efficientat_frozen.py --mode=crossval
    python -m esc_jax.main --config=configs/resnet34_cpu.py --mode=crossval --config.crossval.seeds=3

WORKDIR/fold1, fold2, … are complete runs, and are resumed like any other. A fold that fails does not stop the others.
With --config.crossval.vectorized=True all runs are trained at once (`experiments.vectorized`). WORKDIR itself has the
pooled results: results.json, predictions.csv, report.md, confusion_matrix.png.
"""

from collections.abc import Iterable
import copy
import pathlib
from typing import Any

from absl import logging

from esc_jax import config as configs
from esc_jax.data.clips import Clips
from esc_jax.data.rows import DataError, Layout
from esc_jax.errors import ConfigError, Failure, counted
from esc_jax.evaluation import calibration, results
from esc_jax.evaluation.calibration import Calibration
from esc_jax.experiments import dataset, probe, single, teacher, vectorized, workdir
from esc_jax.experiments.artifacts import markdown, write_artifacts
from esc_jax.experiments.run import Programs
from esc_jax.inference import model_path
from esc_jax.runtime import processes
from esc_jax.tasks.base import Task
from esc_jax.training import checkpoint
from esc_jax.training.checkpoint import CheckpointError
from esc_jax.training.loop import TrainError


class CrossvalError(Failure, RuntimeError):
    """Folds that failed; the results of the others are written. The message is one sentence."""


def _runs(config: Any, folds: list[int]) -> dict[str, Any]:
    """Config of every run, by the name of its folder."""
    runs = {}
    for seed in range(config.crossval.seeds):
        for fold in folds:
            run_config = copy.deepcopy(config)
            run_config.data.test_fold, run_config.seed = fold, config.seed + seed
            suffix = f"_seed{run_config.seed}" if config.crossval.seeds > 1 else ""
            runs[f"fold{fold}{suffix}"] = run_config
    return runs


def _test_folds(config: Any, available: Iterable[int]) -> list[int]:
    available = sorted(set(available))
    folds = list(config.crossval.folds) or available
    if len(set(folds)) < len(folds):
        raise ConfigError(f"config.crossval.folds={tuple(folds)}: name each fold once")
    if unknown := [fold for fold in folds if fold not in available]:
        raise DataError(f"config.crossval.folds: this data set has no fold {unknown[0]}; it has {available}")
    return folds


def cross_validate(config: Any, folder: pathlib.Path) -> dict[str, Any]:
    """Runs every fold that is not finished, and pools the tests of all folds.

    Returns:
        The object of results.json, over all folds.

    Raises:
        CrossvalError: folds failed.
        UserError: as `single.train_and_evaluate`, of what concerns all folds.
    """
    configs.check(config)
    if config.protocol == "all":
        raise ConfigError("config.protocol=all trains one model on every clip: use --mode=train")
    if (folder / "checkpoints").is_dir():
        raise ConfigError(f"{folder} contains the run of one fold: choose another --workdir")
    workdir.check_workdir(folder, config)
    model_path.check_weights("model.pretrained", config.model.pretrained)

    def check(source: Layout, background: Layout | None) -> None:
        for name, run_config in _runs(config, _test_folds(config, (row.fold for row in source.rows))).items():
            workdir.check_files(folder / name, source, background)
            teacher.check(run_config)

    if config.crossval.vectorized and config.method != "probe":
        processes.require_single_process("config.crossval.vectorized")
        vectorized.check(config)
    resolved, task, clips = dataset.load(config, check)
    folds = _test_folds(config, clips.folds)
    if config.method == "probe":
        outcome = probe.probe_and_evaluate(config, folder, folds)
        _write_report(folder, outcome)
        return outcome
    runs = _runs(config, folds)
    splits = [dataset.split_clips(run_config, clips) for run_config in runs.values()]
    for run_config, part in zip(runs.values(), splits, strict=True):  # a mistake in the last fold is reported now
        dataset.check_split(run_config, task, clips, part)
    if config.crossval.vectorized:
        vectorized.check_folds(config, clips, splits)
    workdir.bind_workdir(folder, config)
    if config.crossval.vectorized:
        vectorized.train(runs, folder)  # the loop below then finds every run finished
    outcomes, parts, failed = _finish_runs(runs, folder, clips)
    if not parts:
        raise CrossvalError(f"every fold failed; {next(iter(failed))}: {next(iter(failed.values()))}")
    *_, last = outcomes.values()
    split = f"{counted(len(folds), 'test fold')}, each tested after training on the other folds"
    outcome = results.results(resolved, task, clips, parts, split, parameters=last["parameters"])
    outcome |= {"failed": failed} | ({"teacher": last["teacher"]} if last.get("teacher") else {})
    if config.crossval.seeds == 1:  # with several seeds, a fold has several temperatures
        calibrations = {runs[name].data.test_fold: Calibration.read(of_run) for name, of_run in outcomes.items()}
        outcome |= calibration.for_results(calibrations) or _cross_fitted(task, clips, parts)
    write_artifacts(folder, outcome, clips, parts)
    _write_report(folder, outcome)
    if failed:
        raise CrossvalError(
            f"{len(failed)} of {len(runs)} runs failed ({', '.join(failed)}: {next(iter(failed.values()))}); the"
            f" results of the others are in {folder}; run the same command again to retry"
        )
    return outcome


def _write_report(folder: pathlib.Path, outcome: dict[str, Any]) -> None:
    if processes.is_main_process():
        (folder / "report.md").write_text(markdown(outcome), encoding="utf-8")


def _cross_fitted(task: Task, clips: Clips, parts: list[results.FoldPredictions]) -> dict[str, Any]:
    """The entry `calibration` where the runs have none: each fold's temperature is fitted on the other folds."""
    predictions = {part.fold: (task.logits(part.plain), clips.labels[part.indices]) for part in parts}
    return calibration.for_results(
        calibration.cross_fitted(task, predictions, "the held-out predictions of the other folds")
    )


def _finish_runs(
    runs: dict[str, Any], folder: pathlib.Path, clips: Clips
) -> tuple[dict[str, dict[str, Any]], list[results.FoldPredictions], dict[str, str]]:
    """Trains the runs that are not finished, one after the other.

    Args:
        runs: config of each, by the name of its folder.
        folder: workdir of the cross-validation.
        clips: the data set.

    Returns:
        results.json of each run by its name, the predictions of these runs, and name → error of runs that failed.
    """
    programs: Programs = {}
    outcomes, parts, failed = {}, [], {}
    for number, (name, run_config) in enumerate(runs.items(), start=1):
        try:
            with workdir.locked(folder / name):
                description = f"{name} ({number} of {len(runs)})"
                outcomes[name] = _finish_run(run_config, folder / name, clips, description, programs)
            parts.append(results.read_predictions(folder / name / "predictions.csv", clips))
        except (TrainError, CheckpointError) as error:  # of this run; a mistake in the config stops all of them
            logging.error("%s failed: %s", name, error)
            failed[name] = str(error)
    return outcomes, parts, failed


def _finish_run(
    config: Any, folder: pathlib.Path, clips: Clips, description: str, programs: Programs
) -> dict[str, Any]:
    """results.json of a run; trains it where it is not finished."""
    path = folder / "results.json"
    outcome: dict[str, Any] | None = None
    workdir.check_workdir(folder, config)
    if path.exists():
        try:
            outcome = results.read_results(path)
        except results.DamagedResultsError as error:
            logging.warning("%s; the fold is tested again", error)
    views = config.eval.tta, results.view_kind(config) if config.eval.tta else ""
    if outcome is not None and (outcome["tta_views"], results.stored_view_kind(outcome)) != views:
        logging.warning("%s was tested with other views (--mode=evaluate); the fold is tested again", folder)
        outcome = None
    if outcome is None:
        logging.info("%s", description)
        return single.train_and_evaluate(config, folder, programs=programs)
    checkpoint.check_data(outcome["data"]["identity"], clips.identity, folder)
    return outcome
