"""Pictures of runs, data and augmentations. matplotlib without a screen; imported only where a picture is made."""

from collections.abc import Sequence
import pathlib
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
import numpy as np


def confusion_matrix(table: np.ndarray, classes: Sequence[str], title: str, path: pathlib.Path | None = None) -> Figure:
    """Confusion matrix as a picture: shares of each true class as colour, counts as numbers.

    Args:
        table: (classes, classes) counts, rows true.
        classes: names.
        title: above it.
        path: where to save it; None only returns the figure.
    """
    table = np.asarray(table)
    n = len(classes)
    size = max(5.0, 0.24 * n + 2.5)
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.add_subplot()
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    names = [c.replace("_", " ") for c in classes]
    font = 9 if n <= 20 else 6.5
    axes.set_xticks(range(n), names, rotation=90, fontsize=font)
    axes.set_yticks(range(n), names, fontsize=font)
    for row, column in zip(*np.nonzero(table), strict=True):
        colour = "white" if share[row, column] > 0.6 else "black"
        axes.text(column, row, table[row, column], ha="center", va="center", fontsize=font - 0.5, color=colour)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(title, fontsize=10)
    figure.colorbar(image, ax=axes, shrink=0.5, label="share of the true class")
    if path:
        figure.savefig(path, dpi=120)
    return figure


def curves(
    history: Sequence[dict[str, Any]],
    title: str,
    path: pathlib.Path | None = None,
    pretext: Sequence[dict[str, Any]] = (),
) -> Figure:
    """Loss, accuracy and learning rate over epochs; of two stages one above the other.

    Args:
        history: a line per epoch: `epoch`, `loss`, `accuracy`, `lr`, and `val_loss`, `val_accuracy` where the protocol
            looks at them.
        title: above it.
        path: where to save it; None only returns the figure.
        pretext: of a pretraining, with `pretext_accuracy`, and here and there `knn_accuracy`.
    """
    rows = [(history, "", {"accuracy": "training (augmented)", "val_accuracy": "held out"})]
    if pretext:
        shown = {"pretext_accuracy": "pretext task", "knn_accuracy": "5 nearest neighbours, training folds"}
        rows.insert(0, (pretext, "pretraining: ", shown))
    figure = Figure(figsize=(11, 0.4 + 3.0 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), 3, squeeze=False)
    for line_of_panels, (lines, stage, shares) in zip(panels, rows, strict=True):
        losses = {"loss": "training (augmented)", "val_loss": "held out"}
        for axes, series, name in zip(
            line_of_panels, (losses, shares, {"lr": ""}), ("loss", "accuracy", "learning rate"), strict=True
        ):
            for key, label in series.items():
                seen = [(line["epoch"], line[key]) for line in lines if key in line]
                if seen:
                    axes.plot(*zip(*seen, strict=True), label=label, marker="." if len(seen) < 3 else "")
            axes.set_xlabel("epoch")
            axes.set_title(stage + name, fontsize=10)
            axes.grid(alpha=0.3)
        line_of_panels[1].set_ylim(0, 1)
        line_of_panels[1].legend(fontsize=8)
    figure.suptitle(title, fontsize=10)
    if path:
        figure.savefig(path, dpi=120)
    return figure


