"""Clips on which an export is checked: of the data that the run was tested on, or synthesised ones."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np
import soxr

from esc_jax import files
from esc_jax.data import audio, synthetic
from esc_jax.data.cache import cache_root
from esc_jax.data.download import ARCHIVE
from esc_jax.data.layouts.registry import open_source
from esc_jax.data.rows import DataError, Layout, Row
from esc_jax.data.source import AudioError
from esc_jax.errors import counted
from esc_jax.tasks import registry as tasks
from esc_jax.training.restore import Restored

CHECKED, CALIBRATED = 100, 64  # at most


@dataclasses.dataclass(frozen=True)
class Clips:
    """Clips of the length that the model was trained on.

    Attributes:
        checked: (N, samples) float32 in [-1, 1), on which the outputs are compared.
        labels: of these clips, as in `data.clips.Clips`; None if they are not known.
        calibration: (M, samples), from which the ranges of an int8 model are measured.
        source: what the checked clips are, for the description.
    """

    checked: np.ndarray
    labels: np.ndarray | None
    calibration: np.ndarray
    source: str


def find(restored: Restored) -> Clips:
    """Clips of the data set of the run where it can be read, else synthesised sounds. Nothing is downloaded."""
    try:
        return _of_data(restored) or _synthesised(restored)
    except (DataError, AudioError, OSError):
        return _synthesised(restored)


def _of_data(restored: Restored) -> Clips | None:
    """Clips of the test fold to check, and of the other folds to calibrate; None without them."""
    data, classes = restored.config.data.to_dict(), set(restored.model.classes)
    path = data.get("dir") or (cache_root(data.get("cache_dir", "")) / ARCHIVE if _is_esc50(data) else "")
    if not path or not files.expand(path).exists():
        return None
    layout = open_source(path, data)
    rows = [row for row in layout.rows if classes.intersection(_names(layout, row))]
    tested = [row for row in rows if row.fold == data["test_fold"]]
    others = [row for row in rows if row.fold != data["test_fold"]]
    checked, kept = _read(restored, layout, _spread(tested or others, CHECKED))
    if not kept:
        return None
    calibration, _ = _read(restored, layout, _spread(others or tested, CALIBRATED))
    fold = f"fold {data['test_fold']}" if tested else "all folds"
    labels = [_label(restored, _names(layout, row)) for row in kept]
    source = f"{counted(len(kept), 'clip')} of {data['name']}, {fold}"
    if restored.config.get("protocol") == "all":
        source += ", which trained the model"
    return Clips(checked, np.array(labels), calibration, source)


def _is_esc50(data: dict[str, Any]) -> bool:
    return data.get("name") in ("esc50", "esc10")


def _names(layout: Layout, row: Row) -> list[str]:
    return [layout.categories[target] for target in row.targets]


def _label(restored: Restored, names: Sequence[str]) -> Any:
    """The class index, or for a multi-label model whether each class is present."""
    present = [name in names for name in restored.model.classes]
    return present if tasks.get(restored.config.task).multi_hot else present.index(True)


def _spread(rows: Sequence[Row], count: int) -> list[Row]:
    """At most so many rows, spread over all of them."""
    return [rows[i] for i in np.unique(np.linspace(0, len(rows) - 1, count).round().astype(int))] if rows else []


def _read(restored: Restored, layout: Layout, rows: Sequence[Row]) -> tuple[np.ndarray, list[Row]]:
    """The first clip of each file that can be decoded, and the rows of these."""
    clips, kept = [], []
    for row in rows:
        try:
            waveform = audio.load(layout.locate(row), restored.model.sample_rate, layout.where(row))
        except AudioError:
            continue
        clips.append(_fit(waveform, restored.model.clip_samples))
        kept.append(row)
    return np.array(clips, np.float32).reshape(-1, restored.model.clip_samples), kept


def _fit(waveform: np.ndarray, samples: int) -> np.ndarray:
    """The waveform in 16 bits, cut or padded with zeros at the end."""
    pcm = audio.to_int16(waveform[:samples]).astype(np.float32) / 32768
    return np.pad(pcm, (0, samples - len(pcm)))


def _synthesised(restored: Restored) -> Clips:
    """Tones, sweeps, noise and clicks at several levels, white noise, silence and near silence."""
    samples, rate = restored.model.clip_samples, restored.model.sample_rate
    rng = np.random.default_rng(0)

    def draw(count: int) -> list[np.ndarray]:
        sounds = [synthetic.clip(name, rng) for _ in range(count) for name in synthetic.CLASSES]
        return [_fit(np.resize(soxr.resample(sound, synthetic.RATE, rate), samples), samples) for sound in sounds]

    noise = rng.standard_normal((3, samples)) * np.array([[0.3], [0.01], [1e-4]])
    special = [_fit(sound, samples) for sound in (*noise, np.zeros(samples))]
    checked = np.stack(draw(2) + special).astype(np.float32)
    return Clips(checked, None, np.stack(draw(3)).astype(np.float32), f"{len(checked)} synthesised sounds")
