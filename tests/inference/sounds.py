"""A sound to classify, and where its windows are: what tests of streams and of the classifier share."""

import numpy as np


def sound(seconds, rate, channels=1, seed=0):
    """(time, channels): noise whose loudness changes every 0.1 s, up to 0.5."""
    rng = np.random.default_rng(seed)
    count = round(seconds * rate)
    loudness = np.repeat(rng.uniform(0, 0.5, count // (rate // 10) + 1), rate // 10)[:count]
    return (rng.uniform(-1, 1, (count, channels)) * loudness[:, None]).astype(np.float32)


def expected_starts(length, size, hop):
    starts = [k for k in range(0, length, hop) if k + size <= length] or [0]
    if starts[-1] + size < length:
        starts.append(length - size)
    return starts
