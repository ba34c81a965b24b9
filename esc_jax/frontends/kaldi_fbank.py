"""Kaldi's log-mel filterbank, the frontend of BEATs and of most transformers trained on AudioSet."""

from collections.abc import Callable
import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from esc_jax.frontends.framing import frame
from esc_jax.frontends.settings import FrontendError, check_settings, check_types

FLOOR = float(np.finfo(np.float32).eps)  # lower bound before the logarithm: silence is log(eps) = −15.94

# Symmetric windows, as functions of the cosine of one period.
_WINDOWS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "povey": lambda cosine: (0.5 - 0.5 * cosine) ** 0.85,
    "hanning": lambda cosine: 0.5 - 0.5 * cosine,
    "hamming": lambda cosine: 0.54 - 0.46 * cosine,
    "rectangular": np.ones_like,
}


@dataclasses.dataclass(frozen=True)
class KaldiFbank:
    """Log-mel energies as defined by Kaldi's `compute-fbank-feats`, normalized.

    Per frame of `frame_ms`, every `hop_ms`: subtract the mean; x[n] − a·x[n−1] (x[−1] = x[0]); window; zero-pad to a
    power of two N; |DFT|²; triangles equally spaced on mel(f) = 1127·ln(1 + f/700) over the bins 0 … N/2 − 1;
    ln(max(·, eps)). The result is (f − mean) / (2·std). The factor of two is part of the published recipes of BEATs and
    AST; `mean=0, std=0.5` gives the unnormalized filterbank.

    Attributes:
        sample_rate: of the waveform, in Hz.
        scale: factor on the waveform; 2^15 maps [−1, 1] to the 16-bit range that Kaldi uses.
        bins: number of mel bins.
        frame_ms, hop_ms: length of the frames and distance of their starts, ms.
        preemphasis: a.
        remove_dc: whether the mean of each frame is subtracted.
        window: "povey" (hann^0.85), "hanning", "hamming" or "rectangular", all symmetric.
        low_hz, high_hz: edges of the bank, Hz; `high_hz` of zero or less is relative to half the sample rate.
        power: |DFT|² if true, else |DFT|.
        snip_edges: only frames that fit into the clip; else one frame per hop, with the clip mirrored at its ends.
        mean, std: of the filterbank over the training data. The defaults are those of AudioSet, published with BEATs.

    Source: Kaldi, feat/feature-fbank.cc and mel-computations.cc; Chen et al., "BEATs", 2022.
    """

    sample_rate: int = 16000
    scale: float = 2.0**15
    bins: int = 128
    frame_ms: float = 25.0
    hop_ms: float = 10.0
    preemphasis: float = 0.97
    remove_dc: bool = True
    window: str = "povey"
    low_hz: float = 20.0
    high_hz: float = 0.0
    power: bool = True
    snip_edges: bool = True
    mean: float = 15.41663
    std: float = 6.55582

    def __post_init__(self) -> None:
        check_types(self)
        length, hop = self.samples
        check_settings(
            self.sample_rate,
            {"bins": self.bins, "frame_ms in samples": length, "hop_ms in samples": hop},
            {"low_hz": self.low_hz, "high_hz": self._high_hz()},
            {"std": self.std},
        )
        if self.window not in _WINDOWS:
            raise FrontendError(f"frontend: no window {self.window}: choose one of {', '.join(_WINDOWS)}")

    @property
    def log_scale(self) -> float:
        """Divisor of the natural logarithm in the features."""
        return 2 * self.std

    @property
    def decibel(self) -> float:
        """What a gain of 1 dB adds to the features of a sound well above the floor."""
        return (0.1 if self.power else 0.05) * math.log(10.0) / self.log_scale

    @property
    def samples(self) -> tuple[int, int]:
        """Length and distance of the frames in samples."""
        return int(self.sample_rate * 1e-3 * self.frame_ms), int(self.sample_rate * 1e-3 * self.hop_ms)

    @property
    def fft(self) -> int:
        """Length of the DFT: a power of two."""
        return 1 << (self.samples[0] - 1).bit_length()

    @property
    def bank(self) -> np.ndarray:
        """The mel bank, (fft / 2, bins)."""
        return _mel_bank(self.sample_rate, self.fft, self.bins, self.low_hz, self._high_hz())

    def _high_hz(self) -> float:
        return self.high_hz if self.high_hz > 0 else self.sample_rate / 2 + self.high_hz

    def __call__(self, waveform: jax.Array, padding: jax.Array | None = None) -> jax.Array:
        """Normalized features.

        Args:
            waveform: (…, time). A clip shorter than one frame is padded with zeros to one frame.
            padding: ignored: the published recipe treats padding as silence.

        Returns:
            (…, frames, bins), float32.
        """
        del padding
        frames = self._frames(jnp.asarray(waveform, jnp.float32) * jnp.float32(self.scale))
        if self.remove_dc:
            frames = frames - jnp.mean(frames, axis=-1, keepdims=True)
        previous = jnp.concatenate([frames[..., :1], frames[..., :-1]], axis=-1)
        frames = frames - jnp.float32(self.preemphasis) * previous
        length = frames.shape[-1]
        size = self.fft
        spectrum = jnp.fft.rfft(jnp.einsum("...n,n->...n", frames, symmetric_window(self.window, length)), n=size)
        energy = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
        if not self.power:
            energy = jnp.sqrt(energy)
        # By default, accelerators lose three digits of the product, which is visible after the logarithm.
        mel = jnp.einsum("...f,fm->...m", energy[..., : size // 2], self.bank, precision=jax.lax.Precision.HIGHEST)
        return (jnp.log(jnp.maximum(mel, FLOOR)) - self.mean) / (2 * self.std)

    def _frames(self, waveform: jax.Array) -> jax.Array:
        """(…, time) → overlapping frames (…, frames, length)."""
        return frame(self.pad(waveform), *self.samples)

    def pad(self, waveform: jax.Array) -> jax.Array:
        """(…, time) → what the frames contain: padded at its ends, or cut after the last frame."""
        length, hop = self.samples
        leading = [(0, 0)] * (waveform.ndim - 1)
        waveform = jnp.pad(waveform, [*leading, (0, max(0, length - waveform.shape[-1]))])
        time = waveform.shape[-1]
        if self.snip_edges:
            count, before = 1 + (time - length) // hop, 0
        else:
            count, before = (time + hop // 2) // hop, length // 2 - hop // 2
        after = max(0, (count - 1) * hop + length - before - time)
        waveform = jnp.pad(waveform, [*leading, (max(0, before), after)], mode="symmetric")
        start = max(0, -before)
        return jax.lax.slice_in_dim(waveform, start, start + (count - 1) * hop + length, axis=-1)


def symmetric_window(name: str, length: int) -> np.ndarray:
    """A symmetric window (length,)."""
    return _WINDOWS[name](np.cos(2 * np.pi * np.arange(length) / max(1, length - 1))).astype(np.float32)


@functools.lru_cache
def _mel_bank(sample_rate: int, size: int, bins: int, low_hz: float, high_hz: float) -> np.ndarray:
    """Triangles on the mel axis over the lower half of the spectrum, (size / 2, bins), not normalized by area.

    With many bins, the lowest triangles are narrower than a DFT bin and may contain none. They stay empty, as in Kaldi:
    the trained models expect the lower bound there.
    """

    def mel(frequency: np.ndarray | float) -> np.ndarray:
        return 1127 * np.log1p(np.asarray(frequency) / 700)

    low, high = mel(low_hz), mel(high_hz)
    left = low + (high - low) / (bins + 1) * np.arange(bins)[None, :]
    width = (high - low) / (bins + 1)
    points = mel(np.arange(size // 2) * sample_rate / size)[:, None]
    return np.maximum(0, np.minimum((points - left) / width, (left + 2 * width - points) / width)).astype(np.float32)
