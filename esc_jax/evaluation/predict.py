"""One pass of a model over a list of clips."""

from collections.abc import Callable, Sequence
import functools
from typing import Any

import jax
import numpy as np

from esc_jax.data import pipeline
from esc_jax.data.clips import Clips
from esc_jax.data.resident import ResidentClips
from esc_jax.runtime import devices


def predict_clips(
    step: Callable[..., Any],
    variables: Any,
    clips: Clips,
    indices: Sequence[int],
    batch_size: int,
    resident: ResidentClips | None = None,
) -> Any:
    """(views, len(indices), …) float32: the outputs of every clip once, for any batch size.

    If the step returns several arrays, the result has the same structure.

    Args:
        step: (variables, (B, time) int16) → (views, B, …), of `training.step`. It also receives `samples` where clips
            have a padding mask.
        variables: weights of the model.
        clips: the data set.
        indices: of the clips, in the order of the result.
        batch_size: clips at a time. The last batch is padded, and the outputs of the padding are dropped.
        resident: the same clips on the devices; None reads them from the host.
    """
    outputs = []
    on_host = functools.partial(pipeline.eval_batches, clips)
    for batch in (resident.eval_batches if resident else on_host)(indices, batch_size):
        inputs = devices.to_device(pipeline.inputs(batch))
        outputs.append(jax.tree.map(lambda x, mask=batch["mask"]: np.asarray(x)[:, mask], step(variables, *inputs)))
    return jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *outputs)
