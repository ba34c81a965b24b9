"""Picture of a classified recording: spectrogram, class probabilities over time, and the leading class."""

import pathlib

from matplotlib import colors, ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np

from esc_jax.frontends.log_mel import hz_to_mel, mel_bank
from esc_jax.inference.timeline import Timeline, clock

FEWEST_CLASSES, MOST_CLASSES = 5, 12
# Distinguishable colours for classes. Grey stands for silence.
_PALETTE = (
    "#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b",
    "#e377c2", "#bcbd22", "#17becf", "#1a2a6c", "#e6b800", "#006d5b",
)  # fmt: skip
# Allowed distances of the ticks on the time axis.
_STEPS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)
_SILENCE, _OTHER = "#c8c8c8", "#f3e3c3"


class Overview:
    """Mel spectrogram of a signal that arrives in blocks, with a limited number of columns.

    A long signal has between `columns` and 2 · `columns` columns: when they are full, pairs of neighbouring columns are
    averaged. The spectrogram has 64 bands on Slaney's mel scale and windows of about 64 ms.

    Args:
        sample_rate: Hz.
        columns: smallest number of columns for a long signal.
    """

    def __init__(self, sample_rate: int, columns: int = 1000) -> None:
        self.sample_rate = sample_rate
        self._size = 1 << round(np.log2(0.064 * sample_rate))
        self._bank = mel_bank(sample_rate, self._size, 64, 0.0, sample_rate / 2, False)
        self._window = np.hanning(self._size).astype(np.float32)
        self._max_columns = 2 * columns
        self._frames_per_column = 1
        self._columns: list[np.ndarray] = []
        self._frames: list[np.ndarray] = []  # not yet averaged into a column
        self._samples = np.zeros(0, np.float32)  # not yet covered by a frame

    def add(self, block: np.ndarray) -> None:
        """Adds the next samples."""
        self._samples = np.concatenate([self._samples, block])
        hop = self._size // 2
        count = max(0, 1 + (len(self._samples) - self._size) // hop)
        for first in range(0, count, 256):  # limits the memory for long blocks
            self._frames += list(self._power(self._samples[first * hop :], min(256, count - first)))
            self._pool()
        self._samples = self._samples[count * hop :]

    def _power(self, samples: np.ndarray, count: int) -> np.ndarray:
        hop = self._size // 2
        frames = np.lib.stride_tricks.sliding_window_view(samples, self._size)[::hop][:count]
        return np.square(np.abs(np.fft.rfft(frames * self._window))) @ self._bank

    def _pool(self) -> None:
        while len(self._frames) >= self._frames_per_column:
            self._columns.append(np.mean(self._frames[: self._frames_per_column], axis=0))
            self._frames = self._frames[self._frames_per_column :]
            if len(self._columns) == self._max_columns:
                self._columns = list((np.array(self._columns[::2]) + np.array(self._columns[1::2])) / 2)
                self._frames_per_column *= 2

    def image(self) -> np.ndarray:
        """(bands, columns) in dB relative to the maximum, at least −80."""
        columns = list(self._columns)
        if self._frames:
            columns.append(np.mean(self._frames, axis=0))
        if not columns:  # shorter than one frame
            columns = list(self._power(np.pad(self._samples, (0, self._size - len(self._samples))), 1))
        power = np.array(columns).T
        return np.maximum(10 * np.log10(power / max(power.max(), 1e-10) + 1e-12), -80.0)


def _draw_spectrogram(axes: Axes, overview: Overview, duration_s: float) -> None:
    top = float(hz_to_mel(overview.sample_rate / 2))
    axes.imshow(overview.image(), origin="lower", aspect="auto", cmap="magma", extent=(0, duration_s, 0, top))
    ticks = [f for f in (100, 500, 1000, 2000, 4000, 8000, 16_000) if f <= overview.sample_rate / 2]
    axes.set_yticks([float(hz_to_mel(f)) for f in ticks], [f"{f / 1000:g}" for f in ticks], fontsize=8)
    axes.set_ylabel("kHz", fontsize=9)


def _draw_probabilities(axes: Axes, timeline: Timeline, shown: list[int]) -> None:
    """A row for each class, from white for 0 % to its colour for 100 %."""
    white = np.array(colors.to_rgb("white"))
    rows = []
    for place, index in enumerate(shown):
        share = timeline.probabilities[:, index, None]
        rows.append((1 - share) * white + share * np.array(colors.to_rgb(_PALETTE[place])))
    picture = np.where(timeline.silent[None, :, None], np.array(colors.to_rgb(_SILENCE)), np.array(rows))
    axes.pcolormesh(timeline.edges, np.arange(len(shown) + 1), np.clip(picture, 0, 1))
    axes.set_yticks(np.arange(len(shown)) + 0.5, [timeline.classes[i].replace("_", " ") for i in shown], fontsize=9)
    for label, colour in zip(axes.get_yticklabels(), _PALETTE, strict=False):
        label.set_color(colour)
        label.set_fontweight("bold")
    axes.hlines(np.arange(1, len(shown)), 0, timeline.duration_s, color="0.85", linewidth=0.5)
    axes.set_ylim(len(shown), 0)


def _draw_leaders(axes: Axes, timeline: Timeline, shown: list[int]) -> None:
    """The leading class over time as a coloured band, with its name where it fits."""
    palette = {index: _PALETTE[place] for place, index in enumerate(shown)}
    leaders = zip(timeline.leaders.tolist(), timeline.silent.tolist(), strict=True)
    row = [colors.to_rgb(_SILENCE if silent else palette.get(leader, _OTHER)) for leader, silent in leaders]
    axes.pcolormesh(timeline.edges, [0, 1], np.array([row]))
    axes.set_yticks([0.5], ["most likely"], fontsize=9)
    for window in np.flatnonzero(timeline.unfamiliar).tolist():
        axes.axvspan(
            *timeline.edges[window : window + 2], facecolor="none", edgecolor="white", hatch="////", linewidth=0
        )
    for first, stop in timeline.passages():
        begin, end = timeline.edges[first], timeline.edges[stop]
        leader = int(timeline.leaders[first])
        silent = bool(timeline.silent[first])
        name = "silence" if silent else "none" if leader < 0 else timeline.classes[leader].replace("_", " ")
        if end - begin > 0.0085 * (len(name) + 1) * timeline.duration_s:
            colour = "white" if leader in palette else "black"
            name += "?" * bool(timeline.unfamiliar[first:stop].mean() > 0.5)
            colour_behind = _SILENCE if silent else palette.get(leader, _OTHER)
            box = {"facecolor": colour_behind, "edgecolor": "none", "pad": 1.5}  # covers the hatching
            axes.text((begin + end) / 2, 0.5, name, ha="center", va="center", fontsize=8, color=colour, bbox=box)


def _select_classes(timeline: Timeline) -> tuple[list[int], int]:
    """Indices of the classes to show, the top row first, and the number of leading classes."""
    leaders = timeline.leaders[timeline.leaders >= 0]
    counts = np.bincount(leaders, minlength=len(timeline.classes))
    sums = timeline.probabilities[~timeline.silent].sum(axis=0)
    order = np.lexsort((-sums, -counts)).tolist()
    number = int(np.count_nonzero(counts))
    return [] if timeline.silent.all() else order[: min(max(number, FEWEST_CLASSES), MOST_CLASSES)], number


def recording(timeline: Timeline, overview: Overview, title: str, path: pathlib.Path | None = None) -> Figure:
    """Spectrogram, class probabilities over time, and the leading class over time, from top to bottom.

    The rows are the classes that lead in any window, at most 12, in the order of the time for which they lead. With
    fewer than five leading classes, those with the next highest probabilities follow. Leading classes without a row are
    drawn in a pale colour, silent windows in grey.

    Args:
        timeline: of the recording.
        overview: of the recording.
        title: above the picture.
        path: file to write; None only returns the figure.
    """
    shown, leaders = _select_classes(timeline)
    height = 0.27 * max(len(shown), 1)
    figure = Figure(figsize=(12, 3.4 + height), layout="constrained")
    panels = figure.subplots(3, 1, sharex=True, height_ratios=[2.0, height, 0.34])
    _draw_spectrogram(panels[0], overview, timeline.duration_s)
    panels[0].set_title(title, fontsize=11)
    if shown:
        _draw_probabilities(panels[1], timeline, shown)
    else:
        panels[1].set_facecolor(_SILENCE)
        panels[1].set_yticks([])
    note = "white 0 %, full colour 100 %"
    note += "; grey: silence" if timeline.silent.any() else ""
    note += "; hatched: unlike the training data" if timeline.unfamiliar.any() else ""
    if leaders > len(shown):
        note += f"; pale: {leaders - len(shown)} other classes"
    _draw_leaders(panels[2], timeline, shown)
    panels[2].set_xlabel(note, fontsize=8)
    panels[2].xaxis.set_major_formatter(ticker.FuncFormatter(lambda seconds, _: clock(seconds)))
    step = next((s for s in _STEPS_S if timeline.duration_s / s <= 14), timeline.duration_s / 12)
    panels[2].xaxis.set_major_locator(ticker.MultipleLocator(step))
    panels[2].set_xlim(0, timeline.duration_s)
    for axes in panels:
        axes.tick_params(length=2, labelsize=9)
    if path:
        figure.savefig(path, dpi=120)
    return figure
