"""What masked prediction predicts: a token for every patch, of the patch itself or of what a teacher makes of it.

The first tokenizer knows nothing: it clusters the patches. Every further one clusters the features of an encoder, of
the round before or a published one (Hsu et al., "HuBERT", 2021; Chen et al., "BEATs", 2022).
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

import jax

from esc_jax.models.encoder import Classifier
from esc_jax.ops import patches
from esc_jax.tokenizers import kmeans


@dataclasses.dataclass(frozen=True)
class Targets:
    """Tokens of the patches of a spectrogram.

    Attributes:
        size: frames and bins of a patch.
        teacher: whose encoder's features are clustered, brought to the grid of the patches; None: the patches are.
        frontend: waveform → features of the teacher, at the rate of the data; None: those that the student sees.
    """

    size: int
    teacher: Classifier | None = None
    frontend: Callable[[jax.Array], jax.Array] | None = None

    def vectors(self, weights: Mapping[str, Any], audio: jax.Array, features: jax.Array) -> jax.Array:
        """(B, rows, columns, D): what is clustered.

        Args:
            weights: of the teacher; empty without.
            audio: (B, time), float.
            features: (B, frames, bins), of the same audio.
        """
        rows, columns = patches.grid(*features.shape[1:], self.size)
        if self.teacher is None:
            return patches.cut(features, self.size)
        seen = self.frontend(audio) if self.frontend else features
        found = self.teacher.apply(weights, seen, method="encode")
        return jax.lax.stop_gradient(patches.resample(found.map(), rows, columns))

    def __call__(self, fixed: Mapping[str, Any], audio: jax.Array, features: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Ids (B, rows, columns), and the vectors; `fixed` is {"teacher": weights, "centroids": (K, D)}."""
        vectors = self.vectors(fixed["teacher"], audio, features)
        return kmeans.assign(fixed["centroids"], vectors), vectors
