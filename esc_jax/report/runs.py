"""Runs as a report reads them: found below a folder, checked, with their predictions."""

from collections.abc import Sequence
import csv
import dataclasses
import json
import math
import os
import pathlib
import re
from typing import Any

import numpy as np

from esc_jax.errors import Failure, UserError
from esc_jax.evaluation import confidence

# What a cross-validation keeps below itself: runs of their own, already part of its results.
_PART = re.compile(r"(fold|seed)[-_=]?\d+.*")
_LEADING = ("clip", "fold", "source", "seed", "true", "predicted", "predicted_tta")


class RunError(Failure, ValueError):
    """Files of a run that cannot be read. The message is one sentence that names the file."""


class ReportError(UserError, ValueError):
    """A question that the runs at hand cannot answer. The message is one sentence."""


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The rows of predictions.csv: N, one for each clip, and for each clip and seed where there were several seeds.

    Attributes:
        clips: (N) file names.
        folds: (N) the fold that each was tested in.
        recordings: (N) what each was cut from.
        true, predicted, predicted_tta: (N,) class indices.
        probabilities: (N, classes) of the clip as it is.
    """

    clips: tuple[str, ...]
    folds: tuple[int, ...]
    recordings: tuple[str, ...]
    true: np.ndarray
    predicted: np.ndarray
    predicted_tta: np.ndarray
    probabilities: np.ndarray

    @property
    def correct(self) -> np.ndarray:
        """(N,) bool: right, without TTA."""
        return self.true == self.predicted

    @property
    def correct_tta(self) -> np.ndarray:
        """(N,) bool: right, with TTA."""
        return self.true == self.predicted_tta

    @property
    def confidence(self) -> np.ndarray:
        """(N,) probability of the predicted class."""
        return self.probabilities[np.arange(len(self.true)), self.predicted]


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        name: unique in its report: the folder, as seen from the folder of all runs.
        folder: where it lies.
        method: name of its config.
        data: name of the data set.
        clips: in the data set.
        classes: names, by index.
        fingerprint: of the data.
        sample_rate: Hz, of what the model hears.
        protocol: holdout, validation or oracle.
        test_selected: whether its epoch was chosen on the test fold.
        folds: that were tested, in order, each once.
        seeds: how many models each fold had.
        tested: clips, over all folds and seeds.
        accuracy, accuracy_tta: mean over folds, with the interval over recordings; None without TTA.
        std: of the accuracy over folds and seeds; None for one.
        tta_views: that were averaged.
        parameters: number of them.
        seconds: of training, over all folds.
        temperatures: fold → temperature that was fitted without its test clips; empty where none was.
        fitted_on: what on, in words.
        predictions: None where predictions.csv cannot be used.
        notes: sentences on what is missing.
        config: of config.json; empty where there is none.
    """

    name: str
    folder: pathlib.Path
    method: str
    data: str
    clips: int
    classes: tuple[str, ...]
    fingerprint: str
    sample_rate: int
    protocol: str
    test_selected: bool
    folds: tuple[int, ...]
    seeds: int
    tested: int
    accuracy: confidence.ConfidenceInterval
    accuracy_tta: confidence.ConfidenceInterval | None
    std: float | None
    tta_views: int
    parameters: int
    seconds: float
    temperatures: dict[int, float]
    fitted_on: str
    predictions: Predictions | None
    notes: tuple[str, ...]
    config: dict[str, Any]

    @property
    def data_key(self) -> tuple[str, tuple[str, ...]]:
        """Equal for runs whose accuracies are of the same task."""
        return self.fingerprint, self.classes

    @property
    def data_label(self) -> str:
        """The data set in a word, with its size: a part of a data set has the same name as the whole."""
        return f"{self.data}, {self.clips:,} clips"

    @property
    def label(self) -> str:
        """The name, with † where the epoch was chosen on the test fold."""
        return self.name + (" †" if self.test_selected else "")


