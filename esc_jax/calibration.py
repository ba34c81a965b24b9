"""What a model knows about its own certainty: a temperature, and the energy below which a sound is unfamiliar.

The energy score of a clip with logits fᶜ is ln Σᶜ exp(fᶜ): large where some class is sure of it, small where none is
(W. Liu et al., "Energy-based out-of-distribution detection", NeurIPS 2020, with the sign turned). A sound is called
unfamiliar where its score is below that of all but a few of the clips that the threshold was set on.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from esc_jax import statistics

# Shares of the clips themselves that fall below the threshold. What a model was trained on it is surer of than of
# anything else, so that there even the least sure say little.
HELD_OUT_SHARE, TRAINED_SHARE = 0.05, 0.01
# A pass over so many of the training clips settles a quantile of one in a hundred.
TRAINING_CLIPS = 400


def energy(logits: np.ndarray) -> np.ndarray:
    """(n, classes) → (n,): ln Σᶜ exp(logitᶜ)."""
    return statistics.log_sum_exp(logits)


@dataclasses.dataclass(frozen=True)
class Calibration:
    """How a model's logits become probabilities, and which of them mean "unlike anything in training".

    Attributes:
        temperature: the logits are divided by it before the softmax; None where no clips were held out to fit it on.
        energy: threshold of the energy score; −inf calls nothing unfamiliar.
        share: of the clips it was set on that are below it.
        fitted_on: what those clips were, in words.
    """

    temperature: float | None = None
    energy: float = -np.inf
    share: float = 0.0
    fitted_on: str = ""

    @classmethod
    def held_out(cls, logits: np.ndarray, labels: Sequence[int], fitted_on: str) -> "Calibration":
        """From (n, classes) logits of clips that the model has not seen, nor is tested on."""
        threshold = float(np.quantile(energy(logits), HELD_OUT_SHARE))
        return cls(statistics.fit_temperature(logits, labels), threshold, HELD_OUT_SHARE, fitted_on)

    @classmethod
    def trained(cls, logits: np.ndarray, fitted_on: str) -> "Calibration":
        """From logits of clips that the model was trained on: they say nothing about a temperature."""
        return cls(None, float(np.quantile(energy(logits), TRAINED_SHARE)), TRAINED_SHARE, fitted_on)

    @classmethod
    def read(cls, meta: Mapping[str, Any]) -> "Calibration":
        """That of a checkpoint's `meta`; one that changes nothing where it has none."""
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in meta.get("calibration", {}).items() if key in names})

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """(n, classes) float32 softmax(logits / temperature)."""
        return statistics.tempered(logits, self.temperature or 1.0).astype(np.float32)

    def unfamiliar(self, logits: np.ndarray) -> np.ndarray:
        """(n,) true where the energy score is below the threshold."""
        return energy(logits) < self.energy


def for_results(found: Mapping[int, Calibration]) -> dict[str, Any]:
    """What results.json says of the calibrations of test folds; nothing where no temperature was fitted."""
    if not found or not all(one.temperature for one in found.values()):
        return {}
    first = next(iter(found.values()))
    by_fold = {str(fold): one.temperature for fold, one in found.items()}
    temperature = by_fold if len(found) > 1 else first.temperature
    return {"calibration": {"temperature": temperature, "fitted_on": first.fitted_on}}
