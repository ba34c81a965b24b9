"""Pictures of runs, data and augmentations, drawn with matplotlib without a display."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import pathlib
from typing import IO, Any

import jax
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
import numpy as np

from esc_jax.evaluation.calibration import Reliability
from esc_jax.frontends.log_mel import hz_to_mel, mel_bank
from esc_jax.tasks.base import Task

History = Sequence[Mapping[str, Any]]

_BLUE, _ORANGE = "#1f6f8b", "#b35900"
_MOST_NUMBERED = 100  # classes of a matrix whose cells have room for a number


def literal(text: str) -> str:
    """A name for matplotlib, which would typeset what is between dollar signs as mathematics."""
    return text.replace("$", r"\$")


def confusion_matrix(table: np.ndarray, classes: Sequence[str], title: str, path: pathlib.Path | None = None) -> Figure:
    """Confusion matrix. The colour is the share of the true class, the text the number of clips.

    Args:
        table: (classes, classes) counts. Rows are true classes, columns are predicted classes.
        classes: class names.
        title: above the matrix.
        path: file to write; None only returns the figure.
    """
    totals = np.sum(table, axis=1)
    return _matrix(np.asarray(table), totals, classes, title, ("predicted", "true", "share of the true class"), path)


def cooccurrence(
    table: np.ndarray, totals: np.ndarray, classes: Sequence[str], title: str, path: pathlib.Path | None = None
) -> Figure:
    """Co-occurrence of true and detected classes. The colour is the share of the clips of the true class.

    The diagonal is the recall of each class. A row does not sum to 1, since a clip has any number of classes: other
    cells are correct where classes occur together, and false alarms elsewhere.

    Args:
        table: (classes, classes) numbers of clips of class i in which class j is detected.
        totals: (classes,) number of clips of each class.
        classes: class names.
        title: above the matrix.
        path: file to write; None only returns the figure.
    """
    names = ("detected", "true", "share of the clips of the true class")
    return _matrix(np.asarray(table), np.asarray(totals), classes, title, names, path)


def _matrix(
    table: np.ndarray, totals: np.ndarray, classes: Sequence[str], title: str, labels: tuple[str, str, str],
    path: pathlib.Path | None,
) -> Figure:  # fmt: skip
    """Counts of pairs of classes, coloured by their share of `totals`; `labels` of columns, rows and colours.

    With more than 100 classes, the cells have no numbers.
    """
    n = len(classes)
    size = max(5.0, 0.24 * min(n, _MOST_NUMBERED) + 2.5)
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.add_subplot()
    share = table / np.maximum(totals, 1)[:, None]
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    names = [literal(c.replace("_", " ")) for c in classes]
    font = 9 if n <= 20 else 6.5 * min(1.0, _MOST_NUMBERED / n)
    axes.set_xticks(range(n), names, rotation=90, fontsize=font)
    axes.set_yticks(range(n), names, fontsize=font)
    for row, column in zip(*np.nonzero(table if n <= _MOST_NUMBERED else table[:0]), strict=True):
        colour = "white" if share[row, column] > 0.6 else "black"
        axes.text(column, row, table[row, column], ha="center", va="center", fontsize=font - 0.5, color=colour)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.set_title(literal(title), fontsize=10)
    figure.colorbar(image, ax=axes, shrink=0.5, label=labels[2])
    if path:
        figure.savefig(path, dpi=120)
    return figure


def _learning_curves(axes: Axes, lines: History, series: dict[str, str]) -> None:
    for key, label in series.items():
        values = [(line["epoch"], line[key]) for line in lines if key in line]
        if values:
            axes.plot(*zip(*values, strict=True), label=label, marker="." if len(values) < 3 else "")
    axes.set_xlabel("epoch")
    axes.grid(alpha=0.3)


def curves(
    history: History,
    task: Task,
    title: str,
    path: pathlib.Path | None = None,
    pretrain_history: History = (),
) -> Figure:
    """Loss, primary metric and learning rate over the epochs, in one row of panels for each stage.

    Args:
        history: for each epoch of training `epoch`, `loss`, `lr`, the primary metric, and `val_loss` and the metric
            with the prefix `val_` where the protocol evaluates held-out clips.
        task: of the labels.
        title: above the panels.
        path: file to write; None only returns the figure.
        pretrain_history: for each epoch of pretraining `epoch`, `loss`, `lr`, metrics of the pretext task with the
            prefix `pretext_`, and for some epochs the metric of nearest neighbours with the prefix `knn_`.
    """
    training, panel = {task.step_metric: "training (augmented)", f"val_{task.metric}": "held out"}, task.metric_label
    if task.step_metric != task.metric:
        training = {key: f"{name}, {key.removeprefix('val_')}" for key, name in training.items()}
        panel = f"{task.step_metric} and {task.metric_label}"
    stages: list[tuple[str, History, dict[str, str]]] = [("", history, training)]
    if pretrain_history:
        keys = dict.fromkeys(key for line in pretrain_history for key in line if key.startswith("pretext_"))
        scores = {key: key.replace("_", " ") for key in keys}
        scores[f"knn_{task.metric}"] = f"{task.metric_label} of 5 nearest neighbours"
        stages.insert(0, ("pretraining: ", pretrain_history, scores))
    figure = Figure(figsize=(11, 0.4 + 3.0 * len(stages)), layout="constrained")
    panels = figure.subplots(len(stages), 3, squeeze=False)
    for (loss, score, rate), (stage, lines, scores) in zip(panels, stages, strict=True):
        _learning_curves(loss, lines, {"loss": "training (augmented)", "val_loss": "held out"})
        _learning_curves(score, lines, scores)
        _learning_curves(rate, lines, {"lr": "learning rate"})
        loss.set_title(f"{stage}loss", fontsize=10)
        score.set_title(f"{stage}{'scores' if stage else panel}", fontsize=10)
        rate.set_title(f"{stage}learning rate", fontsize=10)
        score.set_ylim(0, 1)
        if score.lines:
            score.legend(fontsize=8)
    figure.suptitle(literal(title), fontsize=10)
    if path:
        figure.savefig(path, dpi=120)
    return figure


def augmentations(
    views: Mapping[str, np.ndarray],
    sample_rate: int,
    frontend: Callable[..., jax.Array],
    path: pathlib.Path | None = None,
) -> Figure:
    """Waveform and features of a clip under each of several augmentations.

    Args:
        views: name → (time,) waveform, or (frames, bins) features: `augment.compose.augmentation_examples`.
        sample_rate: Hz.
        frontend: waveform → features.
        path: file to write; None only returns the figure.
    """
    columns = min(4, len(views))
    rows = -(-len(views) // columns)
    figure = Figure(figsize=(3.2 * columns, 3.0 * rows), layout="constrained")
    panels = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=[1, 2] * rows)
    for axes in panels.flat:
        axes.axis("off")
    for place, (name, view) in enumerate(views.items()):
        top, bottom = panels[2 * (place // columns) : 2 * (place // columns) + 2, place % columns]
        view = np.asarray(view)
        features = np.asarray(frontend(view)) if view.ndim == 1 else view
        if view.ndim == 1:
            top.axis("on")
            top.plot(np.arange(len(view)) / sample_rate, view, linewidth=0.3)
            top.set_ylim(-1, 1)
            top.tick_params(labelbottom=False)
        top.set_title(literal(name), fontsize=9)
        bottom.axis("on")
        bottom.imshow(features.T, origin="lower", aspect="auto", cmap="magma")
    panels[1, 0].set_xlabel("frame")
    panels[1, 0].set_ylabel("bin")
    if path:
        figure.savefig(path, dpi=100)
    return figure


def tokens(
    features: np.ndarray, ids: np.ndarray, names: Sequence[str], size: int, path: pathlib.Path | None = None
) -> Figure:
    """Spectrograms, and below each the tokens of its patches as numbers and colours.

    Args:
        features: (N, frames, bins).
        ids: (N, rows, columns) tokens.
        names: (N,) titles.
        size: frames and bins of a patch.
        path: file to write; None only returns the figure.
    """
    features, ids = np.asarray(features), np.asarray(ids)
    count, rows, columns = ids.shape
    # Tokens with similar numbers are not similar, so hues are shuffled, with a fixed seed.
    hues = np.random.default_rng(0).permutation(int(ids.max()) + 1)
    figure = Figure(figsize=(3.6 * count, 4.8), layout="constrained")
    panels = figure.subplots(2, count, squeeze=False)
    for (top, bottom), image, patches, name in zip(panels.T, features, ids, names, strict=True):
        covered = image[: rows * size, : columns * size].T
        layout: dict[str, Any] = {
            "origin": "lower",
            "aspect": "auto",
            "extent": (0, rows * size, 0, columns * size),
        }
        top.imshow(covered, cmap="magma", **layout)
        top.set_title(literal(name), fontsize=9)
        bottom.imshow(covered, cmap="gray", **layout)
        bottom.imshow(hues[patches].T, cmap="hsv", alpha=0.4, vmin=0, vmax=len(hues), **layout)
        if rows * columns <= 256:
            for row, column in np.ndindex(rows, columns):
                middle = (row + 0.5) * size, (column + 0.5) * size
                number = bottom.text(*middle, patches[row, column], ha="center", va="center", fontsize=6, color="white")
                number.set_path_effects([withStroke(linewidth=1, foreground="black")])  # on bright and dark patches
        bottom.set_xlabel("frame")
    panels[0, 0].set_ylabel("bin")
    panels[1, 0].set_ylabel("tokens of patches")
    if path:
        figure.savefig(path, dpi=120)
    return figure


@dataclasses.dataclass(frozen=True)
class ScorePanel:
    """Scores on one data set.

    Attributes:
        title: above the panel.
        metric_label: of the task.
        scores: (name, value, low, high) of each run, shares from 0 to 1, in the order of the rows.
        published: (name, value) of published results without an interval.
    """

    title: str
    metric_label: str
    scores: Sequence[tuple[str, float, float, float]]
    published: Sequence[tuple[str, float]] = ()


def _score_panel(axes: Axes, panel: ScorePanel) -> None:
    names, values, lows, highs = zip(*panel.scores, strict=True)
    middle, low, high = 100 * np.array(values), 100 * np.array(lows), 100 * np.array(highs)
    # A mean over folds of different size can lie outside the interval over all clips. Bars have no negative length.
    bars = np.maximum([middle - low, high - middle], 0)
    axes.errorbar(middle, range(len(names)), xerr=bars, fmt="o", color=_BLUE, capsize=3, label="measured, 95 %")
    labels = [*names, *(name for name, _ in panel.published)]
    if panel.published:
        positions = range(len(names), len(labels))
        published = [100 * value for _, value in panel.published]
        style: dict[str, Any] = {"marker": "D", "markerfacecolor": "none", "markeredgecolor": _ORANGE, "linestyle": ""}
        axes.plot(published, positions, label="published, no interval", **style)
        axes.axhline(len(names) - 0.5, color="grey", linewidth=0.6)
        axes.legend(fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)
    axes.set_yticks(range(len(labels)), list(map(literal, labels)), fontsize=8)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_xlim(right=100.5)
    axes.grid(axis="x", alpha=0.3)
    axes.set_title(literal(panel.title), fontsize=10, loc="left")


def scores(panels: Sequence[ScorePanel], path: pathlib.Path | None = None) -> Figure:
    """Scores of runs with their intervals, in one panel for each data set.

    Args:
        panels: data sets.
        path: file to write; None only returns the figure.
    """
    rows = [len(panel.scores) + len(panel.published) for panel in panels]
    figure = Figure(figsize=(9, 1.1 * len(panels) + 0.3 * sum(rows)), layout="constrained")
    grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=[number + 2 for number in rows])[:, 0]
    for place, (axes, panel) in enumerate(zip(grid, panels, strict=True)):
        _score_panel(axes, panel)
        if place == len(panels) - 1 or panels[place + 1].metric_label != panel.metric_label:
            axes.set_xlabel(f"{panel.metric_label}, %")
    if path:
        figure.savefig(path, dpi=120)
    return figure


def _reliability_panel(top: Axes, bottom: Axes, title: str, before: Reliability, after: Reliability | None) -> None:
    top.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
    diagrams = [(before, _BLUE, "o-", f"without temperature, ECE {100 * before.ece:.1f} %")]
    if after is not None:
        diagrams.append((after, _ORANGE, "s--", f"with temperature, ECE {100 * after.ece:.1f} %"))
    for one, colour, style, label in diagrams:
        used = one.count > 0
        top.plot(one.confidence[used], one.frequency[used], style, color=colour, markersize=4, label=label)
    top.set(xlim=(0, 1), ylim=(0, 1.02))
    top.tick_params(labelbottom=False)
    top.set_ylabel("observed frequency", fontsize=8)
    top.set_title(literal(title), fontsize=9)
    top.legend(fontsize=7, loc="lower right")
    bottom.stairs(before.count, before.edges, fill=True, color=_BLUE, alpha=0.6)
    bottom.set(xlim=(0, 1))
    bottom.set_xlabel("predicted probability", fontsize=8)
    bottom.set_ylabel("predictions", fontsize=8)
    if before.count.max() > 100 * max(np.median(before.count), 1):  # most classes of most clips are improbable
        bottom.set_yscale("log")


def reliability(
    panels: Sequence[tuple[str, Reliability, Reliability | None]], path: pathlib.Path | None = None
) -> Figure:
    """Reliability diagrams: observed frequency over predicted probability, and the predictions in each bin.

    A prediction is the decision on a clip, or each class of each clip (`Task.calibration_pairs`).

    Args:
        panels: (title, diagram, diagram after temperature scaling or None).
        path: file to write; None only returns the figure.
    """
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.6 * columns, 4.4 * rows), layout="constrained")
    grid = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=[3, 1] * rows)
    for axes in grid.flat:
        axes.axis("off")
    for place, (title, before, after) in enumerate(panels):
        top, bottom = grid[2 * (place // columns) : 2 * (place // columns) + 2, place % columns]
        top.axis("on")
        bottom.axis("on")
        _reliability_panel(top, bottom, title, before, after)
    if path:
        figure.savefig(path, dpi=120)
    return figure


def spectrogram(waveform: np.ndarray, sample_rate: int, path: pathlib.Path | IO[bytes] | None = None) -> Figure:
    """Mel spectrogram of a clip in dB relative to its maximum, down to −80 dB. Computed with numpy, without a device.

    Args:
        waveform: (time,) in [−1, 1].
        sample_rate: Hz.
        path: file to write, as a path or a file object; None only returns the figure.
    """

    size, hop, bands = 2048, max(1, sample_rate // 100), 96
    waveform = np.pad(np.asarray(waveform, np.float32), size // 2)
    frames = np.lib.stride_tricks.sliding_window_view(waveform, size)[::hop] * np.hanning(size + 1)[:-1]
    bank = mel_bank(sample_rate, size, bands, 20.0, sample_rate / 2, False)
    level = 10 * np.log10(np.maximum((np.abs(np.fft.rfft(frames)) ** 2) @ bank, 1e-10))
    figure = Figure(figsize=(3.6, 1.7), layout="constrained")
    axes = figure.add_subplot()
    top, mels = level.max(), hz_to_mel(np.array([20.0, sample_rate / 2]))
    extent = (0, len(level) * hop / sample_rate, *mels)
    axes.imshow(level.T, origin="lower", aspect="auto", cmap="magma", vmin=top - 80, vmax=top, extent=extent)
    ticks = [f for f in (250, 1000, 4000, 16_000) if f < sample_rate / 2]
    axes.set_yticks(hz_to_mel(np.array(ticks)), [f"{f / 1000:g}" for f in ticks])
    axes.tick_params(labelsize=7)
    axes.set_ylabel("kHz", fontsize=7)
    axes.set_xlabel("s", fontsize=7, labelpad=0)
    if path:
        figure.savefig(path, dpi=100, format="png")
    return figure
