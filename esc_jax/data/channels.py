"""Mixing channels to mono."""

import numpy as np

# Channels cancel each other where the power of their sum is less than this fraction of the sum of their powers. The
# fraction is 1 for independent channels, and for one that has all the sound; it is the number of channels for equal
# ones, and 0 for two of opposite phase. Two channels of equal power are below it if their correlation is under −0.95.
CANCELLATION = 0.05
_SILENCE = 1e-9  # mean power of channels, −90 dB, below which nothing is decided: the noise of 16 bits
# Upper limit of samples × channels that are decoded and mixed at a time.
_BLOCK = 1 << 18


def block_size(rate: float, channels: int) -> int:
    """Number of samples that are mixed in one way: one second, or fewer of very many channels."""
    return max(1, min(int(rate), _BLOCK // channels))


def mix(waveform: np.ndarray, rate: float) -> tuple[np.ndarray, bool]:
    """Averages the channels. Where they cancel each other, one of them is used in the place of the mean.

    A sound that is in one of n channels has 1 / n of its amplitude in the mean: 6 dB less for two channels.

    This is decided for every block of `block_size` samples, without the constant offset of the channels. The channel is
    the first that has at least half of the power of the strongest one.

    Args:
        waveform: (samples, channels) from the beginning of a recording, or whole blocks of it.
        rate: Hz.

    Returns:
        (samples,) float32, and whether channels cancel each other.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # of samples that are no numbers, which are refused later
        mono = waveform.mean(axis=1, dtype=np.float32)
        if waveform.shape[1] == 1:
            return mono, False
        cancels = False
        size = block_size(rate, waveform.shape[1])
        for start in range(0, len(waveform), size):
            block = waveform[start : start + size]
            channel = _single_channel(block, mono[start : start + size])
            if channel is not None:
                mono[start : start + size] = block[:, channel]
                cancels = True
        return mono, cancels


def _single_channel(block: np.ndarray, mean: np.ndarray) -> int | None:
    """The channel to use in the place of the mean; None where the channels do not cancel each other."""
    count = block.shape[1]
    power = np.var(block, axis=0, dtype=np.float64)
    if not power.mean() > _SILENCE or not np.var(mean, dtype=np.float64) * count**2 < CANCELLATION * power.sum():
        return None
    return int(np.argmax(power >= power.max() / 2))
