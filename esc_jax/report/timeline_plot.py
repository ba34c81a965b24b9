"""Picture of a classified recording: spectrogram, class probabilities over time, and the decisions."""

import dataclasses
import pathlib

from matplotlib import colors, ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np

from esc_jax import files
from esc_jax.frontends.log_mel import hz_to_mel, mel_bank
from esc_jax.inference.timeline import Timeline, clock
from esc_jax.report.plots import literal

FEWEST_CLASSES, MOST_CLASSES = 5, 12
# Distinguishable colours for classes. Grey stands for silence.
_PALETTE = (
    "#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b",
    "#e377c2", "#bcbd22", "#17becf", "#1a2a6c", "#e6b800", "#006d5b",
)  # fmt: skip
# Allowed distances of the ticks on the time axis.
_STEPS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)
_SILENCE, _OTHER, _NONE = "#c8c8c8", "#f3e3c3", "#ffffff"
_MAX_CELLS = 1000  # of a row; narrower ones are less than a pixel wide, and not all of them would be drawn
_STRIPES = 12  # of the band of decisions: one to four, six and twelve classes have equal parts of it


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
        # Power spectra. The bank is applied to them once, at the end: the threads of BLAS wait actively between small
        # matrix products, which takes many times longer than the products where other processes use the cores.
        self._columns: list[np.ndarray] = []
        self._sum = np.zeros(self._size // 2 + 1)  # of the frames that are not yet a column
        self._count = 0
        self._samples = np.zeros(0, np.float32)  # not yet covered by a frame

    def add(self, block: np.ndarray) -> None:
        """Adds the next samples."""
        self._samples = np.concatenate([self._samples, block])
        hop = self._size // 2
        count = max(0, 1 + (len(self._samples) - self._size) // hop)
        for first in range(0, count, 256):  # limits the memory for long blocks
            self._pool(self._power(self._samples[first * hop :], min(256, count - first)))
        self._samples = self._samples[count * hop :]

    def _power(self, samples: np.ndarray, count: int) -> np.ndarray:
        hop = self._size // 2
        frames = np.lib.stride_tricks.sliding_window_view(samples, self._size)[::hop][:count]
        return np.square(np.abs(np.fft.rfft(frames * self._window)))

    def _pool(self, power: np.ndarray) -> None:
        while len(power):
            part, power = np.split(power, [self._frames_per_column - self._count])
            self._sum += part.sum(axis=0)
            self._count += len(part)
            if self._count < self._frames_per_column:
                return
            self._columns.append(self._mean())
            self._sum[:], self._count = 0.0, 0
            if len(self._columns) == self._max_columns:
                self._columns = list((np.array(self._columns[::2]) + np.array(self._columns[1::2])) / 2)
                self._frames_per_column *= 2

    def _mean(self) -> np.ndarray:
        return (self._sum / self._count).astype(np.float32)

    def image(self) -> np.ndarray:
        """(bands, columns) in dB relative to the maximum, at least −80."""
        columns = list(self._columns)
        if self._count:
            columns.append(self._mean())
        if not columns:  # shorter than one frame
            columns = list(self._power(np.pad(self._samples, (0, self._size - len(self._samples))), 1))
        power = (np.array(columns) @ self._bank).T
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
    names = [literal(timeline.classes[i].replace("_", " ")) for i in shown]
    axes.set_yticks(np.arange(len(shown)) + 0.5, names, fontsize=9)
    for label, colour in zip(axes.get_yticklabels(), _PALETTE, strict=False):
        label.set_color(colour)
        label.set_fontweight("bold")
    axes.hlines(np.arange(1, len(shown)), 0, timeline.duration_s, color="0.85", linewidth=0.5)
    axes.set_ylim(len(shown), 0)


def _mark_active(axes: Axes, timeline: Timeline, shown: list[int]) -> None:
    """A black bar along the lower edge of the cells of active classes."""
    for place, index in enumerate(shown):
        bounds = np.flatnonzero(np.diff(timeline.active[:, index], prepend=False, append=False)).reshape(-1, 2)
        spans = [(timeline.edges[a], timeline.edges[b] - timeline.edges[a]) for a, b in bounds.tolist()]
        axes.broken_barh(spans, (place + 0.8, 0.2), facecolor="black", linewidth=0)


def _draw_decisions(axes: Axes, timeline: Timeline, shown: list[int]) -> None:
    """The active classes over time as a coloured band, with their names where they fit."""
    palette = {index: _PALETTE[place] for place, index in enumerate(shown)}
    order = [*shown, *sorted(set(range(len(timeline.classes))) - set(shown))]

    def names(window: int) -> list[int]:
        return [index for index in order if timeline.active[window, index]]

    def colours(window: int) -> list[str]:
        """Of the active classes from top to bottom. Classes without a row share one colour."""
        if timeline.silent[window]:
            return [_SILENCE]
        return list(dict.fromkeys(palette.get(index, _OTHER) for index in names(window))) or [_NONE]

    stacks = [colours(window) for window in range(len(timeline.starts))]
    count = 1 if timeline.task.exclusive else _STRIPES
    band = [[colors.to_rgb(stack[row * len(stack) // count]) for stack in stacks] for row in reversed(range(count))]
    axes.pcolormesh(timeline.edges, np.linspace(0, 1, count + 1), np.array(band))
    axes.set_yticks([0.5], [timeline.task.decision_label], fontsize=9)
    for window in np.flatnonzero(timeline.unfamiliar).tolist():
        edge = "grey" if stacks[window] == [_NONE] else "white"
        axes.axvspan(*timeline.edges[window : window + 2], facecolor="none", edgecolor=edge, hatch="////", linewidth=0)
    for first, stop in timeline.passages():
        begin, end = timeline.edges[first], timeline.edges[stop]
        classes = " + ".join(timeline.classes[index].replace("_", " ") for index in names(first))
        name = "silence" if timeline.silent[first] else classes or "none"
        if end - begin > 0.0085 * (len(name) + 1) * timeline.duration_s:
            name += "?" * bool(timeline.unfamiliar[first:stop].mean() > 0.5)
            behind = stacks[first][0] if len(stacks[first]) == 1 else _NONE
            colour = "white" if behind in palette.values() else "black"
            box = {"facecolor": behind, "edgecolor": "none", "pad": 1.5}  # covers the hatching
            name = literal(name)
            axes.text((begin + end) / 2, 0.5, name, ha="center", va="center", fontsize=8, color=colour, bbox=box)


def _select_classes(timeline: Timeline) -> tuple[list[int], int]:
    """Indices of the classes to show, the top row first, and the number of classes that are active in any window."""
    counts = timeline.active.sum(axis=0)
    sums = timeline.probabilities[~timeline.silent].sum(axis=0)
    order = np.lexsort((-sums, -counts)).tolist()
    number = int(np.count_nonzero(counts))
    return [] if timeline.silent.all() else order[: min(max(number, FEWEST_CLASSES), MOST_CLASSES)], number


def _pooled(timeline: Timeline, number: int) -> Timeline:
    """The timeline with one window for `number` consecutive ones: their largest probabilities, without silent ones."""
    if number == 1:
        return timeline
    first = np.arange(0, len(timeline.starts), number)
    audible = np.where(timeline.silent[:, None], np.float32(0), timeline.probabilities)
    counts = np.add.reduceat(np.stack([timeline.unfamiliar, ~timeline.silent]).astype(np.int64), first, axis=1)
    return dataclasses.replace(
        timeline,
        starts=timeline.starts[first],
        ends=timeline.ends[np.append(first[1:], len(timeline.ends)) - 1],
        probabilities=np.maximum.reduceat(audible, first, axis=0),
        level_db=np.maximum.reduceat(timeline.level_db, first),
        silent=np.logical_and.reduceat(timeline.silent, first),
        unfamiliar=2 * counts[0] > counts[1],
    )


def recording(timeline: Timeline, overview: Overview, title: str, path: pathlib.Path | None = None) -> Figure:
    """Spectrogram, class probabilities over time, and the decisions over time, from top to bottom.

    The rows are the classes that are active in any window, at most 12, in the order of the time for which they are.
    With fewer than five active classes, those with the next highest probabilities follow. Active classes without a row
    are drawn in a pale colour, silent windows in grey. For a multi-label model, the cells of active classes are marked,
    and the colours of classes that are active at the same time are one below the other in the band of decisions. Of
    more than 1000 windows, consecutive ones share a cell, which has the largest probability of each class.

    Args:
        timeline: of the recording.
        overview: of the recording.
        title: above the picture.
        path: file to write; None only returns the figure.
    """
    shown, active = _select_classes(timeline)
    number = -(-len(timeline.starts) // _MAX_CELLS)
    timeline = _pooled(timeline, number)
    height = 0.27 * max(len(shown), 1)
    figure = Figure(figsize=(12, 3.4 + height), layout="constrained")
    panels = figure.subplots(3, 1, sharex=True, height_ratios=[2.0, height, 0.34])
    _draw_spectrogram(panels[0], overview, timeline.duration_s)
    panels[0].set_title(literal(title), fontsize=11)
    if shown:
        _draw_probabilities(panels[1], timeline, shown)
        if not timeline.task.exclusive:
            _mark_active(panels[1], timeline, shown)
    else:
        panels[1].set_facecolor(_SILENCE)
        panels[1].set_yticks([])
    note = "white 0 %, full colour 100 %"
    note += "" if timeline.task.exclusive else "; black bar: above the threshold of the class"
    note += "; grey: silence" if timeline.silent.any() else ""
    note += "; hatched: unlike any class" if timeline.unfamiliar.any() else ""
    note += f"; a column is the maximum of {number} windows" if number > 1 else ""
    if active > len(shown):
        note += f"; pale: {active - len(shown)} other classes"
    _draw_decisions(panels[2], timeline, shown)
    panels[2].set_xlabel(note, fontsize=8)
    panels[2].xaxis.set_major_formatter(ticker.FuncFormatter(lambda seconds, _: clock(seconds)))
    step = next((s for s in _STEPS_S if timeline.duration_s / s <= 14), timeline.duration_s / 12)
    panels[2].xaxis.set_major_locator(ticker.MultipleLocator(step))
    panels[2].set_xlim(0, timeline.duration_s)
    for axes in panels:
        axes.tick_params(length=2, labelsize=9)
    if path:
        with files.write_output(path) as file:
            figure.savefig(file, dpi=120, format=path.suffix[1:].lower())
    return figure
