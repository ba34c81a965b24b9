"""Batches of clips, with grain: shuffled, sharded over processes, resumable at any batch."""

from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np

from esc_jax.data.clips import Clips

Batch = dict[str, np.ndarray]


def train_batches(
    clips: Clips,
    indices: Sequence[int],
    batch_size: int,
    seed: int,
    *,
    process_index: int = 0,
    process_count: int = 1,
    prefetch: int = 8,
    weights: np.ndarray | None = None,
    index_only: bool = False,
) -> Any:
    """Iterates over training clips without end. Every epoch is shuffled anew; its incomplete last batch is dropped.

    The order is that of the global batches, of which every process reads its own rows: the global batches do not
    depend on the number of processes. The iterator has grain's `get_state()` and `set_state()`.

    Args:
        clips: the data set.
        indices: the clips to train on.
        batch_size: global batch size.
        seed: of the order.
        process_index, process_count: this process among all.
        prefetch: batches read ahead, in threads.
        weights: (len(indices),) probabilities of the clips. Every row of a batch is then drawn by them, with
            replacement; an epoch has as many batches as without.
        index_only: yield {"index": (rows,) int32} instead, the clips of the same batches (`data.resident`).

    Yields:
        {"audio": (rows, length) int16, "label": (rows,) int32 or (rows, classes) bool}, with rows = batch_size /
        process_count, and, if the clips are `masked`, "samples": (rows,) int32, the number of samples that are not
        padding.
    """
    clip_indices = np.asarray(indices)
    rows = batch_size // process_count

    def read(positions: np.ndarray) -> Batch:
        chosen = clip_indices[positions[process_index * rows : (process_index + 1) * rows]]
        if index_only:
            return {"index": chosen.astype(np.int32)}
        return read_rows(clips, chosen)

    # Batching before repeating: no batch spans two epochs. grain reshuffles with every repetition.
    order = grain.MapDataset.range(len(clip_indices)).shuffle(seed=seed)
    if weights is not None:
        order = order.random_map(_WeightedDraw(weights), seed=seed)
    data = order.batch(batch_size, drop_remainder=True).repeat()
    return iter(data.map(read).to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=prefetch)))


class _WeightedDraw(grain.transforms.RandomMap):
    """Replaces each position by a random one.

    Args:
        weights: (n,) probabilities of the positions 0 … n − 1, up to a common factor.
    """

    def __init__(self, weights: np.ndarray):
        self._limits = np.cumsum(weights) / np.sum(weights)

    def random_map(self, element: int, rng: np.random.Generator) -> int:
        """A random position, whatever `element` is."""
        return int(np.searchsorted(self._limits, rng.random(), side="right"))


def eval_batches(clips: Clips, indices: Sequence[int], batch_size: int) -> Iterator[Batch]:
    """Iterates over clips once, in order. All batches have one shape: the last is filled with silence.

    Yields:
        {"audio": (batch_size, length) int16, "label" as in `train_batches`, "mask": (batch_size,) bool, false for
        rows that are filled}, and "samples" as in `train_batches`.
    """
    starts = range(0, len(indices), batch_size)

    def read(start: int) -> Batch:
        chosen = np.asarray(indices[start : start + batch_size])
        fill = batch_size - len(chosen)
        return {
            "audio": np.pad(clips.read(chosen), ((0, fill), (0, 0))),
            "label": np.pad(clips.labels[chosen], [(0, fill), *[(0, 0)] * (clips.labels.ndim - 1)]),
            "mask": np.arange(batch_size) < len(chosen),
        } | {key: np.pad(value, (0, fill), mode="edge") for key, value in _samples(clips, chosen).items()}

    data = grain.MapDataset.source(starts).map(read)
    return iter(data.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)))


def inputs(batch: Batch) -> tuple[np.ndarray, ...]:
    """Returns what a predicting step (`training.step`) takes after the variables: `audio`, and `samples` if any."""
    return tuple(batch[key] for key in ("audio", "samples") if key in batch)


def read_rows(clips: Clips, indices: Sequence[int] | np.ndarray) -> Batch:
    """The clips of a batch, as `train_batches` yields them."""
    chosen = np.asarray(indices)
    return {"audio": clips.read(chosen), "label": clips.labels[chosen]} | _samples(clips, chosen)


def _samples(clips: Clips, indices: np.ndarray) -> Batch:
    return {"samples": clips.valid(indices)} if clips.masked else {}
