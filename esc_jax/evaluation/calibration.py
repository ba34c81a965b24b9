"""What a model knows about its own certainty: a temperature, and the energy below which a sound is unfamiliar.

The energy score of a clip with logits fᶜ is ln Σᶜ exp(fᶜ): large where some class is sure of it, small where none is
(W. Liu et al., "Energy-based out-of-distribution detection", NeurIPS 2020, with the sign turned). A sound is called
unfamiliar where its score is below that of all but a few of the clips that the threshold was set on.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import Any

import numpy as np

from esc_jax.evaluation import calibration

# Shares of the clips themselves that fall below the threshold. What a model was trained on it is surer of than of
# anything else, so that there even the least sure say little.
HELD_OUT_SHARE, TRAINED_SHARE = 0.05, 0.01
# A pass over so many of the training clips settles a quantile of one in a hundred.
TRAINING_CLIPS = 400


def energy(logits: np.ndarray) -> np.ndarray:
    """(n, classes) → (n,): ln Σᶜ exp(logitᶜ)."""
    return calibration.log_sum_exp(logits)


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
        return cls(calibration.fit_temperature(logits, labels), threshold, HELD_OUT_SHARE, fitted_on)

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
        return calibration.tempered(logits, self.temperature or 1.0).astype(np.float32)

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


BINS = 15


@dataclasses.dataclass(frozen=True)
class Reliability:
    """A reliability diagram: (bins,) arrays; NaN where a bin is empty.

    Attributes:
        edges: (bins + 1,) of the confidence.
        count: clips in each bin.
        confidence: their mean confidence.
        accuracy: the share of them that is right.
    """

    edges: np.ndarray
    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def ece(self) -> float:
        """Expected calibration error: Σ_b (n_b / N) |accuracy_b − confidence_b|, over bins of equal width.

        Source: Naeini et al. (2015); Guo et al., On calibration of modern neural networks (2017), 15 bins.
        """
        gap = np.abs(self.accuracy - self.confidence)
        return float(np.nansum(gap * self.count) / self.count.sum())


def reliability(confidence: Sequence[float], correct: Sequence[bool], bins: int = BINS) -> Reliability:
    """Sorts clips into bins of equal width ((b − 1)/bins, b/bins] by the probability of the predicted class.

    Args:
        confidence: (N,) in [0, 1]; 0 itself falls into the first bin.
        correct: (N,) whether the prediction is right.
        bins: number of them.
    """
    confidence, correct = np.asarray(confidence, np.float64), np.asarray(correct, np.float64)
    if not confidence.size or confidence.shape != correct.shape:
        raise ValueError(f"{confidence.shape} confidences for {correct.shape} clips")
    edges = np.linspace(0.0, 1.0, bins + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):  # 0 / 0: an empty bin has neither
        return Reliability(
            edges,
            count,
            np.bincount(place, weights=confidence, minlength=bins) / count,
            np.bincount(place, weights=correct, minlength=bins) / count,
        )


def log_probabilities(probabilities: np.ndarray) -> np.ndarray:
    """ln p, of any shape, with p no smaller than float32 can hold: logits, up to a constant in each row."""
    return np.log(np.maximum(np.asarray(probabilities, np.float64), np.finfo(np.float32).tiny))


def tempered(logits: np.ndarray, temperature: float) -> np.ndarray:
    """(N, classes) probabilities softmax(logits / temperature). The ranking in each row stays as it is."""
    scaled = np.asarray(logits, np.float64) / temperature
    scaled = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return scaled / scaled.sum(axis=-1, keepdims=True)


def log_sum_exp(logits: np.ndarray) -> np.ndarray:
    """(…, classes) → (…): ln Σᶜ exp(logitᶜ), in double precision and without overflow."""
    logits = np.asarray(logits, np.float64)
    top = logits.max(axis=-1, keepdims=True)
    return top[..., 0] + np.log(np.exp(logits - top).sum(axis=-1))


def nll(logits: np.ndarray, labels: Sequence[int], temperature: float = 1.0) -> float:
    """Mean −ln softmax(logits / temperature)[label], in nats."""
    scaled = np.asarray(logits, np.float64) / temperature
    return float((log_sum_exp(scaled) - scaled[np.arange(len(scaled)), np.asarray(labels)]).mean())


def fit_temperature(logits: np.ndarray, labels: Sequence[int]) -> float:
    """The temperature T in [0.01, 100] with the smallest `nll` on held-out clips.

    The NLL is convex in 1/T, so that it has one minimum over log T, which is where a bounded scalar search looks.
    Fit it on clips that neither trained the model nor test it. Where every label has the largest logit the NLL falls
    towards T = 0, and a T at which it has vanished is returned.

    Args:
        logits: (N, classes); `log_probabilities` of a softmax serve as well.
        labels: (N,) class indices.

    Source: Guo et al. (2017), section 4.2.
    """
    from scipy import optimize  # half a second, which only this function needs

    logits = np.asarray(logits, np.float64)
    if not logits.size or len(logits) != len(labels):
        raise ValueError(f"{logits.shape} logits for {len(labels)} labels")
    bounds = (math.log(0.01), math.log(100.0))
    found = optimize.minimize_scalar(
        lambda log_t: nll(logits, labels, math.exp(log_t)), bounds=bounds, method="bounded", options={"xatol": 1e-6}
    )
    return float(math.exp(found.x))
