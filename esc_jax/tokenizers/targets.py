"""Targets of masked prediction: a token for each patch of a spectrogram.

Tokens are clusters of the patches themselves, or of the features of a teacher: the encoder of an earlier round, or a
published one (Hsu et al., "HuBERT", 2021; Chen et al., "BEATs", 2022).
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

import jax

from esc_jax.models.encoder import Classifier, Encoded
from esc_jax.ops import patches
from esc_jax.tokenizers import kmeans


@dataclasses.dataclass(frozen=True)
class Targets:
    """Computes the tokens of the patches of a spectrogram.

    Attributes:
        patch_size: frames and bins of a patch.
        teacher: model whose features are clustered, after resampling to the grid of the patches; None: the patches
            themselves are clustered.
        frontend: waveform → features of the teacher, at the sample rate of the data; None: the teacher uses the same
            features as the student.
    """

    patch_size: int
    teacher: Classifier | None = None
    frontend: Callable[..., jax.Array] | None = None

    def vectors(self, variables: Mapping[str, Any], audio: jax.Array, features: jax.Array) -> jax.Array:
        """The vectors that are clustered, one for each patch.

        Args:
            variables: of the teacher; empty without one.
            audio: (B, time), float.
            features: (B, frames, bins) of the same audio.

        Returns:
            (B, rows, columns, D).
        """
        if self.teacher is None:
            return patches.extract_patches(features, self.patch_size)
        teacher_features = self.frontend(audio) if self.frontend else features
        encoded = self.teacher.apply(variables, teacher_features, method="encode")
        assert isinstance(encoded, Encoded)  # `apply` has no precise type
        rows, columns = patches.patch_grid(features.shape[1], features.shape[2], self.patch_size)
        return jax.lax.stop_gradient(patches.resample(encoded.feature_map(), rows, columns))

    def __call__(
        self, constants: Mapping[str, Any], audio: jax.Array, features: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Tokens (B, rows, columns) and vectors (B, rows, columns, D).

        Args:
            constants: {"teacher": variables, "centroids": (K, D)}.
            audio, features: as for `vectors`.
        """
        vectors = self.vectors(constants["teacher"], audio, features)
        return kmeans.assign(constants["centroids"], vectors), vectors
