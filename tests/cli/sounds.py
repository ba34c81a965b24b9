"""Sounds that the tests of esc-jax predict classify."""

import numpy as np
import soundfile

RATE, CLASSES = 16_000, ["rain", "sea_waves", "dog"]


def sound(seconds, rate=RATE, channels=1, seed=0):
    """(time, channels) noise, a low hum in its second half."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    noise = 0.2 * rng.uniform(-1, 1, (len(time), channels))
    hum = 0.3 * np.sin(2 * np.pi * 200 * time)
    return np.where(time[:, None] < seconds / 2, noise, hum[:, None] + 0.01 * noise).astype(np.float32)


def tree_of_sounds(root, count=6):
    """Recordings of 1 to 3 s in subfolders, and one that is no audio."""
    for number in range(count):
        folder = root / ("a" if number % 2 else "b/c")
        folder.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / f"20260511_05{number:02}00.wav", sound(1.0 + number % 3, seed=number), RATE)
    (root / "bad.wav").write_text("no audio")
    return root
