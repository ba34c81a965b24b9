"""The normalized waveform, for models that read raw audio."""

import dataclasses

import jax
import jax.numpy as jnp

from esc_jax.frontends.settings import check_types

_EPSILON = 1e-7


@dataclasses.dataclass(frozen=True)
class Raw:
    """Raw waveform with zero mean and unit variance over its valid samples.

    y = (x − mean(x)) / √(var(x) + 1e-7), with mean and variance over the samples that are not padding. Padding becomes
    0. Source: the feature extractor of wav2vec 2.0 and HuBERT (transformers, `Wav2Vec2FeatureExtractor`).

    Attributes:
        sample_rate: of the waveform, in Hz.
        normalize: if false, valid samples are not changed, as by the extractor of ntu-spml/distilhubert.
    """

    sample_rate: int = 16000
    normalize: bool = True

    def __post_init__(self) -> None:
        check_types(self)

    def __call__(self, waveform: jax.Array, padding: jax.Array | None = None) -> jax.Array:
        """Normalizes waveforms.

        Args:
            waveform: (…, time), floating point.
            padding: (…, time), true where the waveform is padding; or None.

        Returns:
            (…, time) float32. Zeros for a waveform that is silent or all padding.
        """
        x = jnp.asarray(waveform, jnp.float32)
        valid = jnp.ones(x.shape, bool) if padding is None else ~padding
        if self.normalize:
            count = jnp.maximum(valid.sum(-1, keepdims=True).astype(jnp.float32), 1.0)
            x = x - jnp.where(valid, x, 0.0).sum(-1, keepdims=True) / count
            variance = jnp.where(valid, x * x, 0.0).sum(-1, keepdims=True) / count
            x = x * jax.lax.rsqrt(variance + _EPSILON)
        return jnp.where(valid, x, 0.0)
