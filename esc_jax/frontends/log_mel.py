"""Log-mel spectrogram."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from esc_jax.frontends.framing import frame
from esc_jax.frontends.settings import FrontendError, check_settings, check_types


def hz_to_mel(hz: np.ndarray | float, htk: bool = False) -> np.ndarray:
    """Frequency in Hz → mel.

    Args:
        hz: frequencies.
        htk: HTK's scale, 2595 log₁₀(1 + f / 700); else Slaney's scale, linear up to 1 kHz and logarithmic above.
    """
    hz = np.asarray(hz, np.float64)
    if htk:
        return 2595.0 * np.log10(1.0 + hz / 700.0)
    return np.where(hz < 1000.0, 0.015 * hz, 15.0 + 27.0 * np.log(np.maximum(hz, 1000.0) / 1000.0) / np.log(6.4))


def mel_to_hz(mel: np.ndarray | float, htk: bool = False) -> np.ndarray:
    """Inverse of `hz_to_mel`."""
    mel = np.asarray(mel, np.float64)
    if htk:
        return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    return np.where(mel < 15.0, mel / 0.015, 1000.0 * 6.4 ** ((mel - 15.0) / 27.0))


def _triangles(sample_rate: int, n_fft: int, mels: int, fmin: float, fmax: float, htk: bool) -> np.ndarray:
    bins = np.arange(n_fft // 2 + 1) * (sample_rate / n_fft)
    edges = mel_to_hz(np.linspace(hz_to_mel(fmin, htk), hz_to_mel(fmax, htk), mels + 2), htk)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    rising = (bins[:, None] - low) / (centre - low)
    falling = (high - bins[:, None]) / (high - centre)
    filters = np.maximum(0.0, np.minimum(rising, falling))
    return (filters if htk else filters * (2.0 / (high - low))).astype(np.float32)


@functools.lru_cache(maxsize=16)
def mel_bank(sample_rate: int, n_fft: int, mels: int, fmin: float, fmax: float, htk: bool) -> np.ndarray:
    """Triangular mel filters, equal to those of `librosa.filters.mel`.

    On Slaney's scale the filters have equal area (librosa's norm="slaney"), on HTK's scale equal height (norm=None).

    Args:
        sample_rate: Hz.
        n_fft: FFT size, samples.
        mels: number of filters.
        fmin, fmax: edges of the bank, Hz.
        htk: HTK's mel scale.

    Returns:
        (n_fft // 2 + 1, mels) float32.

    Raises:
        FrontendError: a filter contains no FFT bin, so that its output would be constant. The message names the
            smallest power of two for n_fft at which all filters contain one.
    """
    filters = _triangles(sample_rate, n_fft, mels, fmin, fmax, htk)
    if filters.any(axis=0).all():
        return filters
    size = 1 << n_fft.bit_length()
    while size < 1 << 17 and not _triangles(sample_rate, size, mels, fmin, fmax, htk).any(axis=0).all():
        size *= 2
    raise FrontendError(
        f"frontend: {int((~filters.any(axis=0)).sum())} of the {mels} mel filters between {fmin:g} and {fmax:g} Hz"
        f" cover no FFT bin at n_fft={n_fft} and {sample_rate} Hz; the smallest n_fft that works is {size}"
    )


@dataclasses.dataclass(frozen=True)
class LogMel:
    """Logarithm of the mel power spectrogram, normalized with fixed constants.

        (ln(|STFT|² · bank + offset) − mean) / std

    The power spectrogram equals `librosa.feature.melspectrogram` with a periodic Hann window and zero padding. `mean`
    and `std` are constants of the config, not statistics of the data, so that no information leaks from test folds.

    Attributes:
        sample_rate: Hz.
        n_fft: FFT size, samples.
        win_length: window size, samples, centred in the FFT; 0 means n_fft.
        hop: samples between frames.
        mels: number of bands.
        fmin, fmax: edges of the bank, Hz; fmax 0 means half the sample rate.
        htk: HTK's mel scale instead of Slaney's.
        center: pad by n_fft // 2 on both sides, so that frame t is centred on sample t · hop.
        offset: added to the power, so that silence is finite.
        mean, std: of the normalization.
    """

    sample_rate: int = 32_000
    n_fft: int = 1024
    win_length: int = 0
    hop: int = 320
    mels: int = 128
    fmin: float = 20.0
    fmax: float = 0.0
    htk: bool = False
    center: bool = True
    offset: float = 1e-5
    mean: float = -4.0
    std: float = 4.0

    def __post_init__(self) -> None:
        check_types(self)
        window = self.win_length or self.n_fft
        check_settings(
            self.sample_rate,
            {"n_fft": self.n_fft, "win_length": window, "hop": self.hop, "mels": self.mels},
            {"fmin": self.fmin, "fmax": self.fmax or self.sample_rate / 2},
            {"offset": self.offset, "std": self.std},
        )
        if window > self.n_fft:
            raise FrontendError(f"frontend: win_length is {window}, and must be at most n_fft, {self.n_fft}")

    @property
    def log_scale(self) -> float:
        """Divisor of the natural logarithm in the features."""
        return self.std

    @property
    def decibel(self) -> float:
        """What a gain of 1 dB adds to the features of a sound well above the floor."""
        return 0.1 * math.log(10.0) / self.log_scale

    @property
    def bank(self) -> np.ndarray:
        """The mel bank, (n_fft // 2 + 1, mels)."""
        return mel_bank(self.sample_rate, self.n_fft, self.mels, self.fmin, self.fmax or self.sample_rate / 2, self.htk)

    def mel_power(self, waveform: jax.Array) -> jax.Array:
        """Mel power spectrogram, before the logarithm: (…, time) → (…, frames, mels)."""
        size = self.win_length or self.n_fft
        window = np.zeros(self.n_fft, np.float32)
        begin = (self.n_fft - size) // 2
        window[begin : begin + size] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
        if self.center:
            pad = self.n_fft // 2
            # Not jnp.pad: XLA would fuse the operations that produce the waveform, such as a crop, into every frame.
            ends = jnp.zeros((*waveform.shape[:-1], pad), waveform.dtype)
            waveform = jnp.concatenate([ends, waveform, ends], -1)
        frames = frame(waveform, self.n_fft, self.hop)
        frames = frames * jnp.broadcast_to(jnp.asarray(window), frames.shape)
        spectrum = jnp.fft.rfft(frames)
        power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
        # By default, accelerators round the power to bfloat16 or TF32, which is visible after the logarithm.
        return jnp.matmul(power, jnp.asarray(self.bank), precision=jax.lax.Precision.HIGHEST)

    def __call__(self, waveform: jax.Array, padding: jax.Array | None = None) -> jax.Array:
        """Features of waveforms.

        Args:
            waveform: (…, time).
            padding: ignored: padding is silence.

        Returns:
            (…, frames, mels).
        """
        del padding
        return (jnp.log(self.mel_power(waveform) + self.offset) - self.mean) / self.std
