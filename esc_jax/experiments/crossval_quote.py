"""The cross-validation that a model trained on every clip quotes: its score and its calibration.

python -m esc_jax.main --config=NAME --mode=crossval --workdir=runs/crossval
python -m esc_jax.main --config=NAME --config.protocol=all --from_crossval=runs/crossval
"""

import dataclasses
import pathlib
from typing import Any, Self

import numpy as np

from esc_jax import config as configs
from esc_jax.data.clips import Clips
from esc_jax.errors import ConfigError
from esc_jax.evaluation import results
from esc_jax.evaluation.calibration import Calibration
from esc_jax.experiments import workdir
from esc_jax.tasks import registry as tasks
from esc_jax.training import checkpoint

# Keys that may differ between a cross-validation and the run that quotes it.
_OTHER_KEYS = ("protocol", "seed", "data.test_fold", "crossval.", "eval.")
FITTED_ON = "held-out predictions of the cross-validation"


@dataclasses.dataclass(frozen=True)
class Quote:
    """A finished cross-validation.

    Attributes:
        folder: its work directory.
        outcome: its results.json.
    """

    folder: pathlib.Path
    outcome: dict[str, Any]

    @classmethod
    def read(cls, folder: pathlib.Path, config: Any) -> Self:
        """The cross-validation in a folder.

        Args:
            folder: its work directory.
            config: of the run that quotes it.

        Raises:
            ConfigError: it is not finished, is of another config, or selected epochs on test folds.
        """
        if config.protocol != "all":
            raise ConfigError(f"--from_crossval needs --config.protocol=all, not {config.protocol}")
        if not (folder / "config.json").is_file():
            raise ConfigError(f"--from_crossval={folder} contains no run: give the workdir of a cross-validation")
        current = configs.flatten(config)

        def relevant(flat: dict[str, Any]) -> dict[str, Any]:
            return {key: value for key, value in flat.items() if not key.startswith(_OTHER_KEYS)}

        if changed := workdir.differences(relevant(workdir.read_config(folder)), relevant(current)):
            raise ConfigError(f"--from_crossval={folder} is of another config: {'; '.join(changed[:3])}")
        try:
            outcome = results.read_results(folder / "results.json")
        except results.DamagedResultsError as error:
            raise ConfigError(f"--from_crossval: {error}; finish the cross-validation first") from None
        tested, failed = len({fold["fold"] for fold in outcome["folds"]}), outcome.get("failed")
        if tested < 2 or failed:
            reason = f"{', '.join(failed)} failed" if failed else f"the number of its test folds is {tested}"
            raise ConfigError(f"--from_crossval={folder} is not a complete cross-validation: {reason}")
        for path in _predictions(folder):  # before a training that would need them at its end
            try:
                results.read_results(path.with_name("results.json"))
            except results.DamagedResultsError as error:
                raise ConfigError(f"--from_crossval: {error}; run the cross-validation again") from None
        if outcome["test_selected"]:
            raise ConfigError(f"--from_crossval={folder} selected the epoch on its test folds (protocol oracle)")
        return cls(folder, outcome)

    def check_data(self, clips: Clips) -> None:
        """Raises OtherDataError unless the cross-validation is of these clips."""
        checkpoint.check_data(self.outcome["data"]["identity"], clips.identity, self.folder)

    def calibration(self, clips: Clips) -> Calibration:
        """From the held-out predictions of all folds; `clips` are the data set."""
        task = tasks.get(self.outcome["task"])
        parts = [results.read_predictions(path, clips) for path in _predictions(self.folder)]
        logits = np.concatenate([task.logits(part.plain) for part in parts])
        labels = np.concatenate([clips.labels[part.indices] for part in parts])
        return Calibration.held_out(task, logits, labels, FITTED_ON)

    def to_dict(self) -> dict[str, Any]:
        """The entry `crossval` of results.json."""
        metric = tasks.get(self.outcome["task"]).metric
        folds = self.outcome["folds"]
        return {
            "workdir": self.folder.name,
            "config_name": self.outcome["config_name"],
            "protocol": self.outcome["protocol"],
            "folds": sorted({fold["fold"] for fold in folds}),
            "clips": sum(fold["total"] for fold in folds),
            metric: self.outcome[metric],
            f"{metric}_tta": self.outcome[f"{metric}_tta"],
            "tta_views": self.outcome["tta_views"],
            "tta_kind": results.stored_view_kind(self.outcome),
        }


def _predictions(folder: pathlib.Path) -> list[pathlib.Path]:
    """predictions.csv of every fold, or of all folds at once."""
    return sorted(folder.glob("fold*/predictions.csv")) or [folder / "predictions.csv"]
