"""Pictures of runs, data and augmentations. matplotlib without a screen; imported only where a picture is made."""

from collections.abc import Sequence
import pathlib
from typing import Any

import matplotlib

matplotlib.use("Agg", force=False)

from matplotlib.figure import Figure
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


def curves(history: Sequence[dict[str, Any]], title: str, path: pathlib.Path | None = None) -> Figure:
    """Loss, accuracy and learning rate over epochs.

    Args:
        history: a line per epoch: `epoch`, `loss`, `accuracy`, `lr`, and `val_loss`, `val_accuracy` where the protocol
            looks at them.
        title: above it.
        path: where to save it; None only returns the figure.
    """
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    epochs = [line["epoch"] for line in history]
    panels = figure.subplots(1, 3)
    for axes, key, name in zip(panels, ("loss", "accuracy", "lr"), ("loss", "accuracy", "learning rate"), strict=True):
        axes.plot(
            epochs, [line[key] for line in history], label="training (augmented)", marker="." if len(epochs) < 3 else ""
        )
        seen = [(line["epoch"], line[f"val_{key}"]) for line in history if f"val_{key}" in line]
        if seen:
            axes.plot(*zip(*seen, strict=True), label="held out")
        axes.set_xlabel("epoch")
        axes.set_title(name, fontsize=10)
        axes.grid(alpha=0.3)
    panels[1].set_ylim(0, 1)
    panels[0].legend(fontsize=8)
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
