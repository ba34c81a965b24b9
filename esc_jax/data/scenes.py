"""Scenes with several sounds at once, mixed from single sounds, with the time of each."""

from collections.abc import Sequence
import csv
import dataclasses
import pathlib

import numpy as np

TABLE, EVENTS = "scenes.csv", "events.csv"
_PEAK = 0.9


@dataclasses.dataclass(frozen=True)
class Event:
    """A sound in a scene.

    Attributes:
        label: its class.
        samples: (n,) waveform.
        onset: its first sample in the scene. What is beyond the end of the scene is cut.
        gain_db: level of its RMS relative to that of the other sounds.
    """

    label: str
    samples: np.ndarray
    onset: int
    gain_db: float


@dataclasses.dataclass(frozen=True)
class Scene:
    """A mixture with its description.

    Attributes:
        filename: in the folder `audio`.
        fold: of all sounds in it.
        group: ID of its source recordings.
        events: the sounds.
    """

    filename: str
    fold: int
    group: str
    events: tuple[Event, ...]


def mix(events: Sequence[Event], length: int) -> np.ndarray:
    """Adds sounds: (length,) float32 with a peak of at most 0.9.

    Every sound is scaled to unit RMS, then by its gain.
    """
    scene = np.zeros(length)
    for event in events:
        sound = event.samples[: length - event.onset]
        rms = np.sqrt(np.mean(np.square(event.samples)))
        scene[event.onset : event.onset + len(sound)] += sound / max(rms, 1e-9) * 10 ** (event.gain_db / 20)
    return (scene / max(np.abs(scene).max() / _PEAK, 1e-9)).astype(np.float32)


def write_tables(folder: pathlib.Path, scenes: Sequence[Scene], sample_rate: int, length: int) -> None:
    """Writes scenes.csv, which `data.name=csv` reads, and events.csv with the times of all sounds.

    Args:
        folder: of the tables.
        scenes: in the order of the rows.
        sample_rate: Hz.
        length: of a scene, samples.
    """
    with open(folder / TABLE, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("filename", "labels", "fold", "group"))
        for scene in scenes:
            labels = sorted({event.label for event in scene.events})
            writer.writerow((f"audio/{scene.filename}", ";".join(labels), scene.fold, scene.group))
    with open(folder / EVENTS, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("filename", "label", "onset_s", "offset_s", "gain_db"))
        for scene in scenes:
            for event in scene.events:
                end = min(event.onset + len(event.samples), length)
                times = (round(place / sample_rate, 3) for place in (event.onset, end))
                writer.writerow((f"audio/{scene.filename}", event.label, *times, round(event.gain_db, 2)))