def augmentations(views: dict[str, np.ndarray], sample_rate: int, frontend, path: pathlib.Path | None = None) -> Figure:
    """Waveform and features of one clip under each of several augmentations, for a notebook.

    Args:
        views: name → (time,) waveform, or (frames, bins) features: `augment.compose.gallery`.
        sample_rate: Hz.
        frontend: waveform → features.
        path: where to save it; None only returns the figure.
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
        top.set_title(name, fontsize=9)
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
    """Spectrograms, and below them again under the tokens of their patches: a number and a colour for each token.

    Args:
        features: (N, frames, bins).
        ids: (N, rows, columns).
        names: N titles.
        size: frames and bins of a patch.
        path: where to save it; None only returns the figure.
    """
    features, ids = np.asarray(features), np.asarray(ids)
    count, rows, columns = ids.shape
    # Numbers that differ by one are neighbours to nobody: hues are shuffled, the same way every time.
    hues = np.random.default_rng(0).permutation(int(ids.max()) + 1)
    figure = Figure(figsize=(3.6 * count, 4.8), layout="constrained")
    panels = figure.subplots(2, count, squeeze=False)
    for (top, bottom), spectrogram, own, name in zip(panels.T, features, ids, names, strict=True):
        seen = spectrogram[: rows * size, : columns * size].T
        place = {"origin": "lower", "aspect": "auto", "extent": (0, rows * size, 0, columns * size)}
        top.imshow(seen, cmap="magma", **place)
        top.set_title(name, fontsize=9)
        bottom.imshow(seen, cmap="gray", **place)
        bottom.imshow(hues[own].T, cmap="hsv", alpha=0.4, vmin=0, vmax=len(hues), **place)
        if rows * columns <= 256:
            for row, column in np.ndindex(rows, columns):
                middle = (row + 0.5) * size, (column + 0.5) * size
                number = bottom.text(*middle, own[row, column], ha="center", va="center", fontsize=6, color="white")
                number.set_path_effects([withStroke(linewidth=1, foreground="black")])  # on bright and dark patches
        bottom.set_xlabel("frame")
    panels[0, 0].set_ylabel("bin")
    panels[1, 0].set_ylabel("tokens of patches")
    if path:
        figure.savefig(path, dpi=120)
    return figure


def accuracies(
    panels: dict[str, Sequence[tuple[str, float, float, float]]],
    published: dict[str, Sequence[tuple[str, float]]] | None = None,
    path: pathlib.Path | None = None,
) -> Figure:
    """Accuracies with their intervals, a panel for each data set, the best on top.

    Args:
        panels: data set → (name, accuracy, low, high), shares from 0 to 1, in the order of the rows.
        published: data set → (name, accuracy) of figures that come without an interval, drawn hollow below ours.
        path: where to save it; None only returns the figure.
    """
    published = published or {}
    rows = {name: len(entries) + len(published.get(name, ())) for name, entries in panels.items()}
    figure = Figure(figsize=(9, 1.1 * len(panels) + 0.3 * sum(rows.values())), layout="constrained")
    stacked = figure.subplots(len(panels), 1, squeeze=False, height_ratios=[r + 2 for r in rows.values()])[:, 0]
    for axes, (data, entries) in zip(stacked, panels.items(), strict=True):
        names, values, lows, highs = zip(*entries, strict=True)
        middle, low, high = 100 * np.array(values), 100 * np.array(lows), 100 * np.array(highs)
        # A mean over unequal folds may lie outside an interval of all clips: no bar has a negative length.
        bars = np.maximum([middle - low, high - middle], 0)
        axes.errorbar(middle, range(len(names)), xerr=bars, fmt="o", color="#1f6f8b", capsize=3, label="ours, 95 %")
        labels = list(names)
        if extra := published.get(data, ()):
            places = range(len(names), len(names) + len(extra))
            axes.plot(
                [100 * v for _, v in extra],
                places,
                "D",
                mfc="none",
                mec="#b35900",
                ls="",
                label="published, no interval",
            )
            axes.axhline(len(names) - 0.5, color="grey", linewidth=0.6)
            axes.legend(fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)
            labels += [name for name, _ in extra]
        axes.set_yticks(range(len(labels)), labels, fontsize=8)
        axes.set_ylim(len(labels) - 0.4, -0.6)
        axes.set_xlim(right=100.5)
        axes.grid(axis="x", alpha=0.3)
        axes.set_title(data, fontsize=10, loc="left")
    stacked[-1].set_xlabel("accuracy, %")
    if path:
        figure.savefig(path, dpi=120)
    return figure


def reliability(panels: Sequence[tuple[str, Any, Any]], path: pathlib.Path | None = None) -> Figure:
    """Reliability diagrams: accuracy over confidence, bin by bin, with the number of clips in each.

    Args:
        panels: (title, `statistics.Reliability`, the one after temperature scaling or None), a panel each.
        path: where to save it; None only returns the figure.
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
        top.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
        shown = [(before, "#1f6f8b", "o-", f"as trained, ECE {100 * before.ece:.1f} %")]
        if after is not None:
            shown.append((after, "#b35900", "s--", f"with temperature, ECE {100 * after.ece:.1f} %"))
        for found, colour, style, label in shown:
            full = found.count > 0
            top.plot(found.confidence[full], found.accuracy[full], style, color=colour, markersize=4, label=label)
        top.set(xlim=(0, 1), ylim=(0, 1.02))
        top.tick_params(labelbottom=False)
        top.set_ylabel("share that is right", fontsize=8)
        top.set_title(title, fontsize=9)
        top.legend(fontsize=7, loc="lower right")
        bottom.axis("on")
        bottom.stairs(before.count, before.edges, fill=True, color="#1f6f8b", alpha=0.6)
        bottom.set(xlim=(0, 1))
        bottom.set_xlabel("confidence", fontsize=8)
        bottom.set_ylabel("clips", fontsize=8)
    if path:
        figure.savefig(path, dpi=120)
    return figure


def spectrogram(waveform: np.ndarray, sample_rate: int, path: Any = None) -> Figure:
    """Mel spectrogram of a clip in decibels below its loudest point, down to -80, for a person to look at.

    Plain numpy: a picture for a report needs no device.

    Args:
        waveform: (time,) in [-1, 1]; silence gives an empty picture.
        sample_rate: Hz.
        path: where to save it, a path or a file; None only returns the figure.
    """
    from esc_jax.frontends.log_mel import hz_to_mel, mel_bank

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
