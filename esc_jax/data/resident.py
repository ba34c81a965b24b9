"""A data set in the memory of the devices: steps read their clips by index, and the host sends no audio."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import logging
import jax
import numpy as np

from esc_jax.data import pipeline
from esc_jax.data.clips import Clips
from esc_jax.errors import ConfigError
from esc_jax.runtime import devices

MODES = ("auto", "true", "false")
# Largest share of a device's memory that `data.on_device=auto` uses. The rest is for weights and activations.
MEMORY_SHARE = 0.25

Arrays = dict[str, jax.Array]


def gather(arrays: Arrays, index: jax.Array) -> Arrays:
    """The rows of a batch: arrays (N, …), (rows,) → arrays (rows, …)."""
    return jax.tree.map(lambda x: x[index], arrays)


_gather = jax.jit(gather)


class ResidentClips:
    """All clips of a data set, and their background, on every device of this process.

    Args:
        clips: the data set.

    Attributes:
        arrays: {"audio": (N, length) int16, "label": as in `Clips`}, and, if the clips are `masked`, "samples": (N,)
            int32; those of `clips.with_background()`.
    """

    def __init__(self, clips: Clips):
        whole = clips.with_background()
        self.arrays: Arrays = devices.replicate(pipeline.read_rows(whole, range(len(whole))))
        # If the background alone has padding, the batches of an evaluation have no lengths.
        self._eval_arrays = {key: value for key, value in self.arrays.items() if key != "samples" or clips.masked}

    def eval_batches(self, indices: Sequence[int], batch_size: int) -> Iterator[dict[str, Any]]:
        """As `pipeline.eval_batches`, with arrays on the devices. The last batch is filled with its last clip."""
        for start in range(0, len(indices), batch_size):
            chosen = np.asarray(indices[start : start + batch_size], np.int32)
            rows = np.pad(chosen, (0, batch_size - len(chosen)), mode="edge")
            yield _gather(self._eval_arrays, rows) | {"mask": np.arange(batch_size) < len(chosen)}


def gathered(step: Callable[..., Any]) -> Callable[..., Any]:
    """A training step whose batches are {"index": (rows,)} and whose constants are (`ResidentClips.arrays`, constants).

    Args:
        step: (state, batch, constants) → (state, metrics), with the batches of `pipeline.train_batches`.
    """
    return lambda state, batch, constants: step(state, gather(constants[0], batch["index"]), constants[1])


def place(clips: Clips, mode: str) -> ResidentClips | None:
    """Copies the clips to the devices, or returns None where batches are to be read from the host.

    Args:
        clips: the data set.
        mode: "true", "false", or "auto": where a device has a memory of its own and `MEMORY_SHARE` of it is enough. On
            a CPU, the copy would be in the memory that the clips are read from.

    Raises:
        ConfigError: mode is "true", and the clips are larger than the memory of a device.
    """
    if mode == "false":
        return None
    needed, memory = 2 * len(clips.with_background()) * clips.length, devices.memory_bytes()
    if mode == "auto":
        if memory is None:
            return None
        if needed > MEMORY_SHARE * memory:
            logging.info("the clips (%.1f GB) stay on the host: a device has %.1f GB", needed / 1e9, memory / 1e9)
            return None
    if memory is not None and needed > memory:
        raise ConfigError(
            f"config.data.on_device=true: the clips take {needed / 1e9:.1f} GB, and a device has {memory / 1e9:.1f} GB"
        )
    resident = ResidentClips(clips)
    logging.info("the clips are kept on the device (%.0f MB)", needed / 1e6)
    return resident
