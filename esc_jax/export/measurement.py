"""The measured score of exported weights, and the cross-validation that weights without one quote."""

import dataclasses
import json
import pathlib
from typing import Any

from esc_jax.errors import Failure
from esc_jax.evaluation.results import has_changed
from esc_jax.tasks import registry as tasks
from esc_jax.training.restore import Restored


class MeasurementError(Failure, RuntimeError):
    """The results of the run cannot be read. The message is one sentence."""


@dataclasses.dataclass(frozen=True)
class Score:
    """The primary metric of a run.

    Attributes:
        metric: key of the task's primary metric.
        mean: over the tested folds and their seeds.
        std: standard deviation over folds and seeds; None for a single test.
        ci95: 95 % interval.
        clips: number of tested clips.
        folds: test folds.
        protocol: of the run.
    """

    metric: str
    mean: float
    std: float | None
    ci95: tuple[float, float]
    clips: int
    folds: tuple[int, ...]
    protocol: str


@dataclasses.dataclass(frozen=True)
class Measurement(Score):
    """The score of exactly these weights, from the results.json of their run.

    Attributes:
        test_selected: whether the epoch was selected on the test fold.
        mean_tta: metric of probabilities averaged over views; None without test-time augmentation.
        tta_views: number of views.
    """

    test_selected: bool
    mean_tta: float | None
    tta_views: int


@dataclasses.dataclass(frozen=True)
class CrossValidation(Score):
    """The cross-validation that the run of these weights quotes: the same config, on other splits of the same clips.

    Its score is that of other weights, each of which was tested on clips that did not train it.
    """


def _results_path(restored: Restored) -> pathlib.Path:
    workdir = restored.folder.parent if restored.folder.name == "checkpoints" else restored.folder
    return pathlib.Path(workdir) / "results.json"


def read_measurement(restored: Restored) -> Measurement | str:
    """The measurement of a model's weights, or the reason why there is none.

    Raises:
        MeasurementError: results.json exists but was not written by a run.
    """
    if "measured" in restored.meta:  # a packed classifier
        return _from_json(Measurement, restored)
    path = _results_path(restored)
    metric = tasks.get(restored.config.task).metric
    if restored.published:
        return "esc_jax has not measured these published weights"
    if not path.exists():
        return "the run has no results"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        if has_changed(results):
            raise ValueError("the checksum does not match")
        step = results.get("checkpoint_step")
        if step is not None and step != restored.step:
            return f"the results of the run are of step {step}, the weights of step {restored.step}"
        if not results["folds"]:
            return "they were trained on every clip, so that no clip is left to test them on"
        score, score_tta = results[metric], results[f"{metric}_tta"]
        return Measurement(
            metric=metric,
            **_score(score),
            clips=sum(int(fold["total"]) for fold in results["folds"]),
            folds=tuple(sorted({int(fold["fold"]) for fold in results["folds"]})),
            protocol=str(results["protocol"]),
            test_selected=bool(results["test_selected"]),
            mean_tta=float(score_tta["mean"]) if score_tta else None,
            tta_views=int(results.get("tta_views", 0)),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _not_a_run(path) from None


def read_cross_validation(restored: Restored) -> CrossValidation | None:
    """The cross-validation that the results of a run quote; None without.

    Raises:
        MeasurementError: results.json exists but was not written by a run.
    """
    if "cross_validation" in restored.meta:
        return _from_json(CrossValidation, restored)
    path = _results_path(restored)
    metric = tasks.get(restored.config.task).metric
    if restored.published or not path.exists():
        return None
    try:
        quoted = json.loads(path.read_text(encoding="utf-8")).get("crossval")
        if not quoted:
            return None
        return CrossValidation(
            metric=metric,
            **_score(quoted[metric]),
            clips=int(quoted["clips"]),
            folds=tuple(int(fold) for fold in quoted["folds"]),
            protocol=str(quoted["protocol"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _not_a_run(path) from None


def _from_json(kind: type, restored: Restored) -> Any:
    """The measurement or cross-validation in the metadata of a packed classifier, as `describe` wrote it."""
    entry = restored.meta["measured" if kind is Measurement else "cross_validation"]
    try:
        if kind is Measurement and entry["mean"] is None:
            return str(entry["reason"])
        known = {field.name: entry[field.name] for field in dataclasses.fields(kind)}
        scores = _score(known) | {"folds": tuple(map(int, known["folds"])), "clips": int(known["clips"])}
        texts = {name: str(known[name]) for name in ("metric", "protocol")}
        return kind(**(known | scores | texts))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise MeasurementError(f"{restored.folder}: its measured score is damaged") from None


def describe(restored: Restored) -> dict[str, Any]:
    """The entries `measured` and, if the model quotes one, `cross_validation` of model.json."""
    quoted = read_cross_validation(restored)
    measured = to_json(read_measurement(restored))
    return {"measured": measured, **({"cross_validation": dataclasses.asdict(quoted)} if quoted else {})}


def _score(entry: dict[str, Any]) -> dict[str, Any]:
    low, high = entry["ci95"]
    std = None if entry["std"] is None else float(entry["std"])
    return {"mean": float(entry["mean"]), "std": std, "ci95": (float(low), float(high))}


def _not_a_run(path: pathlib.Path) -> MeasurementError:
    return MeasurementError(f"{path} was not written by a run: test the run again with --mode=evaluate")


def to_json(result: Measurement | str) -> dict[str, Any]:
    """The measurement as a JSON object. Without one, `mean` is None, and `reason` says why."""
    return {"mean": None, "reason": result} if isinstance(result, str) else dataclasses.asdict(result)
