"""Generates small data sets of synthesised sounds, for a first run and for tests.

`generate` writes clips of one sound each in the official ESC-50 layout, `generate_scenes` scenes of one to three sounds
for multi-label classification.

Twelve classes that differ in sound but not in loudness: every clip has a random level and a random background of
coloured noise, sounds start and stop at random times, and pitch, rate and bandwidth are drawn from ranges that overlap
between classes.
"""

from collections.abc import Callable
import csv
import functools
import os
import pathlib
import shutil
import uuid

import numpy as np
import scipy.signal
import soundfile

from esc_jax.data import scenes

RATE = 16_000
SECONDS = 5.0
FOLDS = 5
VERSION = 1  # of the sounds: raise it when they change, so that caches are not reused

_N = int(RATE * SECONDS)
_T = np.arange(_N) / RATE


def _phase(frequency: np.ndarray) -> np.ndarray:
    return 2 * np.pi * np.cumsum(frequency) / RATE


def _pitch(rng: np.random.Generator, low: float = 200.0, high: float = 3000.0) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _tone(rng: np.random.Generator) -> np.ndarray:
    return np.sin(2 * np.pi * _pitch(rng) * _T)


def _harmonics(rng: np.random.Generator) -> np.ndarray:
    base = _pitch(rng, 100, 500)
    order = np.arange(1, min(20, int(7000 / base)))
    weight = rng.uniform(0.5, 1.0, len(order)) / order ** rng.uniform(0.3, 1.0)
    return (weight[:, None] * np.sin(2 * np.pi * base * order[:, None] * _T)).sum(0)


def _sweep(rng: np.random.Generator, direction: int) -> np.ndarray:
    low, high = sorted((_pitch(rng, 200, 900), _pitch(rng, 1500, 6000)))
    place = (_T * rng.uniform(0.4, 2.0)) % 1.0
    return np.sin(_phase(low * (high / low) ** (place if direction > 0 else 1 - place)))


def _rising(rng: np.random.Generator) -> np.ndarray:
    return _sweep(rng, 1)


def _falling(rng: np.random.Generator) -> np.ndarray:
    return _sweep(rng, -1)


def _band(rng: np.random.Generator, low: float, high: float) -> np.ndarray:
    sos = scipy.signal.butter(4, (low, high), "bandpass", fs=RATE, output="sos")
    return scipy.signal.sosfilt(sos, rng.standard_normal(_N))


def _noise_band(rng: np.random.Generator) -> np.ndarray:
    centre = _pitch(rng, 400, 4000)
    return _band(rng, centre * 0.8, centre * 1.25)


def _hiss(rng: np.random.Generator) -> np.ndarray:
    return _band(rng, rng.uniform(300, 1500), rng.uniform(5000, 7500))


def _clicks(rng: np.random.Generator) -> np.ndarray:
    # Evenly spaced, like a clock.
    x = np.zeros(_N)
    x[(np.arange(0, SECONDS, 1 / rng.uniform(2, 9)) * RATE).astype(int)] = 1.0
    return np.convolve(x, rng.standard_normal(120) * np.exp(-np.arange(120) / rng.uniform(8, 30)))[:_N]


def _crackle(rng: np.random.Generator) -> np.ndarray:
    # As many impulses as in _clicks, but at random times and levels, like fire.
    x = np.zeros(_N)
    x[rng.integers(0, _N, rng.integers(10, 45))] = 1.0
    x *= rng.exponential(1.0, _N)
    return np.convolve(x, rng.standard_normal(120) * np.exp(-np.arange(120) / rng.uniform(8, 30)))[:_N]


def _tremolo(rng: np.random.Generator) -> np.ndarray:
    return _tone(rng) * (1 + np.sin(2 * np.pi * rng.uniform(4, 12) * _T + rng.uniform(0, 6)))


def _vibrato(rng: np.random.Generator) -> np.ndarray:
    centre = _pitch(rng)
    return np.sin(_phase(centre * (1 + rng.uniform(0.04, 0.12) * np.sin(2 * np.pi * rng.uniform(4, 12) * _T))))


def _pulsed_noise(rng: np.random.Generator) -> np.ndarray:
    return _hiss(rng) * (1 + scipy.signal.square(2 * np.pi * rng.uniform(2, 9) * _T, rng.uniform(0.2, 0.5)))


def _bells(rng: np.random.Generator) -> np.ndarray:
    x = np.zeros(_N)
    for start in rng.uniform(0, SECONDS - 0.3, rng.integers(2, 7)):
        begin = int(start * RATE)
        t = _T[: _N - begin]
        base = _pitch(rng, 300, 1500)
        for partial in (1.0, 2.76, 5.40):
            if base * partial < RATE / 2:
                x[begin:] += np.sin(2 * np.pi * base * partial * t) * np.exp(-t * rng.uniform(3, 8)) / partial
    return x


CLASSES = {
    "tone": _tone,
    "harmonics": _harmonics,
    "rising": _rising,
    "falling": _falling,
    "noise_band": _noise_band,
    "hiss": _hiss,
    "clicks": _clicks,
    "crackle": _crackle,
    "tremolo": _tremolo,
    "vibrato": _vibrato,
    "pulsed_noise": _pulsed_noise,
    "bells": _bells,
}


