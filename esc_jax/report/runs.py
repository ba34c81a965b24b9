"""Finished runs, read from their work directories."""

from collections.abc import Sequence
import dataclasses
import json
import math
import os
import pathlib
import re
from typing import Any

import numpy as np

from esc_jax import files
from esc_jax.errors import UserError, counted
from esc_jax.evaluation.confidence import ConfidenceInterval
from esc_jax.evaluation.results import has_changed, other_metrics, stored_view_kind
from esc_jax.report.errors import ReportError, RunError
from esc_jax.report.predictions import Predictions, read_predictions
from esc_jax.tasks import registry as tasks
from esc_jax.tasks.base import Task

# Subfolders of a cross-validation. They are runs whose results are part of its own.
_PART = re.compile(r"(fold|seed)[-_=]?\d+.*")


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        name: unique within a report: the path relative to the folder of all runs.
        folder: work directory.
        method: name of the config.
        teacher: of a distillation; empty without.
        task: what the labels mean.
        data: name of the data set.
        clips: number of clips in the data set.
        background: number of clips of none of the classes that it was trained on as well.
        classes: class names by index.
        fingerprint: of the data.
        sample_rate: of the model's input, Hz.
        protocol: holdout, validation, oracle, or all, which tests nothing.
        test_selected: whether the epoch was selected on the test fold.
        folds: test folds, sorted, without duplicates; empty without a test.
        seeds: number of models per fold.
        tested: number of tested clips, over all folds and seeds.
        score: primary metric of the task, mean over folds, with its 95 % interval; None without a test.
        score_tta: the same with test-time augmentation; None without.
        other_metrics: mean over folds of the other metrics of the task, by their written name.
        std: standard deviation of the score over folds and seeds; None for a single model.
        tta_views: number of averaged views; 0 without test-time augmentation.
        tta_kind: of the views, as `evaluation.results.stored_view_kind`.
        parameters: number of parameters.
        seconds: training time over all folds.
        temperatures: fold → temperature, fitted without the clips of that fold; empty without calibration.
        fitted_on: description of the clips that the temperatures were fitted on.
        predictions: None where predictions.csv is missing or cannot be used.
        notes: sentences on what is missing, and on what limits the results.
        config: content of config.json; empty where there is none.
    """

    name: str
    folder: pathlib.Path
    method: str
    teacher: str
    task: Task
    data: str
    clips: int
    background: int
    classes: tuple[str, ...]
    fingerprint: str
    sample_rate: int
    protocol: str
    test_selected: bool
    folds: tuple[int, ...]
    seeds: int
    tested: int
    score: ConfidenceInterval | None
    score_tta: ConfidenceInterval | None
    other_metrics: dict[str, float]
    std: float | None
    tta_views: int
    tta_kind: str
    parameters: int
    seconds: float
    temperatures: dict[int, float]
    fitted_on: str
    predictions: Predictions | None
    notes: tuple[str, ...]
    config: dict[str, Any]

    @property
    def data_key(self) -> tuple[str, str, tuple[str, ...]]:
        """Equal for runs whose scores can be compared: same task, data and classes."""
        return self.task.name, self.fingerprint, self.classes

    @property
    def data_label(self) -> str:
        """Name and size of the data set. Subsets have the name of the whole set."""
        return f"{self.data}, {self.clips:,} clips" + (f" + {self.background:,} background" if self.background else "")

    @property
    def label(self) -> str:
        """The name, with † where the epoch was selected on the test fold, and with the teacher of a distillation."""
        teacher = f", teacher: {self.teacher}" if self.teacher else ""
        return self.name + (" †" if self.test_selected else "") + teacher

    @property
    def folds_text(self) -> str:
        """The test folds: "fold 4", "folds 1–4" or "folds 1, 3"; "no fold" without a test."""
        numbers = [str(fold) for fold in self.folds]
        if not numbers:
            return "no fold"
        if len(numbers) == 1:
            return f"fold {numbers[0]}"
        contiguous = self.folds[-1] - self.folds[0] + 1 == len(numbers) and len(numbers) > 2
        return f"folds {numbers[0]}–{numbers[-1]}" if contiguous else f"folds {', '.join(numbers)}"


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise RunError(f"{path} is incomplete or damaged: invalid JSON in line {error.lineno}") from None
    except UnicodeDecodeError:
        raise RunError(f"{path} is not a text file") from None
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from None
    if not isinstance(content, dict):
        raise RunError(f"{path} is not a JSON object")
    return content


def _temperatures(calibration: dict[str, Any], folds: Sequence[int]) -> dict[int, float]:
    """Fold → temperature, from one number for all folds or an object with a number for each."""
    value = calibration.get("temperature")
    if isinstance(value, dict):
        return {int(fold): float(temperature) for fold, temperature in value.items()}
    return {fold: float(value) for fold in folds} if value is not None else {}


def interval(entry: dict[str, Any], recordings: int) -> ConfidenceInterval:
    """The interval of an entry of results.json, such as `accuracy`."""
    low, high = entry["ci95"]
    return ConfidenceInterval(float(entry["mean"]), float(low), float(high), recordings)


def _check_predictions(path: pathlib.Path, task: Task, predictions: Predictions, folds: list[dict[str, Any]]) -> None:
    """Raises RunError where predictions.csv and results.json are of different runs.

    The score of every fold and seed must be equal up to one clip, or up to 0.01 for a metric that is no mean over
    clips: where probabilities are rounded, a decision may change, and close ones become equal.
    """
    counts_clips = task.clip_scores(predictions.labels, predictions.scores) is not None
    for fold in folds:
        rows = (predictions.folds == int(fold["fold"])) & (predictions.seeds == int(fold["seed"]))
        number, total = int(rows.sum()), int(fold["total"])
        score = task.score(predictions.labels[rows], predictions.scores[rows]) if number else 0.0
        if number != total or abs(score - fold[task.metric]) > (1.5 / total if counts_clips else 0.01):
            raise RunError(
                f"{path} does not belong to results.json: for fold {fold['fold']} it has {task.metric_label}"
                f" {100 * score:.2f} % on {number} clips, and results.json {100 * fold[task.metric]:.2f} % on {total}"
            )
    if len(predictions) != (total := sum(int(fold["total"]) for fold in folds)):
        raise RunError(f"{path} does not belong to results.json: it has {len(predictions)} clips instead of {total}")


def _predictions(folder: pathlib.Path, task: Task, results: dict[str, Any]) -> Predictions:
    path, classes, folds = folder / "predictions.csv", results["data"]["classes"], results["folds"]
    checksum = results.get("predictions_checksum")
    predictions = read_predictions(path, task, classes)
    if checksum and files.checksums([path]) != [tuple(checksum)]:
        raise RunError(f"{path} has changed since it was written")
    _check_predictions(path, task, predictions, folds)
    if any("thresholds" not in fold for fold in folds):
        return predictions
    of_run = {(int(fold["fold"]), int(fold["seed"])): np.array(fold["thresholds"], np.float64) for fold in folds}
    rows = zip(predictions.folds.tolist(), predictions.seeds.tolist(), strict=True)
    return dataclasses.replace(predictions, thresholds=np.stack([of_run[row] for row in rows]))


def _usable_predictions(
    folder: pathlib.Path, name: str, task: Task, results: dict[str, Any], strict: bool
) -> tuple[Predictions | None, list[str]]:
    """The predictions of a run, or None and a sentence on the reason. Raises RunError if `strict`."""
    if not results["folds"]:
        quoted, text = results.get("crossval"), f"{name}: trained on every clip, not tested; quotes"
        if not quoted:
            return None, [f"{text} no cross-validation"]
        low, high = (100 * bound for bound in quoted[task.metric]["ci95"])
        score = f"{100 * quoted[task.metric]['mean']:.2f} ({low:.1f}–{high:.1f}) %"
        return None, [f"{text} {task.metric_label} {score} of the cross-validation {quoted['workdir']}"]
    try:
        return _predictions(folder, task, results), []
    except RunError as error:
        if strict:
            raise
        return None, [f"{name} is not compared with other runs: {error}"]


def _config(folder: pathlib.Path) -> tuple[dict[str, Any], list[str]]:
    """The content of config.json, and sentences on what is wrong with it. The results do not need it."""
    try:
        return _read_json(folder / "config.json") if (folder / "config.json").is_file() else {}, []
    except RunError as error:
        return {}, [str(error)]


def _parse(folder: pathlib.Path, name: str, results: dict[str, Any], strict: bool) -> Run:
    """The run of a results.json. Raises KeyError, TypeError and so on for content that no run writes."""
    path, data, folds = folder / "results.json", results["data"], results["folds"]
    if has_changed(results):
        raise RunError(f"{path} is damaged: its checksum does not match")
    task, score = tasks.get(results.get("task", "single_label")), None
    if not folds and results["protocol"] != "all":
        raise RunError(f"{path} has no folds")
    predictions, notes = _usable_predictions(folder, name, task, results, strict)
    recordings = len(set(predictions.recordings)) if predictions else 0
    if folds:
        score = interval(results[task.metric], recordings) if results[task.metric] else None
        if score is None or not math.isfinite(score.value):
            raise RunError(f"{path}: the {task.metric_label} is not a number; check the log of the run")
    config, problems = _config(folder)
    notes += problems
    if failed := results.get("failed"):
        notes.append(f"{name} is incomplete: {', '.join(map(str, failed))} failed")
    grouping = data.get("grouping", {})
    if folds and grouping.get("kind") == "none":
        reason = str(grouping["description"])
        notes.append(f"{data['name']}: clips of one recording may be on both sides of a split, since {reason}")
    numbers = [int(fold["fold"]) for fold in folds]
    std = results[task.metric]["std"] if folds else None
    averaged = results.get(f"{task.metric}_tta")
    seconds = [fold["seconds"] for fold in folds] or [results.get("seconds", 0.0)]
    calibration = results.get("calibration") or {}
    return Run(
        name=name,
        folder=folder,
        method=str(results["config_name"]),
        teacher=str(results.get("teacher", "")),
        task=task,
        data=str(data["name"]),
        clips=int(data["clips"]),
        background=int(data.get("background_clips", 0)),
        classes=tuple(str(name) for name in data["classes"]),
        fingerprint=str(data["fingerprint"]),
        sample_rate=int(data["sample_rate"]),
        protocol=str(results["protocol"]),
        test_selected=bool(results["test_selected"]),
        folds=tuple(sorted(set(numbers))),
        seeds=max((numbers.count(number) for number in numbers), default=1),
        tested=sum(int(fold["total"]) for fold in folds),
        score=score,
        score_tta=interval(averaged, recordings) if averaged else None,
        other_metrics=other_metrics(task, folds),
        std=None if std is None else float(std),
        tta_views=int(results.get("tta_views") or 0),
        tta_kind=stored_view_kind(results),
        parameters=int(results["parameters"]),
        seconds=sum(map(float, seconds)),
        temperatures=_temperatures(calibration, numbers),
        fitted_on=str(calibration.get("fitted_on", "")),
        predictions=predictions,
        notes=tuple(notes),
        config=config,
    )


def read(folder: pathlib.Path, name: str = "", *, strict: bool = False) -> Run:
    """Reads the run in a work directory.

    Args:
        folder: the work directory.
        name: of the run; by default that of the folder.
        strict: whether to raise an error if predictions.csv cannot be used. By default the run gets a note.

    Raises:
        RunError: results.json is missing, incomplete, or not written by a run.
    """
    path = folder / "results.json"
    results = _read_json(path)
    try:
        return _parse(folder, name or folder.resolve().name, results, strict)
    except RunError:
        raise
    except UserError as error:
        raise RunError(f"{path}: {error}") from None
    except KeyError as error:
        raise RunError(f"{path} is incomplete: it has no {error}") from None
    except (TypeError, ValueError, AttributeError):
        raise RunError(f"{path} is not written by a run: a value has the wrong type") from None


def _read_or_note(folder: pathlib.Path, name: str, parts: Sequence[str], files: Sequence[str]) -> Run | str | None:
    """The run in a folder, or a sentence why it is skipped; None for a config without any results."""
    if "results.json" in files:
        try:
            return read(folder, name)
        except RunError as error:
            return f"skipped: {error}"
    finished = sum((folder / part / "results.json").is_file() for part in parts)
    if finished:
        return f"skipped: {name} is not finished ({counted(finished, 'fold')} done)"
    return f"skipped: {name} has no results yet" if "metrics.jsonl" in files else None


def find(runs_dir: pathlib.Path) -> tuple[list[Run], list[str]]:
    """Finds the runs in a folder and its subfolders. The folds of a cross-validation are part of their run.

    Returns:
        The runs, and sentences on runs that were skipped or are incomplete. Larger data sets come first; for each data
        set, runs that were tested on more folds; and among these, the best.

    Raises:
        ReportError: the folder does not exist.
        RunError: it contains no run that can be read.
    """
    if not runs_dir.is_dir():
        raise ReportError(f"{runs_dir} {'is not a folder' if runs_dir.exists() else 'does not exist'}")
    runs, notes = [], []
    for path, subfolders, names in os.walk(runs_dir):
        folder = pathlib.Path(path)
        if "results.json" in names or "config.json" in names:
            parts = [sub for sub in subfolders if _PART.fullmatch(sub)]
            subfolders[:] = [name for name in subfolders if name not in parts and name != "checkpoints"]
            name = folder.resolve().name if folder == runs_dir else folder.relative_to(runs_dir).as_posix()
            result = _read_or_note(folder, name, parts, names)
            if isinstance(result, Run):
                runs.append(result)
            elif result:
                notes.append(result)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
    if not runs:
        raise RunError("; ".join(notes[:3]) or f"{runs_dir} contains no run: there is no results.json in any subfolder")
    notes += dict.fromkeys(note for run in runs for note in run.notes)  # those on a data set once
    return ordered(runs), notes


def ordered(runs: Sequence[Run]) -> list[Run]:
    """The runs in the order of `find`."""

    def place(run: Run) -> Any:
        return -run.clips, run.data_key, -len(run.folds), -run.score.value if run.score else math.inf, run.name

    return sorted(runs, key=place)


def group_by_data(runs: Sequence[Run]) -> list[list[Run]]:
    """Groups runs whose scores can be compared. The order is kept."""
    groups: dict[Any, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.data_key, []).append(run)
    return list(groups.values())


def best(group: Sequence[Run]) -> Run:
    """The first tested run whose epoch was not selected on the test fold; the first one if there is none."""
    return next((run for run in group if run.score and not run.test_selected), group[0])


def best_of(group: Sequence[Run]) -> str:
    """What `best` chose from: "1 run", or "4 runs, best"; "4 runs, best on 2 folds" if others have fewer folds."""
    if len(group) == 1:
        return "1 run"
    folds = len(best(group).folds)
    fewer = any(len(run.folds) < folds for run in group)
    return f"{len(group)} runs, best" + (f" on {counted(folds, 'fold')}" if fewer else "")
