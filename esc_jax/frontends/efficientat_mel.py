"""The log-mel spectrogram of EfficientAT, with random edges of its mel bank in training.

    y[t]  = x[t + 1] − 0.97 x[t]
    P     = |STFT(y)|²                 (symmetric Hann window of 25 ms, centred in the FFT; reflection padding)
    out   = (log(P Mᵀ + 1e-5) + 4.5) / 5

M is Kaldi's mel bank: equally spaced triangles on the scale mel = 1127 ln(1 + f/700). Source:
F. Schmid et al., ICASSP 2023 (github.com/fschmid56/EfficientAT).
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from esc_jax.frontends.framing import frame
from esc_jax.frontends.settings import FrontendError, check_settings, check_types


@dataclasses.dataclass(frozen=True)
class EfficientATMel:
    """Waveform (…, time) → log-mel features (…, frames, bins), frames = 1 + (time − 1) // hop.

    Attributes:
        sample_rate: in Hz.
        bins: mel bands; 128 for most published checkpoints, 40, 64 or 256 for those with `mels` in their name.
        hop, window, fft: in samples.
        fmin, fmax: edges of the mel bank in Hz.
        fmin_jitter, fmax_jitter: range of the random edges in training, Hz. fmin is raised by 0 … fmin_jitter − 1;
            fmax is changed by up to ± fmax_jitter / 2, up to half the sample rate. Both are uniform, and the same for
            all clips of a call.

    >>> EfficientATMel()(jnp.zeros((2, 160_000))).shape
    (2, 500, 128)
    """

    sample_rate: int = 32_000
    bins: int = 128
    hop: int = 320
    window: int = 800
    fft: int = 1024
    fmin: float = 0.0
    fmax: float = 15_000.0
    fmin_jitter: int = 10
    fmax_jitter: int = 2_000

    def __post_init__(self) -> None:
        check_types(self)
        check_settings(
            self.sample_rate,
            {"bins": self.bins, "hop": self.hop, "window": self.window, "fft": self.fft},
            {"fmin": self.fmin, "fmax": self.fmax},
        )
        if self.window > self.fft:
            raise FrontendError(f"frontend: window is {self.window}, and must be at most fft, {self.fft}")

    def __call__(
        self, waveform: jax.Array, padding: jax.Array | None = None, *, key: jax.Array | None = None
    ) -> jax.Array:
        """Features of clips of at least two samples.

        Args:
            waveform: (…, time).
            padding: (…, time), true where the waveform is padding, which is replaced by silence; or None.
            key: PRNG key for random edges of the mel bank; None: fixed edges.

        Returns:
            (…, frames, bins), float32.
        """
        waveform = waveform.astype(jnp.float32)
        if padding is not None:
            waveform = jnp.where(padding, 0.0, waveform)
        power = self._power(waveform[..., 1:] - 0.97 * waveform[..., :-1])
        if key is None:
            bank = jnp.asarray(self.bank)
        else:
            bank = jnp.asarray(_mel_bank(*self._random_edges(key), self.bins, self.fft, self.sample_rate, jnp))
        # By default, accelerators round to 10 or 7 bits, which is visible after the logarithm.
        mel = jnp.matmul(power, bank, precision=jax.lax.Precision.HIGHEST)
        return (jnp.log(mel + 1e-5) + 4.5) / self.log_scale

    @property
    def log_scale(self) -> float:
        """Divisor of the natural logarithm in the features."""
        return 5.0

    @property
    def decibel(self) -> float:
        """What a gain of 1 dB adds to the features of a sound well above the floor."""
        return 0.1 * math.log(10.0) / self.log_scale

    @property
    def bank(self) -> np.ndarray:
        """The mel bank without jitter, (fft // 2, bins)."""
        bank = _mel_bank(self.fmin, self.fmax, self.bins, self.fft, self.sample_rate, np)
        return np.asarray(bank, np.float32)

    def _power(self, signal: jax.Array) -> jax.Array:
        """Power spectra (…, frames, fft // 2) of a signal (…, time), without the Nyquist bin."""
        frames = 1 + signal.shape[-1] // self.hop
        leading = [(0, 0)] * (signal.ndim - 1)
        signal = jnp.pad(signal, [*leading, (self.fft // 2, self.fft // 2)], mode="reflect")
        # Zeros before the window change the phase of the spectrum only, so the frames contain the window alone.
        first = (self.fft - self.window) // 2
        framed = frame(signal[..., first : first + (frames - 1) * self.hop + self.window], self.window, self.hop)
        window = jnp.asarray(np.hanning(self.window), jnp.float32)
        spectrum = jnp.fft.rfft(framed * window.reshape((1,) * (framed.ndim - 1) + (-1,)), n=self.fft)
        return (spectrum.real**2 + spectrum.imag**2)[..., :-1]

    def _random_edges(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """fmin and fmax with jitter, in whole Hz."""
        low_key, high_key = jax.random.split(key)
        low = jax.random.randint(low_key, (), 0, max(1, self.fmin_jitter))
        high = self.fmax_jitter // 2 - jax.random.randint(high_key, (), 0, max(1, self.fmax_jitter))
        highest = jnp.minimum(self.fmax + high.astype(jnp.float32), self.sample_rate / 2)
        return self.fmin + low.astype(jnp.float32), highest


def _mel_bank(
    fmin: float | jax.Array, fmax: float | jax.Array, bins: int, fft: int, sample_rate: int, np_or_jnp: Any
) -> jax.Array | np.ndarray:
    """Kaldi's triangles (fft // 2, bins): max(0, min(p − b, b + 2 − p)), p the mel of an FFT bin in units of one band.

    Args:
        fmin, fmax: edges, Hz.
        bins, fft, sample_rate: as in `EfficientATMel`.
        np_or_jnp: numpy for a constant bank in float64, or jax.numpy for edges that may be traced.
    """
    frequencies = np.arange(fft // 2) * (sample_rate / fft)
    low, high = (1127.0 * np_or_jnp.log(1.0 + edge / 700.0) for edge in (fmin, fmax))
    mels = np_or_jnp.asarray(1127.0 * np.log(1.0 + frequencies / 700.0))[:, None]
    position = (mels - low) / (high - low) * (bins + 1)
    band = np_or_jnp.arange(bins, dtype=mels.dtype)[None, :]
    return np_or_jnp.maximum(0.0, np_or_jnp.minimum(position - band, band + 2.0 - position))
