"""Clips → batches, with grain: shuffled, sharded over processes, resumable to the batch."""

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
) -> Any:
    """Endless batches of training clips, freshly shuffled every epoch, the incomplete last batch of an epoch dropped.

    The order is drawn for the global batch, of which a process reads its own rows: any number of processes sees
    the same global batches. The iterator has grain's `get_state()` and `set_state()`.

    Args:
        clips: the data set.
        indices: the clips to train on.
        batch_size: global batch size.
        seed: of the order.
        process_index, process_count: this process among all.
        prefetch: batches read ahead, in threads.

    Yields:
        {"audio": (rows, length) int16, "label": (rows,) int32}, rows = batch_size / process_count, and where clips are
        `masked` "samples": (rows,) int32, those that are no padding.
    """
    indices = np.asarray(indices)
    rows = batch_size // process_count

    def read(places: np.ndarray) -> Batch:
        own = indices[places[process_index * rows : (process_index + 1) * rows]]
        return {"audio": clips.read(own), "label": clips.labels[own]} | _samples(clips, own)

    # Batching before repeating keeps epochs apart; grain reshuffles with every repetition.
    data = grain.MapDataset.range(len(indices)).shuffle(seed=seed).batch(batch_size, drop_remainder=True).repeat()
    return iter(data.map(read).to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=prefetch)))


def eval_batches(clips: Clips, indices: Sequence[int], batch_size: int) -> Iterator[Batch]:
    """Every clip once, in order, all batches of one shape: the last is filled up with silence.

    Yields:
        {"audio": (batch_size, length) int16, "label": (batch_size,) int32, "mask": (batch_size,) bool, false in the
        filling}, and "samples" as in `train_batches`.
    """
    starts = range(0, len(indices), batch_size)

    def read(start: int) -> Batch:
        own = np.asarray(indices[start : start + batch_size])
        fill = batch_size - len(own)
        return {
            "audio": np.pad(clips.read(own), ((0, fill), (0, 0))),
            "label": np.pad(clips.labels[own], (0, fill)),
            "mask": np.arange(batch_size) < len(own),
        } | {key: np.pad(value, (0, fill), mode="edge") for key, value in _samples(clips, own).items()}

    data = grain.MapDataset.source(starts).map(read)
    return iter(data.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)))


def inputs(batch: Batch) -> tuple[np.ndarray, ...]:
    """What a step of `training.step` that predicts takes after the variables: `audio`, and `samples` if it is there."""
    return tuple(batch[key] for key in ("audio", "samples") if key in batch)


def _samples(clips: Clips, indices: np.ndarray) -> Batch:
    return {"samples": clips.valid(indices)} if clips.masked else {}
