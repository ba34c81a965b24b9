"""One pass of a model over a list of clips."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from esc_jax.data import pipeline
from esc_jax.data.clips import Clips
from esc_jax.runtime import devices


def predict_clips(
    predict: Callable[..., jax.Array], variables: Any, clips: Clips, indices: Sequence[int], batch_size: int
) -> np.ndarray:
    """(views, len(indices), D) float32: every clip once, whatever the batch size.

    Args:
        predict: (variables, (B, time) int16) → (views, B, D): a step of `training.step` that changes nothing. It gets
            `samples` too where the clips are `masked`.
        variables: weights of the model.
        clips: the data set.
        indices: of the clips, in the order of the result.
        batch_size: clips at a time; the last batch is filled up and its filling dropped.
    """
    done = []
    for batch in pipeline.eval_batches(clips, indices, batch_size):
        inputs = devices.to_device(pipeline.inputs(batch))
        done.append(np.asarray(predict(variables, *inputs))[:, batch["mask"]])
    return np.concatenate(done, axis=1)