def _json(path: pathlib.Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise RunError(f"{path} is not whole: its JSON breaks off or goes wrong in line {error.lineno}") from None
    except UnicodeDecodeError:
        raise RunError(f"{path} is not a text file") from None
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from None
    if not isinstance(found, dict):
        raise RunError(f"{path} is not the object that a run writes")
    return found


def _predictions(path: pathlib.Path, classes: Sequence[str]) -> Predictions:
    """Reads predictions.csv, whose columns go by position: a class may be called `clip`, too. Raises RunError."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            lines = list(csv.reader(file))
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error):
        raise RunError(f"{path} is not a csv file") from None
    header = lines[0] if lines else []
    width = header.index("predicted_tta") + 1 if "predicted_tta" in header else 0
    column = {name: header[:width].index(name) for name in _LEADING if name in header[:width]}
    if missing := [name for name in _LEADING if name not in column and name != "seed"]:
        older = "; --mode=evaluate writes it anew" if missing == ["source"] else ""
        raise RunError(f"{path} has no column {', '.join(missing)}{older}")
    if tuple(header[width : width + len(classes)]) != tuple(classes):
        raise RunError(f"{path} has other classes, or another order of them, than results.json")
    rows, number = lines[1:], {name: index for index, name in enumerate(classes)}
    broken = next((i for i, row in enumerate(rows, 2) if len(row) != len(header)), None)
    if broken or not rows:
        raise RunError(f"{path} is not whole: " + (f"line {broken} is cut short" if broken else "it holds no clips"))

    def indices(name: str) -> np.ndarray:
        return np.array([number[row[column[name]]] for row in rows])

    try:
        found = Predictions(
            clips=tuple(row[column["clip"]] for row in rows),
            folds=tuple(int(row[column["fold"]]) for row in rows),
            recordings=tuple(row[column["source"]] for row in rows),
            true=indices("true"),
            predicted=indices("predicted"),
            predicted_tta=indices("predicted_tta"),
            probabilities=np.array([row[width : width + len(classes)] for row in rows], np.float64),
        )
    except KeyError as error:
        raise RunError(f"{path} names a class {error}, which results.json does not have") from None
    except ValueError:
        raise RunError(f"{path} holds a fold or a probability that is not a number") from None
    if not ((found.probabilities >= 0) & (found.probabilities <= 1)).all():
        raise RunError(f"{path} holds a probability outside 0 to 1")
    return found


def _temperatures(calibration: Any, folds: Sequence[int]) -> dict[int, float]:
    """Fold → temperature, from one number for all folds or an object with one for each."""
    given = calibration.get("temperature") if isinstance(calibration, dict) else None
    if isinstance(given, dict):
        return {int(fold): float(t) for fold, t in given.items()}
    return {fold: float(given) for fold in folds} if given is not None else {}


def _accuracy(
    found: dict[str, Any] | None, correct: np.ndarray | None, recordings
) -> confidence.ConfidenceInterval | None:
    """The mean that the run states, with the interval over recordings; without predictions, the one that it states."""
    if found is None:
        return None
    mean = float(found["mean"])
    if correct is None:
        low, high = found["ci95"]
        return confidence.ConfidenceInterval(mean, float(low), float(high), 0)
    return dataclasses.replace(confidence.accuracy_interval(correct, recordings), value=mean)


def read(folder: pathlib.Path, name: str = "", *, strict: bool = False) -> Run:
    """The run that lies in a folder.

    Args:
        folder: of the run.
        name: what to call it; the folder's own name where empty.
        strict: whether predictions that cannot be used are an error; otherwise the run gets a note, and the interval
            that its results.json states, which counts clips as independent.

    Raises:
        RunError: results.json is not there, not whole, or not a run's.
    """
    path = folder / "results.json"
    found = _json(path)
    notes, predictions, config = [], None, {}
    try:
        classes = tuple(str(c) for c in found["data"]["classes"])
        if not found["folds"]:
            raise RunError(f"{path} names no fold that was tested")
        if not math.isfinite(found["accuracy"]["mean"]):
            raise RunError(f"{path} holds an accuracy that is not a number: look for what went wrong in the run")
        tested = sum(int(fold["total"]) for fold in found["folds"])
        try:
            predictions = _predictions(folder / "predictions.csv", classes)
            right = sum(int(fold["correct"]) for fold in found["folds"])
            if (len(predictions.true), int(predictions.correct.sum())) != (tested, right):
                raise RunError(
                    f"{folder / 'predictions.csv'} has {predictions.correct.sum()} of {len(predictions.true)} clips"
                    f" right and results.json {right} of {tested}: they are not of one test"
                )
        except RunError as error:
            if strict:
                raise
            predictions = None
            notes.append(f"{name or folder.name} has an interval that counts clips as independent: {error}")
        if (folder / "config.json").is_file():
            try:
                config = _json(folder / "config.json")
            except RunError as error:  # its settings are shown; its results need them not
                notes.append(str(error))
        if failed := found.get("failed"):
            notes.append(f"{name or folder.name} is not complete: {', '.join(map(str, failed))} failed")
        tests = [int(fold["fold"]) for fold in found["folds"]]
        recordings = predictions.recordings if predictions else ()
        calibration = found.get("calibration")
        return Run(
            name=name or folder.resolve().name,
            folder=folder,
            method=str(found["config_name"]),
            data=str(found["data"]["name"]),
            clips=int(found["data"]["clips"]),
            classes=classes,
            fingerprint=str(found["data"]["fingerprint"]),
            sample_rate=int(found["data"]["sample_rate"]),
            protocol=str(found["protocol"]),
            test_selected=bool(found["test_selected"]),
            folds=tuple(sorted(set(tests))),
            seeds=max(tests.count(fold) for fold in tests),
            tested=tested,
            accuracy=_accuracy(found["accuracy"], predictions and predictions.correct, recordings),
            accuracy_tta=_accuracy(found.get("accuracy_tta"), predictions and predictions.correct_tta, recordings),
            std=None if found["accuracy"]["std"] is None else float(found["accuracy"]["std"]),
            tta_views=int(found.get("tta_views") or 0),
            parameters=int(found["parameters"]),
            seconds=sum(float(fold["seconds"]) for fold in found["folds"]),
            temperatures=_temperatures(calibration, tests),
            fitted_on=str(calibration.get("fitted_on", "")) if isinstance(calibration, dict) else "",
            predictions=predictions,
            notes=tuple(notes),
            config=config,
        )
    except RunError:
        raise
    except KeyError as error:
        raise RunError(f"{path} is not whole: it has no {error}") from None
    except (TypeError, ValueError, AttributeError):
        raise RunError(f"{path} is not the results of a run: a value is of another type than a run writes") from None


def find(runs_dir: pathlib.Path) -> tuple[list[Run], list[str]]:
    """Every run at or below a folder, the best of each data set first, and sentences on what was skipped.

    The folds of a cross-validation lie below it and are part of its results: they are no runs of their own here.

    Raises:
        ReportError: the folder does not exist. RunError: it holds no run that can be read.
    """
    if not runs_dir.is_dir():
        raise ReportError(f"{runs_dir} " + ("is not a folder" if runs_dir.exists() else "does not exist"))
    runs, notes = [], []
    for where, below, files in os.walk(runs_dir):
        folder = pathlib.Path(where)
        if "results.json" in files or "config.json" in files:
            parts = [b for b in below if _PART.fullmatch(b)]
            below[:] = [b for b in below if b not in parts and b != "checkpoints"]
            name = folder.relative_to(runs_dir).as_posix()
            name = folder.resolve().name if name == "." else name
            if "results.json" in files:
                try:
                    runs.append(read(folder, name))
                except RunError as error:
                    notes.append(f"skipped: {error}")
            elif finished := sum((folder / part / "results.json").is_file() for part in parts):
                notes.append(
                    f"skipped: {name} is not finished, {finished} of its folds {'are' if finished > 1 else 'is'}"
                )
            elif "metrics.jsonl" in files:
                notes.append(f"skipped: {name} has no results yet")
        below[:] = sorted(b for b in below if not b.startswith("."))
    if not runs:
        raise RunError("; ".join(notes[:3]) or f"{runs_dir} holds no run: there is no results.json in it or below it")
    notes += [note for run in runs for note in run.notes]
    # Larger data sets first, as they carry more; in each the best run first.
    runs.sort(key=lambda r: (-r.clips, r.data_key, -r.accuracy.value, r.name))
    return runs, notes


def by_data(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs of each data set, in the order in which they come."""
    groups: dict[Any, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.data_key, []).append(run)
    return list(groups.values())


def best(group: Sequence[Run]) -> Run:
    """The first of the runs whose epoch was not chosen on the test fold; the first of all where there is none."""
    return next((run for run in group if not run.test_selected), group[0])


def listed_folds(run: Run) -> str:
    """Its folds in words: fold 4; folds 1–4; folds 1, 3."""
    folds = [str(fold) for fold in run.folds]
    if len(folds) == 1:
        return f"fold {folds[0]}"
    whole = run.folds[-1] - run.folds[0] + 1 == len(folds) and len(folds) > 2
    return f"folds {folds[0]}–{folds[-1]}" if whole else f"folds {', '.join(folds)}"
