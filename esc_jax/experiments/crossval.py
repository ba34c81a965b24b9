"""Cross-validation: every fold tested once, by a run of its own, and what they say together.

    python -m esc_jax.main --config=configs/efficientat_frozen.py --mode=crossval
    python -m esc_jax.main --config=configs/resnet34_cpu.py --mode=crossval --config.crossval.seeds=3

WORKDIR/fold1, fold2, … are whole runs, resumed like any other; a fold that fails does not take the others with it.
With --config.crossval.vectorized=True they are trained at once (`together`).
WORKDIR itself holds the results of all of them: results.json, predictions.csv, report.md, confusion_matrix.png.
"""

import copy
import json
import pathlib
from typing import Any

from absl import logging

from esc_jax import config as configs
from esc_jax.data import clips as datasets
from esc_jax.data.source import DataError
from esc_jax.errors import Failure
from esc_jax.evaluation import calibration, results
from esc_jax.evaluation.calibration import Calibration
from esc_jax.experiments import artifacts, probe, vectorized
from esc_jax.experiments import single as train
from esc_jax.runtime import processes
from esc_jax.training import checkpoint
from esc_jax.training.checkpoint import CheckpointError
from esc_jax.training.loop import TrainError


class CrossvalError(Failure, RuntimeError):
    """Folds that failed, in one sentence; the results of the others are written."""


def _runs(config, folds) -> dict[str, Any]:
    """Config of every run by the name of its folder."""
    runs = {}
    for seed in range(config.crossval.seeds):
        for fold in folds:
            own = copy.deepcopy(config)
            own.data.test_fold, own.seed = fold, config.seed + seed
            runs[f"fold{fold}" + (f"_seed{own.seed}" if config.crossval.seeds > 1 else "")] = own
    return runs


def cross_validate(config, workdir: pathlib.Path) -> dict[str, Any]:
    """Runs every fold, or goes on with those that are not done, and pools their tests.

    Returns:
        The object of results.json, over all folds.

    Raises:
        CrossvalError: folds failed. Those of `train.train_and_evaluate` where it concerns all folds alike.
    """
    configs.check(config)
    if (workdir / "checkpoints").is_dir():
        raise configs.ConfigError(f"{workdir} holds the run of one fold: choose another --workdir")
    with processes.main_process_first("the data are prepared"):
        clips = datasets.load(config.data)
    have = sorted(set(clips.folds))
    folds = list(config.crossval.folds) or have
    if unknown := [fold for fold in folds if fold not in have]:
        raise DataError(f"config.crossval.folds: this data set has no fold {unknown[0]}; it has {have}")
    if config.method == "probe":
        found = probe.probe_and_evaluate(config, workdir, folds)
        (workdir / "report.md").write_text(artifacts.markdown(found))
        return found
    if config.crossval.vectorized:
        processes.require_single_process("config.crossval.vectorized")
        vectorized.check(config)
    workdir.bind_workdir(workdir, config)
    parts, failed, single, calibrations = [], {}, {}, {}
    runs = _runs(config, folds)
    if config.crossval.vectorized:
        vectorized.train(runs, workdir)  # the loop below finds every run done
    for number, (name, own) in enumerate(runs.items(), start=1):
        done = workdir / name / "results.json"
        try:
            if done.exists():
                workdir.bind_workdir(workdir / name, own)  # refuses the folder of another config
                single = json.loads(done.read_text())
                checkpoint.check_data(single["data"]["fingerprint"], clips.fingerprint, workdir / name)
            else:
                logging.info("%s (%d of %d)", name, number, len(runs))
                single = train.train_and_evaluate(own, workdir / name)
            calibrations[own.data.test_fold] = Calibration.read(single)
            parts.append(results.read_predictions(workdir / name / "predictions.csv", clips))
        except (TrainError, CheckpointError) as error:  # of this run; a mistake in the config is that of all
            logging.error("%s failed: %s", name, error)
            failed[name] = str(error)
    if not parts:
        raise CrossvalError(f"every fold failed; {next(iter(failed))}: {next(iter(failed.values()))}")
    split = f"{len(folds)} folds, each tested on after training on the others"
    found = results.results(config, clips, parts, split, parameters=single["parameters"]) | {"failed": failed}
    if config.crossval.seeds == 1:  # of several, a fold has several temperatures
        found |= calibration.for_results(calibrations)
    artifacts.write_artifacts(workdir, found, clips, parts)
    if processes.is_main_process():
        (workdir / "report.md").write_text(artifacts.markdown(found))
    if failed:
        raise CrossvalError(
            f"{len(failed)} of {len(runs)} runs failed ({', '.join(failed)}: {next(iter(failed.values()))});"
            f" the others are in {workdir}, and the same command tries again"
        )
    return found
