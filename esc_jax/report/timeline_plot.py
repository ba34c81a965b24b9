"""The picture of a classified recording: spectrogram, classes over time, and the leading class as a ribbon."""

import pathlib

from matplotlib import colors, ticker
from matplotlib.figure import Figure
import numpy as np

from esc_jax.frontends.log_mel import hz_to_mel, mel_bank
from esc_jax.inference.timeline import Timeline, clock

FEWEST_CLASSES, MOST_CLASSES = 5, 12
# Told apart by eye, on white and beside each other; no grey: that is silence.
_PALETTE = (
    "#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b",
    "#e377c2", "#bcbd22", "#17becf", "#1a2a6c", "#e6b800", "#006d5b",
)  # fmt: skip
_STEPS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)  # between marks of the time axis
_SILENCE, _OTHER = "#c8c8c8", "#f3e3c3"


class Overview:
    """Mel spectrogram of a signal that comes in blocks, in no more than 2 · `columns` columns, however long it is.

    When they are full, neighbours are averaged in pairs. Slaney's mel scale, 64 bands, windows of about 64 ms.

    Args:
        sample_rate: Hz.
        columns: the fewest of a long signal.
    """

    def __init__(self, sample_rate: int, columns: int = 1000):
        self.sample_rate = sample_rate
        self._size = 1 << round(np.log2(0.064 * sample_rate))
        self._bank = mel_bank(sample_rate, self._size, 64, 0.0, sample_rate / 2, False)
        self._window = np.hanning(self._size).astype(np.float32)
        self._most = 2 * columns
        self._per_column = 1  # frames averaged in each of them
        self._columns, self._frames = [], []  # the frames are not a column yet
        self._rest = np.zeros(0, np.float32)

    def add(self, block: np.ndarray) -> None:
        """Takes the next samples."""
        self._rest = np.concatenate([self._rest, block])
        hop = self._size // 2
        count = max(0, 1 + (len(self._rest) - self._size) // hop)
        for first in range(0, count, 256):  # a block of any length needs no more memory than 256 frames
            self._frames += list(self._power(self._rest[first * hop :], min(256, count - first)))
            self._pool()
        self._rest = self._rest[count * hop :]

    def _power(self, samples: np.ndarray, count: int) -> np.ndarray:
        hop = self._size // 2
        frames = np.lib.stride_tricks.sliding_window_view(samples, self._size)[::hop][:count]
        return np.square(np.abs(np.fft.rfft(frames * self._window))) @ self._bank

    def _pool(self) -> None:
        while len(self._frames) >= self._per_column:
            self._columns.append(np.mean(self._frames[: self._per_column], axis=0))
            self._frames = self._frames[self._per_column :]
            if len(self._columns) == self._most:
                self._columns = list((np.array(self._columns[::2]) + np.array(self._columns[1::2])) / 2)
                self._per_column *= 2

    def image(self) -> np.ndarray:
        """(bands, columns) dB below the loudest, not lower than −80."""
        columns = list(self._columns)
        if self._frames:
            columns.append(np.mean(self._frames, axis=0))
        if not columns:  # shorter than one frame
            columns = list(self._power(np.pad(self._rest, (0, self._size - len(self._rest))), 1))
        power = np.array(columns).T
        return np.maximum(10 * np.log10(power / max(power.max(), 1e-10) + 1e-12), -80.0)


def _spectrogram(axes, overview: Overview, duration_s: float) -> None:
    top = float(hz_to_mel(overview.sample_rate / 2))
    axes.imshow(overview.image(), origin="lower", aspect="auto", cmap="magma", extent=(0, duration_s, 0, top))
    ticks = [f for f in (100, 500, 1000, 2000, 4000, 8000, 16_000) if f <= overview.sample_rate / 2]
    axes.set_yticks([float(hz_to_mel(f)) for f in ticks], [f"{f / 1000:g}" for f in ticks], fontsize=8)
    axes.set_ylabel("kHz", fontsize=9)


def _paint(axes, timeline: Timeline, shown: list[int]) -> None:
    """A row per class in its own colour, deeper the likelier."""
    paper = np.array(colors.to_rgb("white"))
    rows = []
    for place, index in enumerate(shown):
        share = timeline.probabilities[:, index, None]
        rows.append((1 - share) * paper + share * np.array(colors.to_rgb(_PALETTE[place])))
    picture = np.where(timeline.silent[None, :, None], np.array(colors.to_rgb(_SILENCE)), np.array(rows))
    axes.pcolormesh(timeline.edges, np.arange(len(shown) + 1), np.clip(picture, 0, 1))
    axes.set_yticks(np.arange(len(shown)) + 0.5, [timeline.classes[i].replace("_", " ") for i in shown], fontsize=9)
    for label, colour in zip(axes.get_yticklabels(), _PALETTE, strict=False):
        label.set_color(colour)
        label.set_fontweight("bold")
    axes.hlines(np.arange(1, len(shown)), 0, timeline.duration_s, color="0.85", linewidth=0.5)
    axes.set_ylim(len(shown), 0)


def _ribbon(axes, timeline: Timeline, shown: list[int]) -> None:
    """The leading class of every moment, with its name where there is room."""
    palette = {index: _PALETTE[place] for place, index in enumerate(shown)} | {-1: _SILENCE}
    row = [colors.to_rgb(palette.get(int(leader), _OTHER)) for leader in timeline.leaders]
    axes.pcolormesh(timeline.edges, [0, 1], np.array([row]))
    axes.set_yticks([0.5], ["most likely"], fontsize=9)
    for first in np.flatnonzero(timeline.unfamiliar):
        axes.axvspan(*timeline.edges[first : first + 2], facecolor="none", edgecolor="white", hatch="////", linewidth=0)
    for first, stop in timeline.passages():
        begin, end = timeline.edges[first], timeline.edges[stop]
        leader = int(timeline.leaders[first])
        name = "silence" if leader < 0 else timeline.classes[leader].replace("_", " ")
        if end - begin > 0.0085 * (len(name) + 1) * timeline.duration_s:
            colour = "black" if leader not in shown else "white"
            name += "?" * bool(timeline.unfamiliar[first:stop].mean() > 0.5)
            plain = {"facecolor": palette.get(leader, _OTHER), "edgecolor": "none", "pad": 1.5}  # no hatching behind it
            axes.text((begin + end) / 2, 0.5, name, ha="center", va="center", fontsize=8, color=colour, bbox=plain)


def recording(timeline: Timeline, overview: Overview, title: str, path: pathlib.Path | None = None) -> Figure:
    """Spectrogram, classes over time and ribbon of the leading class, one under the other.

    The classes shown are those that lead anywhere, at most 12, those that lead longest on top; other leaders are a
    pale colour in the ribbon. Fewer than five leaders are followed by those that come closest. Silent windows are grey.

    Args:
        timeline: of the recording.
        overview: of the same recording.
        title: above it.
        path: where to save it; None only returns the figure.
    """
    heard = ~timeline.silent
    counts = np.bincount(timeline.leaders[heard], minlength=len(timeline.classes))
    shares = timeline.probabilities[heard].sum(axis=0)
    order = [int(i) for i in np.lexsort((-shares, -counts))]  # by time led, then by probability
    leaders = [i for i in order if counts[i]]
    shown = order[: min(max(len(leaders), FEWEST_CLASSES), MOST_CLASSES)] if leaders else []
    height = 0.27 * max(len(shown), 1)
    figure = Figure(figsize=(12, 3.4 + height), layout="constrained")
    panels = figure.subplots(3, 1, sharex=True, height_ratios=[2.0, height, 0.34])
    _spectrogram(panels[0], overview, timeline.duration_s)
    panels[0].set_title(title, fontsize=11)
    if shown:
        _paint(panels[1], timeline, shown)
    else:
        panels[1].set_facecolor(_SILENCE)
        panels[1].set_yticks([])
    note = "white 0 %, full colour 100 %"
    note += "; grey: silence" if timeline.silent.any() else ""
    note += "; hatched: unlike anything in training" if timeline.unfamiliar.any() else ""
    if len(leaders) > len(shown):
        note += f"; pale in the ribbon: {len(leaders) - len(shown)} other classes"
    _ribbon(panels[2], timeline, shown)
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