def clip(name: str, rng: np.random.Generator) -> np.ndarray:
    """Generates one clip of a class: (samples,) float32 at RATE Hz.

    The event fills at least 40 % of the clip, has unit power, and is 3 to 25 dB above coloured noise. The level of the
    mixture is drawn from −30 to −6 dB of full scale for every class.
    """
    x = CLASSES[name](rng)
    begin, length = rng.uniform(0, 0.3), rng.uniform(0.4, 0.7)
    x = x * ((_T >= begin * SECONDS) & (_T <= (begin + length) * SECONDS))
    x = x / (np.sqrt(np.mean(x**2)) + 1e-9)
    pole = rng.uniform(0.0, 0.95)
    noise = scipy.signal.lfilter([1.0], [1.0, -pole], rng.standard_normal(_N))
    x = x + noise / noise.std() * 10 ** (-rng.uniform(3, 25) / 20)
    x = x / np.sqrt(np.mean(x**2)) * 10 ** (rng.uniform(-30, -6) / 20)
    return (x / max(1.0, np.abs(x).max())).astype(np.float32)


def scene(rng: np.random.Generator) -> tuple[scenes.Event, ...]:
    """Generates one to three sounds of different classes, of 1 to 3 s, at random times and levels within 6 dB."""
    names = rng.choice(list(CLASSES), rng.integers(1, 4), replace=False)
    events = []
    for name in names:
        samples = int(rng.uniform(1.0, 3.0) * RATE)
        sound = CLASSES[str(name)](rng)[:samples]
        events.append(scenes.Event(str(name), sound, int(rng.integers(0, _N - samples)), rng.uniform(-6.0, 0.0)))
    return tuple(events)


def generate(directory: pathlib.Path, clips_per_fold: int = 8, seed: int = 0) -> pathlib.Path:
    """Writes the data set to `directory`, unless it exists, and returns it.

    Args:
        directory: created in one rename, with meta/esc50.csv and audio/.
        clips_per_fold: clips of each class in each of the five folds.
        seed: a clip depends on the seed and its own number only.
    """
    return _generate(directory, functools.partial(_write, clips_per_fold=clips_per_fold, seed=seed))


def generate_scenes(directory: pathlib.Path, clips_per_fold: int = 8, seed: int = 0) -> pathlib.Path:
    """Writes a multi-label data set of scenes to `directory`, unless it exists, and returns it.

    Args:
        directory: created in one rename, with scenes.csv, events.csv and audio/.
        clips_per_fold: scenes in each of the five folds, as a multiple of the number of classes.
        seed: a scene depends on the seed and its own number only.
    """
    return _generate(directory, functools.partial(_write_scenes, clips_per_fold=clips_per_fold, seed=seed))


def _generate(directory: pathlib.Path, write: Callable[[pathlib.Path], None]) -> pathlib.Path:
    """Writes beside `directory`, and renames; returns `directory`."""
    if directory.is_dir():
        return directory
    partial = directory.with_name(f"{directory.name}.partial.{uuid.uuid4().hex}")
    try:
        write(partial)
        try:
            os.rename(partial, directory)
        except OSError:
            if not directory.is_dir():  # otherwise another process was first
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return directory


def _write_scenes(directory: pathlib.Path, clips_per_fold: int, seed: int) -> None:
    (directory / "audio").mkdir(parents=True)
    rows = []
    for number in range(1, FOLDS * len(CLASSES) * clips_per_fold + 1):
        rng = np.random.default_rng((seed, number))
        events = scene(rng)
        noise = scenes.Event("", scipy.signal.lfilter([1.0], [1.0, -0.9], rng.standard_normal(_N)), 0, -20.0)
        name = f"scene-{number:05d}.wav"
        samples = scenes.mix([*events, noise], _N) * 10 ** (rng.uniform(-24, 0) / 20)
        soundfile.write(directory / "audio" / name, samples, RATE, subtype="PCM_16")
        rows.append(scenes.Scene(name, (number - 1) % FOLDS + 1, f"scene-{number:05d}", events))
    scenes.write_tables(directory, rows, RATE, _N)


def _write(directory: pathlib.Path, clips_per_fold: int, seed: int) -> None:
    (directory / "audio").mkdir(parents=True)
    (directory / "meta").mkdir()
    rows, number = [], 0
    for fold in range(1, FOLDS + 1):
        for target, name in enumerate(CLASSES):
            for _ in range(clips_per_fold):
                number += 1
                filename = f"{fold}-{number}-A-{target}.wav"
                samples = clip(name, np.random.default_rng((seed, number)))
                soundfile.write(directory / "audio" / filename, samples, RATE, subtype="PCM_16")
                rows.append((filename, fold, target, name, target < 10, number, "A"))
    with open(directory / "meta" / "esc50.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("filename", "fold", "target", "category", "esc10", "src_file", "take"))
        writer.writerows(rows)
